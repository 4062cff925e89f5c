"""Classes by several readers: what a table says, what heads learn of it, what a model is held against."""

import numpy as np
import pytest
from PIL import Image

from medspectrum.agreement import agreement
from medspectrum.datasets import load
from medspectrum.describe import describe
from medspectrum.errors import UserError

WIDE = """image,patient,anna,bert,carl,age
0.png,p0,2,2,1,40
1.png,p0,1,1,1,41
2.png,p1,3,1,,42
3.png,p2,,,,43
4.png,p3,,10,,44
"""


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        grey = np.full((8, 9), 20 * number, np.uint8)
        grey[number, : number + 1] = 255
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    (tmp_path / "wide.csv").write_text(WIDE)
    lines = [line.split(",") for line in WIDE.strip().splitlines()[1:]]
    long = ["image,patient,rater,label,age"]
    for who in (0, 1, 2):  # the rows of an image lie apart
        long += [
            f"{name},{of},{('anna', 'bert', 'carl')[who]},{told[who]},{age}" for name, of, *told, age in lines
        ]
    (tmp_path / "long.csv").write_text("\n".join(long))
    return tmp_path


def test_a_column_for_each_reader_and_a_row_for_each_are_the_same_cases(folder):
    wide = load(folder / "wide.csv", label="anna,bert,carl")
    assert [c.target and c.target.label for c in wide.cases] == ["2", "1", "1", None, "10"]
    assert wide.cases[0].target.readers == (("anna", "2"), ("bert", "2"), ("carl", "1"))
    assert wide.cases[0].target.shares() == {"2": pytest.approx(2 / 3), "1": pytest.approx(1 / 3)}
    assert wide.cases[4].target.readers == (("bert", "10"),)
    assert wide.cases[2].record == {"age": "42"}, "what readers said is no fact about the case"
    assert wide.labels() == ("1", "2", "10")
    ties = [words for words in wide.warnings if "tie on" in words]
    assert len(ties) == 1
    assert "tie on 1 of 4 cases (such as 2.png)" in ties[0]

    long = load(folder / "long.csv")
    assert [(c.id, c.patient, c.target, c.record) for c in long.cases] == [
        (c.id, c.patient, c.target, c.record) for c in wide.cases
    ]
    assert any("'rater'" in words and "joined" in words for words in long.warnings)
    assert load(folder / "long.csv", reader="rater").cases == long.cases
    assert describe(folder / "wide.csv", label="anna,bert,carl", quiet=True)["classes"] == {
        "1": 2, "2": 1, "10": 1,
    }  # fmt: skip


def test_the_majority_is_that_of_the_agreement(folder):
    agreement(folder / "wide.csv", case="image", readers="anna,bert,carl", out=folder / "m.csv", quiet=True)
    rows = [line.split(",") for line in (folder / "m.csv").read_text().splitlines()[1:]]
    cases = load(folder / "wide.csv", label="anna,bert,carl").cases
    assert {r[0]: r[3] for r in rows} == {c.id: c.target.label for c in cases if c.target}


def test_one_label_a_case_stays_what_it_was(folder):
    (folder / "one.csv").write_text("image,reader,label\n0.png,anna,a\n1.png,bert,b\n")
    cases = load(folder / "one.csv").cases
    assert [(c.target.label, c.target.readers) for c in cases] == [("a", ()), ("b", ())]
    assert [c.record for c in cases] == [{"reader": "anna"}, {"reader": "bert"}]
    (folder / "comma.csv").write_text('image,"a,b"\n0.png,x\n1.png,y\n')
    assert load(folder / "comma.csv", label="a,b").labels() == ("x", "y")


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ("0.png,p,anna,1\n0.png,p,anna,2", {}, "line 3: reader anna gives an image two labels .1 and 2."),
        ("0.png,p,anna,1\n0.png,q,bert,1", {}, "line 3 gives the image of line 2 another patient .q and p."),
        ("0.png,p,anna,1", {"reader": "who"}, "has no column 'who' for reader"),
        ("0.png,p,anna,1", {"label": "label,rater,nobody"}, "has no column 'nobody' for label"),
        ("0.png,p,anna,1", {"label": "label,patient", "reader": "rater"}, "not both"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(folder, rows, settings, said):
    (folder / "t.csv").write_text(f"image,patient,rater,label\n{rows}\n")
    with pytest.raises(UserError, match=said):
        load(folder / "t.csv", **settings)


def test_a_label_of_nobody_is_left_out_and_named(folder):
    (folder / "t.csv").write_text("image,rater,label\n0.png,anna,1\n0.png,,2\n1.png,bert,2\n1.png,anna,\n")
    found = load(folder / "t.csv")
    assert [c.target.readers for c in found.cases] == [(("anna", "1"),), (("bert", "2"),)]
    assert [(x.source, x.reason) for x in found.left_out] == [
        ("line 3", "has a label but no reader in column 'rater'")
    ]

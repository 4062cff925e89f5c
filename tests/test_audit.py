"""The audit fails where a shortcut or a leak stands in the data, and not where it does not."""

import json

import numpy as np
import pytest
from PIL import Image as pil
from PIL import ImageDraw

import medspectrum
from made_cases import PATTERN, make_folder
from medspectrum import leaning
from medspectrum import scan as scan_module
from medspectrum.audit import kept_together, names_of
from medspectrum.case import Case, ClassTarget
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.leakage.findings import accepted, of_leaks, of_overlaps, standing
from medspectrum.leakage.known import known_as
from medspectrum.leakage.shortcuts import probes
from medspectrum.traces import NAMES, traces
from test_describe import blobs

SIDE = 48


def picture(number):
    return pil.fromarray(blobs(number, SIDE))


def table(place, cases=40, *, change=None, columns=None):
    """Cases of two classes, a patient each; change draws on a picture, columns adds words."""
    words = columns(0, 0) if columns else {}
    lines = [",".join(["image", "label", "patient", *words])]
    for n in range(cases):
        own = n % 2
        made = change(picture(n), own) if change else picture(n)
        made.save(place / f"{n}.png")
        row = columns(own, n) if columns else {}
        lines.append(",".join([f"{n}.png", "ab"[own], f"N{n}", *map(str, row.values())]))
    (place / "t.csv").write_text("\n".join(lines))
    return place / "t.csv"


def audited(path, **settings):
    return medspectrum.audit(path, cache=path.parent / "cache", quiet=True, **settings)


def failing(found):
    return [f["name"] for f in found["findings"] if f["fails"]]


def test_a_clean_set_passes(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.permutation(40) % 3
    found = audited(table(tmp_path, columns=lambda _, n: {"hospital": f"H{centres[n]}", "age": 30 + n}))
    assert found["passed"]
    assert failing(found) == []
    assert {"centre", "column age", "size", "marks"} & {p["name"] for p in found["probes"]}
    json.dumps(found, allow_nan=False)


def test_the_centre_is_the_class(tmp_path):
    place = table(tmp_path, columns=lambda own, _: {"hospital": ("north", "south")[own]})
    found = audited(place, out=tmp_path / "out")
    assert failing(found) == ["centre-is-class"]
    assert not found["passed"]
    (probe,) = [p for p in found["probes"] if p["name"] == "centre"]
    assert probe["auc"]["value"] == 1
    assert probe["chance"][1] < 0.8
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["findings"] == found["findings"]
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "centre-is-class" in page
    assert "A good score on these data may mean little" in page
    told = audited(place, accept="centre-is-class")
    assert told["passed"]
    assert told["findings"][0]["accepted"]


def write_on(made, own):
    if own:
        ImageDraw.Draw(made).text((2, 1), "L3", fill=255, font_size=12)
    return made


def frame(made, own):
    if own:
        made.paste(0, (0, 0, SIDE, 4))
        made.paste(0, (0, SIDE - 4, SIDE, SIDE))
    return made


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (write_on, "marks-is-class"),
        (frame, "border-is-class"),
        (lambda p, own: p.resize((SIDE + 8, SIDE)) if own else p, "size-is-class"),
        (lambda p, own: p.convert("RGB") if own else p, "format-is-class"),
    ],
)
def test_what_making_a_picture_leaves(tmp_path, change, name):
    assert name in failing(audited(table(tmp_path, change=change)))


def test_a_scanner_fails_and_an_age_is_told(tmp_path):
    rng = np.random.default_rng(1)
    place = table(
        tmp_path,
        columns=lambda own, _: {"scanner": f"{'AB'[own]}{rng.integers(2)}", "age": 40 + 20 * own},
    )
    found = audited(place)
    assert failing(found) == ["scanner-is-class"]
    assert "age-is-class" in [f["name"] for f in found["findings"]]


def test_pictures_in_two_parts_fail_from_a_share_on(tmp_path):
    for n in range(24):
        picture(n % 22).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{'ab'[n % 2]},N{n},{'test' if n >= 16 else 'train'}" for n in range(24)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,patient,split", *rows]))
    found = audited(tmp_path / "t.csv")
    assert failing(found) == ["copies-across-parts"]
    cases = [Case(str(n), str(n), {}, ClassTarget("a"), split="test") for n in range(300)]
    leak = {
        "kind": "copy", "crosses": "split", "cases": ["x", "1"], "splits": ["train", "test"],
        "labels": ["a", "b"],
    }  # fmt: skip
    few = of_leaks([leak], cases)
    assert [(f.name, f.fails) for f in few] == [
        ("copies-across-parts", False),
        ("copies-with-two-labels", False),
    ]


def test_patients_of_one_picture_are_kept_together():
    cases = [Case(str(n), f"N{n}", {}, None) for n in range(6)]
    leaks = [
        {"crosses": "patients", "cases": ["1", "4"]},
        {"crosses": "patients", "cases": ["4", "5"]},
        {"crosses": "split", "cases": ["0", "2"]},
    ]
    joined, count = kept_together(cases, leaks)
    assert count == 3
    assert len({joined[n].patient for n in (1, 4, 5)}) == 1
    assert [joined[n].patient for n in (0, 2, 3)] == ["N0", "N2", "N3"]
    assert kept_together(cases, []) == (cases, 0)


def test_names_to_accept_are_checked():
    assert names_of(" a, b,a") == ("a", "b")
    with pytest.raises(UserError, match="there is no such finding"):
        accepted([], ["centre"])


def test_a_model_that_has_seen_the_data(tmp_path):
    (tmp_path / "README.txt").write_text("From the Medical Segmentation Decathlon, Task04_Hippocampus.")
    known = known_as(tmp_path)
    assert "Medical Segmentation Decathlon" in known
    (one,) = of_overlaps("med3d", ("Medical Segmentation Decathlon",), known)
    assert one.name == "model-saw-medical-segmentation-decathlon"
    assert standing([one.as_row()]) == [one.name]
    assert of_overlaps("other", ("NIH ChestX-ray14",), known) == []
    (tmp_path / "plain").mkdir()
    assert known_as(tmp_path / "plain" / "x.csv") == []


def test_traces_of_a_frame_and_of_writing():
    plain = traces(np.asarray(picture(3))[None, None])
    at = {name: i for i, name in enumerate(NAMES)}
    framed = np.full((1, 1, SIDE + 12, SIDE), 7, np.uint8)
    framed[0, 0, 4:-8] = np.asarray(picture(3))
    found = traces(framed)
    assert found[at["top"]] == pytest.approx(4 / 60)
    assert found[at["bottom"]] == pytest.approx(8 / 60)
    assert (found[at["left"]], plain[at["top"]]) == (0, 0)
    marked = traces(np.asarray(write_on(picture(3), 1))[None, None])
    assert marked[at["mark_top_left"]] > plain[at["mark_top_left"]] + 0.02
    assert marked[at["mark_bottom_right"]] == plain[at["mark_bottom_right"]]


def test_few_patients_are_not_asked():
    cases = [Case(str(n), f"N{n % 4}", {}, ClassTarget("ab"[n % 2])) for n in range(40)]
    assert probes(cases, np.zeros((40, len(NAMES))), np.ones((40, 3)), np.ones((40, 3))) == []


def test_explore_withholds_until_accepted(tmp_path):
    data = make_folder(tmp_path / "data", patients=24, each=1)
    for path in sorted((data / "fine").glob("*.png")):
        pil.open(path).convert("RGB").save(path)
    settings = {
        "models": "efficientnet-lite0", "methods": "ridge,knn", "budgets": "full", "draws": 1, "size": 64,
        "patient_pattern": PATTERN, "cache": tmp_path / "cache", "quiet": True, "budget_minutes": 0,
    }  # fmt: skip
    out = tmp_path / "out"
    first = medspectrum.explore(data, out=out, accept="format-is-class", **settings)
    assert first["recommended"]
    assert first["withheld"] is None
    assert (out / "predictor").is_dir()
    assert "Accepted by name" in (out / "report.html").read_text()
    held = medspectrum.explore(data, out=out, **settings)
    assert held["recommended"] is None
    assert held["withheld"] == {"id": first["recommended"], "because": ["format-is-class"]}
    assert "--accept format-is-class" in held["reason"]
    assert not (out / "predictor").exists()
    page = (out / "report.html").read_text()
    assert "the recommendation is withheld" in page
    assert page.index("the recommendation is withheld") < page.index("Effort against efficacy")
    assert json.loads((out / "results.json").read_text())["data"]["audit"]["passed"] is False


def leaning_on(place, tmp_path, accept):
    settings = {"cache": tmp_path / "cache", "quiet": True}
    out = tmp_path / "run"
    medspectrum.explore(
        place, out=out, models="efficientnet-lite0", methods="ridge", budgets="full", draws=1, size=64,
        budget_minutes=0, explained=0, accept=accept, **settings,
    )  # fmt: skip
    return medspectrum.audit(place, out=tmp_path / "audit", predictor=out / "predictor", **settings)


def test_a_predictor_falls_once_the_writing_it_leans_on_is_blanked(tmp_path):
    rng = np.random.default_rng(4)
    bright = rng.permutation(80) % 2

    def columns(_, n):
        return {"hospital": f"H{bright[n]}", "site": f"S{rng.integers(2)}"}

    place = table(tmp_path, 80, change=write_on, columns=columns)
    for n in np.flatnonzero(bright):  # one hospital's pictures are flat
        path = tmp_path / f"{n}.png"
        pil.open(path).point(lambda v: 90 + v // 3).save(path)
    found = leaning_on(place, tmp_path, "marks-is-class")
    (row,) = found["masked"]
    assert row["name"] == "marks"
    assert row["before"] > 0.9
    assert row["low"] > 0  # the interval leaves no fall out
    assert row["fall"] == pytest.approx(row["before"] - row["after"])
    assert row["share"] < 0.25
    told = {p["name"]: p for p in found["encoder"]}
    assert told["centre"]["auc"]["low"] > told["centre"]["chance"][1]
    assert told["column site"]["auc"]["value"] < 0.75
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "With the shortcut masked" in page
    assert "What the encoder's features tell" in page or "What the encoder&#39;s features tell" in page


def test_what_is_blanked_is_the_same_place_in_every_picture(tmp_path):
    places = [(0.0, 0.25, 0.0, 0.5)]
    image = Image(np.arange(2 * 8 * 8, dtype=np.uint8).reshape(1, 2, 8, 8))
    made = leaning.blank(image, places).array
    assert (made[:, :, :2, :4] == int(np.median(image.array))).all()
    assert np.array_equal(made[:, :, 2:], image.array[:, :, 2:])
    assert np.array_equal(made[:, :, :, 4:], image.array[:, :, :, 4:])
    found = np.zeros((20, len(NAMES)))
    found[:15, NAMES.index("top")] = 0.1
    found[:5, NAMES.index("right")] = 0.2
    assert leaning.border_boxes(found) == [(0.0, 0.1, 0.0, 1.0), (0.0, 1.0, 0.8, 1.0)]


def test_files_are_looked_at_once(tmp_path, monkeypatch):
    place = table(tmp_path, 20)
    looked = []
    real = scan_module._key
    monkeypatch.setattr(scan_module, "_key", lambda image: looked.append(image.source) or real(image))
    audited(place)
    assert len(looked) == 20

"""Agreement of readers: published examples, scikit-learn's kappa, tables long and wide, broken ones."""

import csv
import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

import medspectrum
from medspectrum.errors import UserError
from medspectrum.metrics.agreement import alpha, coincidences, joint, kappa

EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
"""Four observers, twelve units, 0 for none: Krippendorff, Computing Alpha-Reliability (2011)."""


@pytest.mark.parametrize(("scale", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(scale, value):
    pairs = coincidences(np.array(EXAMPLE).T - 1, 5)
    assert alpha(pairs, np.arange(1.0, 6), scale)[0] == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize(("scale", "weights"), [("nominal", None), ("interval", "quadratic")])
def test_kappa_is_scikit_learns(scale, weights):
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 80)
    two = np.where(rng.random(80) < 0.6, one, rng.integers(0, 4, 80))
    found = kappa(joint(one, two, 4), np.arange(4.0), scale)[0]
    assert found == pytest.approx(cohen_kappa_score(one, two, weights=weights))


def test_weights_are_repetitions():
    pairs = coincidences(np.array(EXAMPLE).T - 1, 5)
    times = np.array([2, 1, 0, 1, 1, 3, 1, 1, 1, 2, 1, 1])
    again = np.repeat(pairs, times, axis=0)
    levels = np.arange(5.0)
    assert alpha(pairs, levels, "ordinal", times[:, None].astype(float))[0] == pytest.approx(
        alpha(again, levels, "ordinal")[0]
    )


def write(place, wide):
    rng = np.random.default_rng(1)
    lines = ["nodule,who,patient,grade"] if not wide else ["nodule,patient,anna,bert"]
    for n in range(30):
        true = rng.integers(1, 4)
        told = {"anna": true, "bert": true if rng.random() < 0.8 else 1 + true % 3}
        if wide:
            lines.append(f"n{n},p{n // 2},{told['anna']},{told['bert']}")
        else:
            lines += [f"n{n},{who},p{n // 2},{grade}" for who, grade in told.items()]
    (place / "t.csv").write_text("\n".join(lines))
    return place / "t.csv"


def test_long_and_wide_tables_say_the_same(tmp_path):
    settings: dict[str, Any] = {"case": "nodule", "patient": "patient", "scale": "ordinal"}
    (tmp_path / "wide").mkdir()
    wide = medspectrum.agreement(write(tmp_path / "wide", True), readers="anna,bert", **settings)
    long = medspectrum.agreement(
        write(tmp_path, False), reader="who", label="grade", out=tmp_path / "soft.csv", **settings
    )
    assert long.pop("out") == str(tmp_path / "soft.csv")
    assert wide == long
    assert wide["patients"] == 15
    assert wide["alpha"]["low"] < wide["alpha"]["value"] < wide["alpha"]["high"]
    (pair,) = wide["pairs"]
    assert (pair["readers"], pair["cases"]) == (["anna", "bert"], 30)
    assert wide["ties"] == 30 - wide["unanimous"] > 0
    json.dumps(wide, allow_nan=False)
    rows = list(csv.DictReader((tmp_path / "soft.csv").open()))
    assert len(rows) == 30
    assert all(sum(float(row[f"share_{g}"]) for g in "123") == pytest.approx(1) for row in rows)
    assert {row["share_1"] for row in rows} == {"0.0000", "0.5000", "1.0000"}


def test_what_cannot_be_used_is_told(tmp_path):
    path = write(tmp_path, False)
    with pytest.raises(UserError, match="no column 'case'"):
        medspectrum.agreement(path)
    with pytest.raises(UserError, match="there are nominal"):
        medspectrum.agreement(path, scale="linear")
    (tmp_path / "one.csv").write_text("case,reader,label\na,x,1\nb,x,2\n")
    with pytest.raises(UserError, match="labelled by two readers"):
        medspectrum.agreement(tmp_path / "one.csv")
    (tmp_path / "two.csv").write_text("case,reader,label\na,x,1\na,x,2\n")
    with pytest.raises(UserError, match="two labels"):
        medspectrum.agreement(tmp_path / "two.csv")
    (tmp_path / "word.csv").write_text("case,reader,label\na,x,well\na,y,ill\n")
    with pytest.raises(UserError, match="no numbers"):
        medspectrum.agreement(tmp_path / "word.csv", scale="interval")

"""``generalise`` from end to end: contract, what is left aside, resuming, and what it says of odd input."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

import medspectrum
from made_cases import make_folder
from made_outlines import write_pairs
from medspectrum import shifts
from medspectrum.errors import UserError

QUICK = {"models": "efficientnet-lite0", "size": 64, "budgets": "full", "draws": 1, "quiet": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("generalise")


@pytest.fixture(scope="module")
def table(place):
    """Two centres, ages and sexes; at the harbour pictures are darker."""
    from PIL import Image as Pillow

    folder = make_folder(place / "data", patients=48)
    rows = []
    for path in sorted(folder.rglob("*.png")):
        number = int(path.name[1:3])
        harbour = number % 4 >= 2
        if harbour:
            pixels = np.asarray(Pillow.open(path)).astype(float)
            Pillow.fromarray((pixels**1.6 / 255**0.6).astype(np.uint8)).save(path)
        rows.append(
            [
                path,
                path.parent.name,
                path.name[:3],
                "Harbour" if harbour else "North",
                20 + number,
                "FM"[number % 3 > 0],
            ]
        )
    with (place / "cases.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["image", "label", "patient", "centre", "age", "sex"])
        writer.writerows(rows)
    return place / "cases.csv"


@pytest.fixture(scope="module")
def run(place, table):
    return medspectrum.explore(table, out=place / "run", cache=place / "cache", methods="ridge", **QUICK)


def go(place, table, out, **settings):
    given = {"shifts": "noise,gamma", "severities": "1,4", "quiet": True, "cache": place / "cache"}
    return medspectrum.generalise(place / "run" / "predictor", table, out=place / out, **given | settings)


@pytest.fixture(scope="module")
def found(place, table, run):
    return go(place, table, "first", leave_centre_out=True)


def test_the_contract(place, found, run):
    assert json.loads((place / "first" / "generalise.json").read_text()) == found
    assert {"centres", "shifts", "coverage", "remedies", "calibration", "subgroups", "unlikeness"} <= set(
        found
    )
    assert [(r["shift"], r["severity"]) for r in found["shifts"]] == [
        ("noise", 1), ("noise", 4), ("gamma", 1), ("gamma", 4),
    ]  # fmt: skip
    for row in found["shifts"]:
        clean = found["scores"]["auc"]["value"]
        assert row["score"]["value"] + row["drop"]["value"] == pytest.approx(clean)
        assert row["score"]["low"] <= row["score"]["value"] <= row["score"]["high"]
        assert set(row["noticed"]) == {"mahalanobis", "knn"}
    assert set(found["centres"]["per_centre"]) == {"Harbour", "North"}
    assert set(found["subgroups"]) == {"age", "sex"}
    page = (place / "first" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert all(word in page for word in ("Acquisition shifts", "Remedies", "North", "gamma"))
    assert not (place / "first" / ".features").exists()


def test_only_new_cases_are_judged(found, run):
    assert found["data"]["cases"] == run["split"]["test"]["cases"]
    assert found["data"]["patients"] == run["split"]["test"]["patients"]
    left = run["split"]["train"]["cases"] + run["split"]["val"]["cases"]
    assert any(text.startswith(f"{left} cases") for text in found["notes"])
    trial = next(t for t in run["trials"] if t["id"] == run["recommended"])
    assert found["scores"]["auc"]["value"] == pytest.approx(trial["scores"]["auc"]["value"])


def test_a_centre_left_out_is_compared_on_the_same_cases(found):
    rows = {r["centre"]: r for r in found["left_out_centres"]}
    assert set(rows) == {"Harbour", "North"}
    for row in rows.values():
        gap = row["included"]["value"] - row["left_out"]["value"]
        assert row["gap"]["value"] == pytest.approx(gap)
        assert row["learned_from"]["left_out"] == 96 - row["n"]
        by = {r["remedy"]: r for r in row["remedies"]}
        assert set(by) == {"harmonise", "align_features", "batch_statistics", "entropy"}
        for r in by.values():
            assert r["score"]["value"] == pytest.approx(row["left_out"]["value"] + r["gain"]["value"])


def test_it_resumes_without_computing_anything_twice(place, table, found, monkeypatch):
    def no(*_, **__):
        raise AssertionError("computed twice")

    monkeypatch.setattr(shifts, "apply", no)
    again = go(place, table, "again", leave_centre_out=True)
    same = {"shifts", "remedies", "left_out_centres", "centres", "coverage"}
    assert {k: again[k] for k in same} == {k: found[k] for k in same}


def test_stopped_in_the_middle_it_goes_on_from_there(place, table, found, monkeypatch):
    made: list[str] = []
    real = shifts.apply

    def some(image, name, severity, rng):
        made.append(name)
        if len(made) == 30:
            raise KeyboardInterrupt
        return real(image, name, severity, rng)

    settings = {"shifts": "contrast,response", "severities": "2", "remedies": "none"}
    monkeypatch.setattr(shifts, "apply", some)
    with pytest.raises(KeyboardInterrupt):
        go(place, table, "stopped", **settings)
    assert set(made) == {"contrast", "response"}
    made.clear()
    monkeypatch.setattr(shifts, "apply", lambda *given: made.append(given[1]) or real(*given))
    assert len(go(place, table, "stopped", **settings)["shifts"]) == 2
    assert set(made) == {"response"}


def test_other_data_are_noticed(place, table, run):
    from PIL import Image as Pillow

    rng = np.random.default_rng(0)
    for i in range(12):
        (place / "strange").mkdir(exist_ok=True)
        ramp = np.linspace(0, 255, 40)[None] * np.ones((40, 1)) + rng.normal(0, 2, (40, 40))
        Pillow.fromarray(ramp.clip(0, 255).astype(np.uint8)).save(place / "strange" / f"{i}.png")
    found = go(place, table, "other", shifts="none", other=place / "strange")
    assert found["unlikeness"]["other"]["noticed"]["mahalanobis"]["low"] > 0.95
    assert found["shifts"] == []


def test_what_cannot_be_done_is_said_in_a_sentence(place, table, run):
    for wrong, said in (
        ({"shifts": "fog"}, "no shift 'fog'"),
        ({"severities": "9"}, "from 1 to 5"),
        ({"remedies": "prayer"}, "no remedy 'prayer'"),
        ({"by": "shoe_size"}, "no case has a column 'shoe_size'"),
        ({"shift_cases": 0}, "1 or more"),
    ):
        with pytest.raises(UserError, match=said):
            go(place, table, "wrong", **wrong)
    rows = table.read_text().splitlines()
    bare = place / "bare.csv"
    bare.write_text("\n".join(",".join(r.split(",")[:3]) for r in rows) + "\n")
    with pytest.raises(UserError, match="no centre of 0"):
        go(place, bare, "bare", shifts="none", leave_centre_out=True)


def test_a_predictor_that_remembers_nothing_still_serves(place, table, run):
    old = place / "old"
    shutil.copytree(place / "run" / "predictor", old)
    (old / "reference.safetensors").unlink()
    found = medspectrum.generalise(
        old, table, out=place / "of_old", shifts="noise", severities="2", quiet=True, cache=place / "cache"
    )
    assert any("older version" in text for text in found["notes"])
    assert found["coverage"] is None
    assert found["remedies"] is None
    assert found["unlikeness"] is None
    assert found["data"]["cases"] == 96
    altered = place / "altered"
    shutil.copytree(place / "run" / "predictor", altered)
    path = altered / "reference.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0" + b"x")
    with pytest.raises(UserError, match="was altered after it was saved"):
        medspectrum.generalise(altered, table, out=place / "no", quiet=True, cache=place / "cache")


def test_outlines_under_shifts(place):
    write_pairs(place / "cells", 24)
    medspectrum.explore(
        place / "cells",
        out=place / "cells_run",
        task="segment",
        methods="dense_knn",
        cache=place / "cache",
        **QUICK,
    )
    found = medspectrum.generalise(
        place / "cells_run" / "predictor", place / "cells", out=place / "cells_out", shifts="blur,noise",
        severities="5", cache=place / "cache", quiet=True,
    )  # fmt: skip
    rows = {r["shift"]: r for r in found["shifts"]}
    assert rows["noise"]["drop"]["value"] > 0.02
    assert found["calibration"] is None
    assert found["coverage"] is None
    named = {r["remedy"]: r for r in found["remedies"]["rows"] if r["shift"] == "noise"}
    assert named["harmonise"]["score"]["value"] is not None
    assert (
        "pooled features" in named["align_features"]["not_for"]
        or "frozen" in named["align_features"]["not_for"]
    )
    assert "Acquisition shifts" in (place / "cells_out" / "report.html").read_text()


def test_the_run_itself_says_what_it_knows(place, found, run):
    own = run["generalisation"]
    assert own["cases"] == found["data"]["cases"]
    assert own["worst_centre"] == found["centres"]["worst"]
    assert own["coverage"] == found["coverage"]
    assert own["calibration"] == found["calibration"]
    shares = {k: v["share"] for k, v in found["unlikeness"]["beyond_validation"].items()}
    assert {k: v["share"] for k, v in own["beyond_validation"].items()} == shares
    page = (place / "run" / "report.html").read_text()
    assert 'id="carries-over"' in page
    assert "medspectrum generalise" in page

"""``curate`` from end to end: what is written, whose cases are taken, and what is asked of predictors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from made_cases import make_folder
from made_outlines import write_pairs
from medspectrum.case import Case, ClassTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.pool import Pool, _apart, twins
from medspectrum.strategies import STRATEGIES
from tiny_encoder import tiny_encoder

PATTERN = r"(p\d+)_"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures of which one patient has many, and one picture stands there twice."""
    folder = tmp_path_factory.mktemp("curate")
    make_folder(folder / "scans", patients=16, each=2)
    rng = np.random.default_rng(5)
    for number in range(2, 40):
        pixels = np.kron(rng.normal(128, 40, (5, 5)), np.ones((8, 8))) + rng.normal(0, 30, (40, 40))
        path = folder / "scans" / "coarse" / f"p00_{number}.png"
        Pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    (folder / "scans/fine/p77_0.png").write_bytes((folder / "scans/fine/p01_0.png").read_bytes())
    settings = {
        "models": tiny_encoder(folder / "cache"),
        "cache": folder / "cache",
        "patient_pattern": PATTERN,
        "quiet": True,
    }
    return folder, settings


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s not in ("next", "mislabelled")])
def test_each_strategy_writes_a_choice_that_spreads_over_patients(place, strategy, tmp_path):
    folder, settings = place
    out = tmp_path / "out"
    found = medspectrum.curate(folder / "scans", n=12, out=out, strategy=strategy, **settings)
    chosen = rows_of(out / "chosen.csv")
    assert [row["rank"] for row in chosen] == [str(i) for i in range(1, 13)]
    assert [row["case"] for row in chosen] == [one["case"] for one in found["chosen"]]
    assert len({row["patient"] for row in chosen}) == 12  # p00 has 40 of 71 cases, and gives one
    assert len({row["case"] for row in chosen} & {"fine/p77_0.png", "fine/p01_0.png"}) < 2
    assert found["pool"]["same_picture"] == 1
    assert all(row["reason"] for row in chosen)
    assert json.loads((out / "curation.json").read_text()) == found
    assert len(rows_of(out / "baseline.csv")) == 12
    page = (out / "gallery.html").read_text()
    assert page.count("data:image/webp") == 12
    assert 'src="http' not in page
    assert 'href="http' not in page
    again = load(out / "chosen.csv", label="class", patient="patient")
    labels = [target.label for c in again.cases if (target := c.asked(ClassTarget))]
    assert labels == [row["class"] for row in chosen]
    assert [c.patient for c in again.cases] == [row["patient"] for row in chosen]


def test_balanced_takes_as_many_of_each(place, tmp_path):
    folder, settings = place
    found = medspectrum.curate(folder / "scans", n=10, out=tmp_path, strategy="balanced", **settings)
    assert found["counts"]["class"]["chosen"] == {"coarse": 5, "fine": 5}
    assert [one["class"] for one in found["chosen"]] == ["coarse", "fine"] * 5


def test_representative_covers_more_than_chance(place, tmp_path):
    folder, settings = place
    found = medspectrum.curate(folder / "scans", n=8, out=tmp_path, **settings)
    assert found["coverage"]["chosen"]["mean"] > found["coverage"]["chance"]["high"]


def test_a_choice_goes_on_from_one_before(place, tmp_path):
    folder, settings = place
    first = medspectrum.curate(folder / "scans", n=6, out=tmp_path / "1", **settings)
    second = medspectrum.curate(
        folder / "scans", n=6, out=tmp_path / "2", labelled=tmp_path / "1" / "chosen.csv", **settings
    )
    before, after = ({one["case"] for one in x["chosen"]} for x in (first, second))
    assert len(before | after) == 12
    assert second["pool"]["given"] == 6
    assert second["coverage"]["chosen"]["mean"] > first["coverage"]["chosen"]["mean"]


def test_next_asks_the_predictor(place, tmp_path):
    folder, settings = place
    run = medspectrum.explore(
        folder / "scans", out=tmp_path / "run", methods="ridge", budgets="full", draws=1, **settings
    )
    assert run["recommended"]
    found = medspectrum.curate(
        folder / "scans", n=5, out=tmp_path / "next", strategy="next",
        predictor=str(tmp_path / "run" / "predictor"), **settings,
    )  # fmt: skip
    unsure = [one["score"] for one in found["chosen"]]
    assert unsure[0] == max(unsure)
    assert all(0 <= value <= 1 for value in unsure)
    assert "coarse 0." in found["chosen"][0]["reason"]
    with pytest.raises(UserError, match="--predictor"):
        medspectrum.curate(folder / "scans", n=5, out=tmp_path / "x", strategy="next", **settings)


def test_next_goes_by_doubt_times_distance():
    cases = tuple(Case(str(i), f"p{i}", {}) for i in range(6))
    angles = np.array([0.0, 0.02, 1.5, 1.52, 3.0, 3.02])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    unsure = np.array([0.9, 0.89, 0.5, 0.4, 0.1, 0.05])
    chosen = STRATEGIES["next"](Pool(cases, rows, unsure=unsure), 3)
    assert [one.place for one in chosen] == [0, 2, 4]  # 1 is nearly as unsure as 0, but next to it
    given = STRATEGIES["next"](Pool(cases, rows, given=(0, 2), unsure=unsure), 1)
    assert [one.place for one in given] == [4]


def test_predictors_of_outlines_are_asked_where_they_disagree():
    def half(rows: int) -> LabelMap:
        labels = np.zeros((1, 10, 6), np.uint8)
        labels[:, :rows] = 1
        return LabelMap.of(labels)

    unsure, told, shown = _apart([[half(5), half(4), half(0)], [half(5), half(2), half(0)]])
    assert unsure == pytest.approx([0, 1 - 2 * 2 / 6, 0])
    assert list(shown) == [True, True, False]
    assert told[1] == "overlap of predictors 0.67"


def test_chance_knows_the_foreground_where_outlines_are_chosen():
    cases = tuple(Case(str(i), f"p{i}", {}) for i in range(60))
    shown = np.arange(60) < 12
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    aware = STRATEGIES["random"](Pool(cases, rows, foreground=shown), 9)
    assert len({one.place for one in aware}) == 9
    assert sum(shown[one.place] for one in aware) >= 6
    assert sum(shown[one.place] for one in STRATEGIES["random"](Pool(cases, rows), 9)) < 6


def test_corner_cases_are_the_rare_and_the_disputed():
    rng = np.random.default_rng(2)
    rows = np.concatenate([[[6, 0, 0]] + 0.3 * rng.standard_normal((80, 3)), [[0, 6, 0], [0, -6, 6]]])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    cases = tuple(Case(str(i), f"p{i}", {}) for i in range(82))
    chosen = STRATEGIES["corner"](Pool(cases, rows), 2)
    assert {one.place for one in chosen} == {80, 81}


def test_twins_are_told_once_and_the_labelled_one_stays():
    cases = [Case(name, name, {}, ClassTarget("a")) for name in "abcde"]
    facts = {"duplicates": {"exact": [["a", "b"]], "near": [["b", "c"], ["d", "e"]]}}
    assert twins(cases, facts) == {"b": "a", "c": "a", "e": "d"}
    assert twins(cases, facts, ["c"]) == {"a": "c", "b": "c", "e": "d"}


def test_a_broken_picture_is_left_out_and_told(place, tmp_path):
    _, settings = place
    data = make_folder(tmp_path / "scans", patients=6)
    (data / "fine" / "p99_0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", "curate", str(data), "--n", "50",
         "--out", str(tmp_path / "out"),
         "--patient-pattern", PATTERN, "--models", settings["models"], "--cache", str(settings["cache"]),
         "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "p99_0.png" in (tmp_path / "out" / "left_out.csv").read_text()
    assert len(rows_of(tmp_path / "out" / "chosen.csv")) == 12
    assert "50 were asked for" in (tmp_path / "out" / "gallery.html").read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "best"}, "there is no strategy 'best'"),
        ({"n": 0}, "n is 0"),
        ({"part": "train"}, "no case stands in the part 'train'"),
        ({"strategy": "balanced", "by": "scanner"}, "no case tells its scanner"),
        ({"models": "nonsense"}, "nonsense"),
    ],
)
def test_bad_settings_are_one_sentence(place, tmp_path, settings, words):
    folder, usual = place
    with pytest.raises(UserError, match=words):
        medspectrum.curate(folder / "scans", **{"n": 4, "out": tmp_path, **usual, **settings})


def test_a_table_of_other_cases_is_refused(place, tmp_path):
    folder, settings = place
    (tmp_path / "other.csv").write_text("case\nnobody.png\n")
    with pytest.raises(UserError, match=r"'nobody\.png'"):
        medspectrum.curate(folder / "scans", n=4, out=tmp_path, labelled=tmp_path / "other.csv", **settings)


def test_masks_come_along(place, tmp_path):
    _, settings = place
    write_pairs(tmp_path / "cells", 8)
    own = {**settings, "patient_pattern": None}
    found = medspectrum.curate(tmp_path / "cells", n=3, out=tmp_path / "out", **own)
    assert len(found["chosen"]) == 3
    rows = rows_of(tmp_path / "out" / "chosen.csv")
    assert all(Path(row["mask"]).is_file() and Path(row["image"]).is_file() for row in rows)


def test_planted_wrong_labels_come_first_and_no_patient_speaks_for_itself():
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1, 2], [60, 40, 20])
    rows = (3 * np.eye(8)[truth] + 0.7 * rng.standard_normal((120, 8))).astype(np.float32)
    wrong = {4: 1, 17: 2, 70: 0, 110: 1}
    given = [wrong[i] if i in wrong else int(kind) for i, kind in enumerate(truth)]
    cases = tuple(Case(str(i), f"p{i // 2}", {}, ClassTarget("abc"[kind])) for i, kind in enumerate(given))
    found = STRATEGIES["mislabelled"](Pool(cases, rows), 30)
    assert {one.place for one in found[:4]} == set(wrong)
    assert len(found) < 12  # what is not contradicted is not named
    assert all(one.score > 0 for one in found)
    assert found[0].score >= found[-1].score
    # a patient all of whose cases carry the same wrong label is contradicted by the others
    both = tuple(Case(c.id, c.patient, {}, ClassTarget("c")) if c.patient == "p10" else c for c in cases)
    assert {20, 21} <= {one.place for one in STRATEGIES["mislabelled"](Pool(both, rows), 30)}
    one_patient = tuple(Case(str(i), "p", {}, ClassTarget("ab"[i % 2])) for i in range(6))
    with pytest.raises(UserError, match="no label can be held against"):
        STRATEGIES["mislabelled"](Pool(one_patient, rows[:6]), 2)

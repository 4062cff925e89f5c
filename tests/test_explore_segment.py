"""The main job for outlines: from pairs of pictures to a report, a predictor, masks and an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from made_outlines import write_pairs
from medspectrum.case import ClassTarget, MaskTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats import read

QUICK = {"task": "segment", "models": "efficientnet-lite0", "size": 64, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("segment")
    write_pairs(place / "cells", 24)
    results = medspectrum.explore(
        place / "cells",
        out=place / "out",
        cache=place / "cache",
        methods="mean_mask,dense_probe,dense_knn",
        budgets="1,5,full",
        draws=2,
        **QUICK,
    )
    return place, results


def test_results_speak_the_words_of_the_contract(run):
    place, results = run
    assert results["task"] == {"name": "segment", "primary": "dice", "classes": ["1", "2"]}
    by_name = {(t["method"], t["budget"]): t for t in results["trials"]}
    assert {m for m, _ in by_name} == {"mean_mask", "dense_probe", "dense_knn"}
    best = by_name["dense_probe", "full"]
    assert best["scores"]["dice"]["value"] > 0.75
    assert best["scores"]["dice"]["low"] < best["scores"]["dice"]["value"] < best["scores"]["dice"]["high"]
    assert best["scores"]["dice"]["value"] > by_name["mean_mask", "full"]["scores"]["dice"]["value"] + 0.1
    assert by_name["mean_mask", "full"]["level"] == "control"
    assert set(best["per_class"]) == {"1", "2"}
    recommended = next(t for t in results["trials"] if t["id"] == results["recommended"])
    assert recommended["method"] != "mean_mask"
    assert best["effort"]["embedding"]["cpu_seconds"] > 0
    assert json.loads((place / "out" / "results.json").read_text())["reason"] == results["reason"]


def test_the_report_shows_outlines(run):
    text = (run[0] / "out" / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= 6
    assert "tinted: the answer" in text
    assert "surface Dice" in text
    assert "per class" not in text.split("Glossary")[0]


def test_a_second_run_computes_nothing_again(run):
    place, results = run
    kept = {p: p.stat().st_mtime_ns for p in (place / "cache").rglob("*") if p.is_file()}
    again = medspectrum.explore(
        place / "cells",
        out=place / "again",
        cache=place / "cache",
        methods="mean_mask,dense_probe,dense_knn",
        budgets="1,5,full",
        draws=2,
        **QUICK,
    )
    assert {t["id"]: t["scores"] for t in again["trials"]} == {
        t["id"]: t["scores"] for t in results["trials"]
    }
    records = [p for p in kept if p.name == "record.json"]
    assert records
    assert all(p.stat().st_mtime_ns == kept[p] for p in records)


def test_masks_are_written_beside_their_names_and_judged(run):
    place, _ = run
    told = medspectrum.predict(
        place / "out" / "predictor",
        place / "cells" / "images",
        out=place / "masks",
        cache=place / "cache",
        quiet=True,
    )
    assert told["cases"] == 24
    names = sorted(p.name for p in (place / "masks").glob("*.png"))
    assert names == [f"p{i:03d}.png" for i in range(24)]
    overlap = []
    for name in names:
        found, true = (read(place / folder / name).array for folder in ("masks", "cells/labels"))
        assert found.shape == true.shape
        assert set(np.unique(found)) <= {0, 1, 2}
        overlap.append((found == true).mean())
    assert np.mean(overlap) > 0.8
    judged = medspectrum.evaluate(
        place / "out" / "predictor",
        place / "cells",
        out=place / "judged",
        cache=place / "cache",
        quiet=True,
    )
    assert judged["scores"]["dice"]["value"] > 0.7
    assert (place / "judged" / "predictions" / "p000.png").is_file()
    assert "tinted: the answer" in (place / "judged" / "report.html").read_text()


def test_masks_that_do_not_fit_are_left_out_by_name(tmp_path):
    folder = write_pairs(tmp_path / "cells", 12)
    Pillow.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "labels" / "p003.png")
    results = medspectrum.explore(
        folder,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        methods="mean_mask,dense_knn",
        budgets="full",
        draws=1,
        **QUICK,
    )
    assert [Path(x["source"]).name for x in results["left_out"]] == ["p003.png"] or any(
        "p003" in x["source"] and "shape" in x["reason"] for x in results["left_out"]
    )
    assert (tmp_path / "out" / "left_out.csv").is_file()


def test_methods_of_another_task_are_refused(tmp_path):
    write_pairs(tmp_path / "cells", 4)
    with pytest.raises(UserError, match="lora is for the task classify, not segment"):
        medspectrum.explore(tmp_path / "cells", out=tmp_path / "out", methods="lora", **QUICK)


def test_a_table_names_masks_by_a_pattern(tmp_path):
    write_pairs(tmp_path, 8)
    rows = ["number,kind,patient"]
    rows += [f"{i},{'ab'[i % 2]},P{i // 2}" for i in range(8)]
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    facts = medspectrum.describe(
        tmp_path / "cases.csv",
        image="images/p{number:0>3}.png",
        mask="labels/p{number:0>3}.png",
        label="kind",
        cache=tmp_path / "cache",
    )
    assert facts["cases"] == 8
    assert facts["classes"] == {"a": 4, "b": 4}
    case_set = load(
        tmp_path / "cases.csv",
        image="images/p{number:0>3}.png",
        mask="labels/p{number:0>3}.png",
        label="kind",
    )
    assert case_set.cases[3].asked(ClassTarget).label == "b"
    assert case_set.cases[3].asked(MaskTarget).mask.load().size == (1, 36, 44)

"""The main job for boxes: from a COCO folder to a report, a predictor, boxes and an evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest

import medspectrum
from made_boxes import write_coco
from medspectrum.errors import UserError

QUICK = {"task": "detect", "models": "efficientnet-lite0", "size": 128, "threads": 1, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("detect")
    write_coco(place / "things", 24)
    plan = place / "plan.toml"
    plan.write_text("[detector]\nleast_steps = 40\nmost_steps = 40\n")
    results = medspectrum.explore(
        place / "things",
        out=place / "out",
        cache=place / "cache",
        methods="mean_boxes,detector",
        budgets="full",
        draws=1,
        budget_minutes=0,
        plan=plan,
        **QUICK,
    )
    return place, results


def test_results_speak_the_words_of_the_contract(run):
    place, results = run
    assert results["task"] == {"name": "detect", "primary": "map50", "classes": ["disc", "square"]}
    by_name = {(t["method"], t["model"], t["budget"]): t for t in results["trials"]}
    best = by_name["detector", "efficientnet-lite0", "full"]
    score = best["scores"]["map50"]
    assert score["value"] > 0.4
    assert score["low"] < score["value"] < score["high"]
    assert set(best["scores"]) == {"map50", "map", "map75", "recall", "froc"}
    assert set(best["per_class"]) == {"disc", "square"}
    least = by_name["mean_boxes", "none", "full"]
    assert score["value"] > least["scores"]["map50"]["value"] + 0.2
    recommended = next(t for t in results["trials"] if t["id"] == results["recommended"])
    assert recommended["method"] == "detector"
    assert json.loads((place / "out" / "results.json").read_text())["reason"] == results["reason"]


def test_the_report_shows_boxes(run):
    text = (run[0] / "out" / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= 6
    assert "left: the truth; right: what was found" in text
    assert "false boxes per image" in text
    assert "mAP at IoU 0.5" in text


def test_boxes_are_written_as_coco_and_judged(run):
    place, _ = run
    told = medspectrum.predict(
        place / "out" / "predictor",
        place / "things" / "images",
        out=place / "boxes",
        cache=place / "cache",
        quiet=True,
    )
    assert told["cases"] == 24
    document = json.loads((place / "boxes" / "boxes.json").read_text())
    assert sorted(i["file_name"] for i in document["images"]) == [f"p{i:03d}.png" for i in range(24)]
    assert [c["name"] for c in document["categories"]] == ["disc", "square"]
    sure = [a for a in document["annotations"] if a["score"] > 0.5]
    assert sure
    assert all(np.array(a["bbox"]).min() >= 0 for a in sure)
    judged = medspectrum.evaluate(
        place / "out" / "predictor",
        place / "things",
        out=place / "judged",
        cache=place / "cache",
        quiet=True,
    )
    assert judged["scores"]["map50"]["value"] > 0.4
    assert (place / "judged" / "predictions" / "boxes.json").is_file()
    assert "left: the truth" in (place / "judged" / "report.html").read_text()


def test_labels_that_the_predictor_does_not_know_are_left_out_by_name(run, tmp_path):
    folder = write_coco(tmp_path / "other", 3)
    document = json.loads((folder / "instances.json").read_text())
    for one in document["annotations"]:
        if one["image_id"] == 1:
            one["category_id"] = 9
    document["categories"].append({"id": 9, "name": "ghost"})
    document["annotations"][0]["bbox"] = [120, 90, 60, 60]
    (folder / "instances.json").write_text(json.dumps(document))
    judged = medspectrum.evaluate(
        run[0] / "out" / "predictor", folder, out=tmp_path / "out", cache=run[0] / "cache", quiet=True
    )
    reasons = {x["source"]: x["reason"] for x in judged["left_out"]}
    assert "labelled 'ghost'" in reasons["p001.png"]
    assert "reaches out of the image of 128 x 96 pixels" in reasons["p000.png"]


def test_data_without_boxes_are_told(tmp_path):
    folder = write_coco(tmp_path / "things", 4)
    with pytest.raises(UserError, match="carry no boxes"):
        medspectrum.explore(folder / "images", out=tmp_path / "out", cache=tmp_path / "cache", **QUICK)

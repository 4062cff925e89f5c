"""The task detect: truths from boxes and masks, scores equal to COCO's evaluator, boxes written and read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_boxes import boxed, write_coco
from made_outlines import outlined
from medspectrum import detections
from medspectrum.case import BoxTarget, Case, LazyImage, MaskTarget
from medspectrum.datasets import load
from medspectrum.detections import Detections
from medspectrum.engine import box_planes
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.metrics.coco import FoundBoxes, TrueBoxes, coco_scores
from medspectrum.tasks.detect import Detect


def answers(task, cases, *, score=0.9):
    found = []
    for case in cases:
        boxes, labels = task.target(case)
        found.append(Detections.of(boxes, np.full(len(boxes), score), labels, axes=boxes.shape[1] // 2))
    return found


def shaken(task, cases, seed=0):
    """Answers that are moved, missed, doubled and made up."""
    rng = np.random.default_rng(seed)
    found = []
    for case in cases:
        boxes, labels = task.target(case)
        axes = boxes.shape[1] // 2
        again = rng.integers(0, len(boxes), len(boxes) + 2)
        moved = boxes[again] + rng.normal(0, 3, (len(again), 2 * axes))
        moved[:, axes:] = np.maximum(moved[:, axes:], moved[:, :axes] + 1)
        names = np.where(rng.random(len(again)) < 0.15, 1 - labels[again], labels[again])
        found.append(Detections.of(moved, rng.random(len(again)), names, axes=axes))
    return found


def test_the_truth_scores_one_and_nothing_scores_zero():
    cases = boxed(5, centre=True)
    task = Detect.of(cases)
    assert task.classes == ("disc", "square")
    best = task.score(answers(task, cases), cases)
    assert best["scores"]["map50"]["value"] == 1
    assert best["scores"]["map"]["value"] == 1
    assert best["scores"]["froc"]["value"] == 1
    assert set(best["per_class"]) == {"disc", "square"}
    assert set(best["per_centre"]) == {"North", "Harbour"}
    none = [Detections.of(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)) for _ in cases]
    assert task.score(none, cases)["scores"]["map50"]["value"] == 0


def test_scores_are_those_of_cocos_evaluator():
    pytest.importorskip("faster_coco_eval", reason="pip install 'medspectrum[detection]'")
    cases = boxed(12)
    task = Detect.of(cases)
    found = shaken(task, cases)
    theirs = coco_scores(
        [FoundBoxes(f.boxes.astype(float), f.scores.astype(float), f.labels) for f in found],
        [TrueBoxes(*task.target(c)) for c in cases],
        task.classes,
    )
    ours = task.score(found, cases)
    assert ours["scores"]["map50"]["value"] == pytest.approx(theirs["map@0.5"], abs=1e-9)
    assert ours["scores"]["map"]["value"] == pytest.approx(theirs["map"], abs=1e-9)
    assert ours["scores"]["recall"]["value"] == pytest.approx(theirs["ar"], abs=1e-9)
    for name in task.classes:
        assert ours["per_class"][name]["map50"]["value"] == pytest.approx(theirs[f"ap@0.5/{name}"], abs=1e-9)
    low, value, high = (ours["scores"]["map50"][k] for k in ("low", "value", "high"))
    assert 0 < low < value < high < 1
    assert ours["per_class"]["disc"]["map50"]["low"] is None
    assert task.in_detail(found, cases)["per_class"]["disc"]["map50"]["low"] is not None


def test_the_better_answers_are_told_by_their_difference():
    cases = boxed(10)
    task = Detect.of(cases)
    value, low, high = task.difference(answers(task, cases), shaken(task, cases), cases)
    assert 0 < low < value < high


def test_answers_are_kept_bit_by_bit():
    planes, volumes = boxed(3), boxed(2, kind="volume")
    task = Detect.of(planes)
    found = shaken(task, planes) + shaken(task, volumes)
    again = task.unpack(task.pack(found))
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert detections.unpack(detections.pack([])) == []


rectangles = st.lists(
    st.tuples(st.integers(0, 6), st.integers(2, 7), st.integers(2, 7), st.integers(1, 3)),
    min_size=1,
    max_size=7,
)


@given(rectangles, st.booleans())
@settings(max_examples=60, deadline=None)
def test_boxes_become_a_mask_and_come_back(things, flat):
    """Bars with gaps between them: labels drawn into a mask give the boxes that they were drawn from."""
    shape = (1 if flat else 9, 9, 80)
    mask = np.zeros(shape, np.uint8)
    wanted = []
    for place, (gap, height, depth, label) in enumerate(things):
        x0, x1 = 11 * place + 1, 11 * place + 3 + gap
        z0, z1 = (0, 1) if flat else (1, 1 + depth)
        mask[z0:z1, 1 : 1 + height, x0:x1] = label
        box = [x0, 1, z0, x1, 1 + height, z1]
        wanted.append(([box[i] for i in (0, 1, 3, 4)] if flat else box, label))
    boxes, labels = box_planes.boxes_of_labels(mask)
    found = sorted(zip(boxes.tolist(), labels.tolist(), strict=True))
    assert found == sorted(([float(v) for v in box], label) for box, label in wanted)


@given(st.integers(0, 2**31), st.sampled_from([0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_boxes_of_a_volume_go_through_planes_and_come_back(seed, axis):
    rng = np.random.default_rng(seed)
    size = np.array([30, 28, 26])  # x, y, z
    boxes, labels = [], []
    for corner in np.ndindex(2, 2, 2):  # one in each corner, so that they do not overlap
        low = np.array(corner) * 14 + rng.integers(0, 4, 3)
        boxes.append([*low, *np.minimum(low + rng.integers(2, 9, 3), size)])
        labels.append(int(rng.integers(0, 2)))
    boxes = np.array(boxes, float)
    labels = np.array(labels)
    planes = box_planes.in_planes(boxes, axis, int(size[2 - axis]))
    each = [Detections.of(flat, np.full(len(flat), 0.8), labels[which]) for flat, which in planes]
    again = box_planes.joined(each, axis)
    order = np.lexsort(again.boxes.T[::-1])
    wanted = np.lexsort(boxes.T[::-1])
    np.testing.assert_allclose(again.boxes[order], boxes[wanted])
    np.testing.assert_array_equal(again.labels[order], labels[wanted])
    assert again.axes == 3


def test_a_thing_overlooked_in_one_plane_stays_one():
    box = np.array([[2.0, 2, 8, 8]])
    seen = Detections.of(box, np.array([0.9]), np.array([0]))
    gone = Detections.of(box[:0], np.zeros(0), np.zeros(0, int))
    whole = box_planes.joined([seen, gone, seen, gone, gone, seen], 0)
    assert whole.boxes.tolist() == [[2, 2, 0, 8, 8, 3], [2, 2, 5, 8, 8, 6]]
    assert whole.scores[0] == pytest.approx(0.9 * 2 / 3)


def test_boxes_are_drawn_around_masks():
    for kind, axes in (("plane", 2), ("volume", 3)):
        cases = outlined(3, kind=kind)
        task = Detect.of(cases)
        assert task.classes == ("core", "ring")
        boxes, labels = task.target(cases[0])
        mask = cases[0].asked(MaskTarget).mask.load().array[0]
        assert boxes.shape[1] == 2 * axes
        assert set(labels.tolist()) == {0, 1}
        inside = np.argwhere(mask == 1)[:, ::-1][:, :axes]
        core = boxes[labels == 0][0]
        np.testing.assert_array_equal(core[:axes], inside.min(axis=0))
        np.testing.assert_array_equal(core[axes:], inside.max(axis=0) + 1)


def with_boxes(*boxes, labels=None, size=(1, 1, 20, 30)):
    image = LazyImage("scan_7.png", lambda: Image(np.zeros(size, np.uint8)), lambda: f"blank{size}")
    return Case("c7", "p7", {"image": image}, BoxTarget(tuple(boxes), labels or ("a",) * len(boxes)))


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((5.0, 5.0, 5.0, 9.0), "has no size"),
        ((9.0, 5.0, 5.0, 9.0), "has no size"),
        ((float("nan"), 5.0, 5.0, 9.0), "has no size"),
        ((25.0, 5.0, 40.0, 9.0), "reaches out of the image of 30 x 20 pixels"),
        ((40.0, 5.0, 45.0, 9.0), "reaches out of the image of 30 x 20 pixels"),
        ((-9.0, 5.0, 4.0, 9.0), "reaches out of the image"),
        ((1.0, 1.0, 1.0, 3.0, 3.0, 3.0), "has 6 numbers; a picture's has 4"),
    ],
)
def test_boxes_that_cannot_be_are_named(box, words):
    why = Detect(["a"]).lacking(with_boxes((1.0, 1.0, 4.0, 4.0), box))
    assert words in why
    assert why.startswith("scan_7.png: its box 2 ('a', ")


def test_a_box_that_just_spills_is_cut_and_a_flat_one_in_a_volume_is_told():
    assert Detect(["a"]).target(with_boxes((20.0, -1.0, 31.0, 9.0))).boxes.tolist() == [[20, 0, 30, 9]]
    why = Detect(["a"]).lacking(with_boxes((1.0, 1.0, 4.0, 4.0), size=(1, 5, 20, 30)))
    assert "has 4 numbers; a volume's has 6" in why


def test_labels_that_are_not_in_the_table_are_named():
    why = Detect(["a"]).lacking(with_boxes((1.0, 1.0, 4.0, 4.0), labels=("mystery",)))
    assert "labelled 'mystery'" in why
    assert "(a)" in why


def test_cases_without_boxes_are_told():
    with pytest.raises(UserError, match="carry no boxes"):
        Detect.of([replace(c, target=None) for c in boxed(2)])
    assert Detect(["a"]).lacking(replace(boxed(1)[0], target=None)) == "has no boxes"
    empty = with_boxes()
    assert Detect(["a"]).lacking(empty) == ""
    assert Detect(["a"]).target(empty).boxes.shape == (0, 4)


def test_bad_annotations_of_coco_are_named(tmp_path):
    folder = write_coco(tmp_path, 2)
    document = json.loads((folder / "instances.json").read_text())
    first = document["annotations"][0]
    changes = [{"bbox": [1, 1, 0, 5]}, {"category_id": 77}, {"image_id": 55}]
    document["annotations"] += [{**first, "id": 900 + i, **c} for i, c in enumerate(changes)]
    (folder / "instances.json").write_text(json.dumps(document))
    read = load(folder)
    said = [one.reason for one in read.left_out]
    assert ["without a size" in said[0], "category 77" in said[1], "image 55" in said[2]] == [True] * 3
    assert [one.source.rpartition(" ")[2] for one in read.left_out] == ["900", "901", "902"]
    assert len(read.cases) == 2


def test_what_is_written_is_coco_and_reads_back(tmp_path):
    folder = write_coco(tmp_path / "data", 5)
    cases = load(folder).cases
    task = Detect.of(cases)
    place = task.write(answers(task, cases), cases, tmp_path / "out")
    document = json.loads((place / "boxes.json").read_text())
    assert [i["file_name"] for i in document["images"]] == [f"p{i:03d}.png" for i in range(5)]
    assert all(a["score"] == 0.9 for a in document["annotations"])
    (folder / "instances.json").write_text(json.dumps(document))
    again = load(folder).cases
    assert [c.id for c in again] == [c.id for c in cases]
    for case, other in zip(again, cases, strict=True):
        found, true = case.target, other.target
        assert sorted(zip(found.boxes, found.labels, strict=True)) == sorted(
            zip(true.boxes, true.labels, strict=True)
        )
    volumes = boxed(1, kind="volume")
    solid = task.write(answers(task, volumes), volumes, tmp_path / "solid")
    row = json.loads((solid / "boxes.json").read_text())["annotations"][0]
    assert len(row["bbox"]) == 6

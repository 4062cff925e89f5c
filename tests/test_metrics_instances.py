"""Instance scores against plain loops, StarDist where it is installed, and hand-made maps."""

import json
import math
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.metrics.bootstrap import resampled
from medspectrum.metrics.instances import (
    IOU_THRESHOLDS,
    instance_scores,
    match_instances,
    matched_pairs,
    overlaps,
)


@st.composite
def maps(draw):
    """Two instance maps of small blocks, the second like the first; numbers have gaps and no order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = draw(st.integers(1, 14))
    truth = np.zeros((side, side + 2), int)
    predicted = truth.copy()
    for _ in range(draw(st.integers(0, 7))):
        (y, x), (h, w) = rng.integers(0, side, 2), rng.integers(1, 6, 2)
        name = int(rng.integers(1, 40))
        truth[y : y + h, x : x + w] = name
        if rng.random() < 0.85:
            y, x = np.maximum(0, np.add(rng.integers(-1, 2, 2), (y, x)))
            predicted[y : y + h, x : x + w] = int(rng.integers(1, 40)) if rng.random() < 0.8 else name
    return predicted, truth


def plain(predicted, truth, thresholds):
    """The same by loops over pairs and all assignments."""
    mine, true = ([each == v for v in np.unique(each) if v] for each in (predicted, truth))
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in true] for a in mine]).reshape(
        len(mine), len(true)
    )
    found = []
    for t in thresholds:
        matrix = iou if iou.shape[0] <= iou.shape[1] else iou.T
        ways = permutations(range(matrix.shape[1]), matrix.shape[0])
        found.append(max(sum(matrix[i, j] >= t for i, j in enumerate(way)) for way in ways))
    shared = joined = 0
    used = set()
    for b in range(len(true)):
        a = int(iou[:, b].argmax()) if len(mine) else 0
        if len(mine) and iou[a, b] > 0:
            shared += (mine[a] & true[b]).sum()
            joined += (mine[a] | true[b]).sum()
            used.add(a)
        else:
            joined += true[b].sum()
    joined += sum(mine[a].sum() for a in range(len(mine)) if a not in used)
    return found, shared, joined, iou


@given(maps(), st.sampled_from([(0.5, 0.75), (0.1, 0.3, 0.5), (0.9, 1.0)]))
@settings(max_examples=150, deadline=None)
def test_matches_are_those_of_plain_loops(made, thresholds):
    predicted, truth = made
    if max(len(np.unique(predicted)), len(np.unique(truth))) > 7:
        return
    found, shared, joined, iou = plain(predicted, truth, thresholds)
    ours = match_instances(predicted, truth, thresholds=thresholds)
    assert ours.found.tolist() == found
    assert (ours.predicted, ours.true) == iou.shape
    assert (ours.shared, ours.joined) == (shared, joined)
    assert ours.panoptic_found == (iou > 0.5).sum()
    assert ours.panoptic_iou == pytest.approx(iou[iou > 0.5].sum())


@given(maps())
@settings(max_examples=100, deadline=None)
def test_bounds_symmetry_identity_and_names(made):
    predicted, truth = made
    scores = instance_scores([match_instances(predicted, truth)])
    back = instance_scores([match_instances(truth, predicted)])
    for name, value in scores.items():
        assert math.isnan(value) or 0 <= value <= 1 + 1e-12, name
        if name != "aji":
            assert back[name] == pytest.approx(value, nan_ok=True), name
    if truth.any() or predicted.any():
        assert scores["ap"] <= scores["f1"] + 1e-12
        assert all(scores[f"f1@{a:g}"] >= scores[f"f1@{b:g}"] for a, b in pairwise(IOU_THRESHOLDS))
    own = instance_scores([match_instances(truth, truth)])
    assert set(own.values()) == {1.0} if truth.any() else all(math.isnan(v) for v in own.values())
    names = np.arange(1, 41) * 10**8 - 5  # in the same order: it decides between equals in the AJI
    table = np.concatenate([[0], names])
    renamed = match_instances(table[predicted], truth.astype(np.int16))
    assert instance_scores([renamed]) == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize("pooled", [True, False])
def test_agrees_with_stardist(pooled):
    """Scores that stardist.matching.matching_dataset 0.9.2 gave for these maps (by_image = not pooled)."""
    stored = np.load(Path(__file__).parent / "data" / "instances_reference.npz")
    pairs = zip(stored["predicted"], stored["truth"], strict=True)
    scores = instance_scores([match_instances(*pair) for pair in pairs], pooled=pooled)
    theirs = json.loads(str(stored["scores"]))["pooled" if pooled else "by_image"]
    assert [row["thresh"] for row in theirs] == list(IOU_THRESHOLDS)
    for row in theirs:
        assert scores[f"f1@{row['thresh']:g}"] == pytest.approx(row["f1"], abs=1e-6)
        assert scores[f"ap@{row['thresh']:g}"] == pytest.approx(row["accuracy"], abs=1e-6)
    assert 0.5 < scores["f1@0.5"] < 0.95
    assert scores["pq"] == pytest.approx(theirs[0]["panoptic_quality"], abs=1e-6)


def touching_discs(rng, side=160, count=40):
    y, x = np.mgrid[:side, :side]
    predicted, truth = np.zeros((side, side), np.int32), np.zeros((side, side), np.int32)
    for i in range(1, count + 1):
        (a, b), r = rng.integers(5, side - 5, 2), rng.uniform(4, 9)
        truth[(y - a) ** 2 + (x - b) ** 2 < r**2] = i
        if rng.random() < 0.9:
            a, b = np.add(rng.normal(0, 1.5, 2), (a, b))
            predicted[(y - a) ** 2 + (x - b) ** 2 < (r * rng.uniform(0.8, 1.2)) ** 2] = count + 1 - i
    return predicted, truth


def test_by_hand():
    truth, predicted = np.zeros((10, 20), int), np.zeros((10, 20), int)
    truth[:4, :5], truth[6:8, :5], truth[:2, 10:15] = 1, 2, 3  # 20, 10 and 10 pixels
    predicted[:4, 1:5], predicted[6:10, :5], predicted[8:, 18:] = 5, 9, 7  # 16 in 20; 10 of 20; 4 alone
    one = match_instances(predicted, truth)
    assert one.found.tolist() == [2, 1, 1, 1, 1, 1, 1, 0, 0, 0]  # IoU 0.8 and 0.5
    scores = instance_scores([one])
    assert scores["f1@0.5"] == pytest.approx(4 / 6)
    assert scores["ap@0.5"] == pytest.approx(2 / 4)
    assert scores["ap"] == pytest.approx((2 / 4 + 6 * 1 / 5) / 10)
    assert scores["aji"] == pytest.approx((16 + 10) / (20 + 20 + 10 + 4))
    assert scores["dq"] == pytest.approx(2 / 6)
    assert scores["sq"] == pytest.approx(0.8)
    assert scores["pq"] == pytest.approx(0.8 / 3)
    assert matched_pairs(predicted, truth).tolist() == [[5, 1], [9, 2]]
    assert overlaps(predicted, truth).shared.tolist() == [16, 10]


def test_half_overlaps_are_matched_one_to_one():
    truth = np.repeat([[1, 2]], 4, axis=1).reshape(1, 8)
    predicted = np.full((1, 8), 3)  # IoU 0.5 with both
    one = match_instances(predicted, truth, thresholds=[0.5])
    assert one.found.tolist() == [1]
    assert one.panoptic_found == 0
    # Taking the best pair first (IoU 0.5) would leave the two others without a partner.
    truth = np.array([[1] * 10 + [2] * 10])
    predicted = np.array([[3] * 3 + [4] * 11 + [0] * 6])
    assert match_instances(predicted, truth, thresholds=[0.2]).found.tolist() == [2]


def test_empty_images():
    nothing, something = np.zeros((5, 5), int), np.eye(5, dtype=int)
    neither = match_instances(nothing, nothing)
    missed = match_instances(nothing, something)
    assert all(math.isnan(v) for v in instance_scores([neither]).values())
    for one in (missed, match_instances(something, nothing)):
        scores = instance_scores([one])
        assert math.isnan(scores.pop("sq"))
        assert set(scores.values()) == {0.0}
    whole = match_instances(something, something)
    assert instance_scores([neither, whole])["ap"] == 1.0
    assert instance_scores([missed, whole])["ap"] == 0.5


@pytest.mark.parametrize("pooled", [True, False])
def test_weights_count_images_as_often_and_go_into_the_bootstrap(pooled):
    rng = np.random.default_rng(0)
    parts = [match_instances(*touching_discs(rng, side=60, count=n)) for n in (1, 4, 9, 2, 6)]
    weights = np.array([[1, 2], [1, 0], [1, 3], [1, 0], [1, 1]], float)
    many = instance_scores(parts, weights, pooled=pooled)
    plain_scores = instance_scores(parts, pooled=pooled)
    repeated = instance_scores([parts[i] for i in (0, 0, 2, 2, 2, 4)], pooled=pooled)
    for name, values in many.items():
        assert values[0] == pytest.approx(plain_scores[name]), name
        assert values[1] == pytest.approx(repeated[name]), name
    found = resampled(lambda w: instance_scores(parts, w, pooled=pooled), list("abcde"), resamples=200)
    assert found["ap"]["low"] < found["ap"]["value"] < found["ap"]["high"]


def test_many_instances_are_quick_and_large_numbers_allowed():
    truth = np.arange(1, 250_001).reshape(500, 500) // 25 + 1
    big = truth.astype(np.uint64) * 10**12
    one = match_instances(big, truth)
    assert one.true == one.predicted == one.found[-1]


@pytest.mark.parametrize(
    ("predicted", "truth", "words"),
    [
        (np.zeros((3, 3), int), np.zeros((3, 4), int), "of one shape"),
        (np.zeros((3, 3)), np.zeros((3, 3), int), "the prediction is of type float64"),
        (np.zeros((3, 3), int), np.zeros((3, 3), np.float32), "the truth is of type float32"),
    ],
)
def test_bad_maps_are_named(predicted, truth, words):
    with pytest.raises(ValueError, match=words):
        match_instances(predicted, truth)


def test_bad_thresholds_and_no_images_are_named():
    nothing = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        match_instances(nothing, nothing, thresholds=[0.0])
    with pytest.raises(ValueError, match="no image"):
        instance_scores([])
    with pytest.raises(ValueError, match="different thresholds"):
        instance_scores(
            [match_instances(nothing, nothing), match_instances(nothing, nothing, thresholds=[0.5])]
        )

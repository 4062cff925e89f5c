"""Detection scores against COCO evaluators, plain loops and hand-made curves."""

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.metrics.bootstrap import resampled
from medspectrum.metrics.boxes import COCO_THRESHOLDS, box_iou, match_boxes
from medspectrum.metrics.coco import FoundBoxes, TrueBoxes, coco_scores
from medspectrum.metrics.detection import FROC_RATES, average_precision, froc


def made_images(rng, n, *, dims=2, classes=3, whole=True):
    """Images of true boxes and found ones like them: moved, missed, doubled, mislabelled, made up."""
    found, true = [], []
    for _ in range(n):
        count = int(rng.integers(0, 7))
        start = rng.integers(0, 60, (count, dims)).astype(float)
        boxes = np.concatenate([start, start + rng.integers(2, 30, (count, dims))], axis=1)
        labels = rng.integers(0, classes, count)
        true.append(TrueBoxes(boxes, labels))
        again = rng.integers(0, count, int(rng.integers(0, 2 * count + 1))) if count else np.zeros(0, int)
        moved = boxes[again] + rng.integers(-3, 4, (len(again), 2 * dims))
        lost = rng.integers(0, 60, (int(rng.integers(0, 4)), dims)).astype(float)
        moved = np.concatenate([moved, np.concatenate([lost, lost + 8], axis=1)])
        moved[:, dims:] = np.maximum(moved[:, dims:], moved[:, :dims] + 1)
        names = np.concatenate([labels[again], rng.integers(0, classes, len(lost))])
        swapped = rng.random(len(names)) < 0.1
        names[swapped] = rng.integers(0, classes, swapped.sum())
        scores = rng.integers(1, 40, len(names)) / 40 if whole else rng.random(len(names))
        found.append(FoundBoxes(moved, scores, names))
    return found, true


def matched(found, true, *, classes=3, **ask):
    return [match_boxes(*f, *t, classes=classes, **ask) for f, t in zip(found, true, strict=True)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_average_precision_is_coco_evaluators(seed, n):
    pytest.importorskip("faster_coco_eval", reason="pip install 'medspectrum[detection]'")
    found, true = made_images(np.random.default_rng(seed), n)
    if not any(len(t.labels) for t in true) or not any(len(f.labels) for f in found):
        return
    theirs = coco_scores(found, true, ["a", "b", "c"])
    ours = average_precision(matched(found, true), names=["a", "b", "c"])
    for name, value in theirs.items():
        if name not in ("map_small", "map_medium", "map_large"):
            assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_average_precision_is_pycocotools():
    pytest.importorskip("pycocotools", reason="pip install pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, true = made_images(np.random.default_rng(1), 30, whole=False)

    def row(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        every = [(i, b, c) for i, t in enumerate(true) for b, c in zip(t.boxes, t.labels, strict=True)]
        truth.dataset = {
            "images": [{"id": i} for i in range(30)],
            "categories": [{"id": c} for c in range(3)],
            "annotations": [
                {
                    "id": k + 1,
                    "image_id": i,
                    "category_id": int(c),
                    "bbox": row(b),
                    "area": 1000,
                    "iscrowd": 0,
                }
                for k, (i, b, c) in enumerate(every)
            ],
        }
        truth.createIndex()
        results = truth.loadRes(
            [
                {"image_id": i, "category_id": int(c), "bbox": row(b), "score": float(s)}
                for i, f in enumerate(found)
                for b, s, c in zip(*f, strict=True)
            ]
        )
        evaluator = COCOeval(truth, results, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ours = average_precision(matched(found, true))
    assert ours["map"] == pytest.approx(evaluator.stats[0], abs=1e-9)
    assert ours["map@0.5"] == pytest.approx(evaluator.stats[1], abs=1e-9)
    assert ours["map@0.75"] == pytest.approx(evaluator.stats[2], abs=1e-9)
    assert ours["ar"] == pytest.approx(evaluator.stats[8], abs=1e-9)
    assert 0.02 < ours["map"] < 0.9


def test_one_label_by_hand():
    """Boxes by score: hit, miss, hit, second on the first; 2 of 3 true boxes are found."""
    true = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], float)
    boxes = np.array([[0, 0, 10, 10], [70, 70, 80, 80], [20, 20, 30, 30], [0, 0, 10, 9]], float)
    one = match_boxes(
        boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int), true, np.zeros(3, int), classes=1
    )
    assert one.hit[0].tolist() == [True, False, True, False]
    scores = average_precision([one], names=["cell"])
    # Precision 1 up to recall 1/3 (34 of the 101 recalls), then 2/3 up to 2/3 (33 more), then 0.
    assert scores["map"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert scores["ap@0.5/cell"] == scores["map@0.5"] == pytest.approx(scores["map"])
    assert scores["ar"] == pytest.approx(2 / 3)
    curve = froc([one], iou=0.5)
    # No false positive: 1/3 found; one: 2/3, and linear between.
    assert curve["sensitivity@0.125"] == pytest.approx(1 / 3 + 0.0)
    assert curve["sensitivity@8"] == pytest.approx(2 / 3)
    assert curve["froc"] == pytest.approx(np.mean([curve[f"sensitivity@{rate:g}"] for rate in FROC_RATES]))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_weights_count_images_as_often(seed):
    rng = np.random.default_rng(seed)
    found, true = made_images(rng, 6, whole=False)  # scores without ties: repeated images differ in none
    parts = matched(found, true, thresholds=(0.1, 0.5, 0.75))
    times = rng.integers(0, 4, (6, 3))
    for score in (average_precision, lambda m, w=None: froc(m, w, iou=0.1)):
        many = score(parts, times.astype(float))
        for column in range(3):
            repeated = [m for m, k in zip(parts, times[:, column], strict=True) for _ in range(k)]
            alone = score(parts, times[:, column].astype(float))
            if not repeated:
                assert all(math.isnan(v) for v in alone.values())
                continue
            for name, value in score(repeated).items():
                assert many[name][column] == pytest.approx(value, abs=1e-3, nan_ok=True), name
                assert alone[name] == pytest.approx(many[name][column], nan_ok=True), name


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
@settings(max_examples=60, deadline=None)
def test_bounds_identity_and_moving_everything(seed, dims):
    rng = np.random.default_rng(seed)
    found, true = made_images(rng, 5, dims=dims)
    for name, value in average_precision(matched(found, true)).items():
        assert math.isnan(value) or 0 <= value <= 1, name
    if not any(len(t.labels) for t in true):
        return
    own = [FoundBoxes(t.boxes, np.ones(len(t.labels)), t.labels) for t in true]
    perfect = average_precision(matched(own, true))
    assert perfect["map"] == pytest.approx(1.0)
    assert froc(matched(own, true), iou=0.5)["froc"] == 1.0
    shift, stretch = rng.integers(-50, 50, dims), 2.0 ** rng.integers(-2, 3, dims)

    def moved(boxes):
        return boxes.reshape(-1, 2 * dims) * np.tile(stretch, 2) + np.tile(shift, 2)

    there = matched(
        [f._replace(boxes=moved(f.boxes)) for f in found], [t._replace(boxes=moved(t.boxes)) for t in true]
    )
    assert average_precision(there) == pytest.approx(average_precision(matched(found, true)), nan_ok=True)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
@settings(max_examples=60, deadline=None)
def test_iou_counts_unit_cells(seed, dims):
    rng = np.random.default_rng(seed)

    def some(n):
        start = rng.integers(0, 6, (n, dims))
        return np.concatenate([start, start + rng.integers(0, 5, (n, dims))], axis=1)

    boxes, others = some(4), some(3)
    cells = np.stack(np.meshgrid(*[np.arange(12)] * dims, indexing="ij"), axis=-1).reshape(-1, dims)
    inside = [
        np.array([((cells >= b[:dims]) & (cells < b[dims:])).all(axis=1) for b in each])
        for each in (boxes, others)
    ]
    plain = np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in inside[1]] for a in inside[0]])
    np.testing.assert_allclose(box_iou(boxes, others), plain)
    np.testing.assert_allclose(box_iou(others, boxes), plain.T)


def plain_froc(matches, iou_at, rates):
    """Operating points at each distinct score, one by one."""
    scores = np.concatenate([m.scores for m in matches])
    hits = np.concatenate([m.hit[iou_at] for m in matches])
    lesions = sum(m.true.sum() for m in matches)
    points = [(0.0, 0.0)]
    points += [
        ((~hits[scores >= t]).sum() / len(matches), hits[scores >= t].sum() / lesions)
        for t in sorted(set(scores), reverse=True)
    ]
    x, y = np.array(points).T
    return [np.interp(rate, x, y) for rate in rates]


def test_froc_is_that_of_a_plain_loop_and_of_monai():
    found, true = made_images(np.random.default_rng(5), 12, dims=3)
    parts = matched(found, true, thresholds=(0.1,))
    ours = froc(parts, iou=0.1)
    plain = plain_froc(parts, 0, FROC_RATES)
    assert [ours[f"sensitivity@{rate:g}"] for rate in FROC_RATES] == pytest.approx(plain)
    assert plain[0] < plain[-1] < 1
    one = froc(parts, iou=0.1, label=1)
    assert one["sensitivity@8"] == pytest.approx(
        sum(m.hit[0][m.labels == 1].sum() for m in parts) / sum(m.true[1] for m in parts)
    )
    metrics = pytest.importorskip("monai.metrics", reason="pip install 'medspectrum[peers]'")
    scores, hit = (np.concatenate(each) for each in zip(*[(m.scores, m.hit[0]) for m in parts], strict=True))
    # MONAI leaves the operating point of the lowest score out: one that changes nothing is added.
    curve = metrics.compute_froc_curve_data(
        np.append(scores[~hit], -1.0), scores[hit], int(sum(m.true.sum() for m in parts)), len(parts)
    )
    assert ours["froc"] == pytest.approx(metrics.compute_froc_score(*curve, eval_thresholds=FROC_RATES))


def test_images_without_boxes_count_for_false_positives_only():
    none, box = np.zeros((0, 4)), np.array([[0, 0, 5, 5.0]])
    nothing = match_boxes(none, [], [], none, [], classes=1)
    alarm = match_boxes(box, [0.5], [0], none, [], classes=1)
    hit = match_boxes(box, [0.4], [0], box, [0], classes=1)
    missed = match_boxes(none, [], [], box, [0], classes=1)
    assert all(math.isnan(v) for v in average_precision([nothing, alarm]).values())
    assert all(math.isnan(v) for v in froc([nothing, alarm], iou=0.5).values())
    assert average_precision([missed])["map"] == froc([missed], iou=0.5)["froc"] == 0
    assert froc([alarm, hit], iou=0.5)["sensitivity@0.5"] == 1
    # the false alarm stands above the hit: below half a false positive an image nothing is found
    assert froc([alarm, hit], iou=0.5)["sensitivity@0.25"] == 0
    assert froc([alarm, hit, nothing, nothing], iou=0.5)["sensitivity@0.25"] == 1


def test_at_most_a_hundred_boxes_of_a_label():
    box = np.array([[0, 0, 5, 5.0]])
    boxes, scores = np.tile([50, 50, 60, 60.0], (150, 1)), np.linspace(1, 0.5, 150)
    late = match_boxes(np.vstack([boxes, box]), [*scores, 0.1], [0] * 151, box, [0], classes=2)
    assert len(late.scores) == 100
    assert average_precision([late])["map@0.5"] == 0
    assert (
        average_precision(
            [match_boxes(np.vstack([boxes, box]), [*scores, 0.1], [0] * 151, box, [0], classes=2, most=200)]
        )["map@0.5"]
        > 0
    )


def test_scores_go_into_the_bootstrap():
    found, true = made_images(np.random.default_rng(2), 20)
    parts = matched(found, true)
    interval = resampled(
        lambda w: average_precision(parts, w) | froc(parts, w, iou=0.5),
        [str(i // 2) for i in range(20)],
        resamples=200,
    )
    for name in ("map", "map@0.5", "froc"):
        assert interval[name]["low"] < interval[name]["value"] < interval[name]["high"]


GOOD = (np.array([[0, 0, 5, 5.0]]), [0.5], [0], np.array([[0, 0, 5, 5.0]]), [0])


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, [[0, 0, 5]], "rows of 4"),
        (0, [[5, 0, 0, 5.0]], "row 0 of the found boxes"),
        (0, [[0, 0, math.nan, 5]], "row 0 of the found boxes"),
        (1, [math.nan], "NaN or infinite"),
        (1, [0.1, 0.2], "2 scores"),
        (2, [1], "label 1; there are 1 classes"),
        (2, [-1], "label -1"),
        (2, [0.5], "not of type float64"),
        (3, [[0, 0, 0, 5.0]], "true box 0 has no size"),
        (3, [[0, 0, 0, 5, 5, 5.0]], "boxes of 4 and of 6 numbers"),
        (4, [], "0 labels"),
    ],
)
def test_bad_boxes_are_named(at, value, words):
    with pytest.raises(ValueError, match=words):
        match_boxes(*[value if i == at else good for i, good in enumerate(GOOD)], classes=1)


def test_bad_questions_are_named():
    one = match_boxes(*GOOD, classes=1)
    with pytest.raises(ValueError, match="no image"):
        average_precision([])
    with pytest.raises(ValueError, match="different thresholds"):
        average_precision([one, match_boxes(*GOOD, classes=2)])
    with pytest.raises(ValueError, match=r"not at 0\.1"):
        froc([one], iou=0.1)
    with pytest.raises(ValueError, match="no label 3"):
        froc([one], iou=0.5, label=3)
    with pytest.raises(ValueError, match="2 names"):
        average_precision([one], names=["a", "b"])
    with pytest.raises(ValueError, match="1 images were looked at"):
        coco_scores([FoundBoxes(*GOOD[:3])], [], ["a"])
    assert one.thresholds == COCO_THRESHOLDS


def test_coco_scores_without_boxes():
    pytest.importorskip("faster_coco_eval", reason="pip install 'medspectrum[detection]'")
    nothing, box = FoundBoxes(np.zeros((0, 4)), [], []), np.array([[0, 0, 5, 5.0]])
    missed = coco_scores([nothing], [TrueBoxes(box, [0])], ["a", "b"])
    assert missed["map"] == missed["ap/a"] == missed["ar"] == 0
    assert math.isnan(missed["ap/b"])
    neither = coco_scores([nothing], [TrueBoxes(np.zeros((0, 4)), [])], ["a"])
    alarm = coco_scores([FoundBoxes(box, [0.5], [0])], [TrueBoxes(np.zeros((0, 4)), [])], ["a"])
    assert all(math.isnan(value) for scores in (neither, alarm) for value in scores.values())

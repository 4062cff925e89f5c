"""Boxes in two and three dimensions: how much they overlap, and which found box is which true one.

A box is a row of starts, then ends: x0, y0, x1, y1, or x0, y0, z0, x1, y1, z1 (any order of axes, the same
for all). Coordinates are edges, not pixel centres: a box of one pixel is 1 wide. Units are the caller's;
in three dimensions pixels of different sides give the same IoU as mm, since volumes scale alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COCO_THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
"""As COCO's evaluator has them, to the last digit: some are a hair off the decimal number."""
MOST_PER_CLASS = 100


class BoxMatches(NamedTuple):
    """One image's part of every detection score.

    thresholds: on the IoU. scores, labels (m,): of the found boxes that count, the highest scores of each
    label first. hit (k, m): whether each has a true box to itself at each threshold. true (classes,): true
    boxes of each label.
    """

    thresholds: tuple[float, ...]
    scores: np.ndarray
    labels: np.ndarray
    hit: np.ndarray
    true: np.ndarray


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of n boxes with m others, 0 where both are without size.

    Raises ValueError for rows that are not boxes.
    """
    boxes, others = _checked_boxes(boxes, "boxes"), _checked_boxes(others, "others")
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    if boxes.shape[1] != others.shape[1]:
        raise ValueError(
            f"boxes of {boxes.shape[1]} and of {others.shape[1]} numbers have no overlap to measure"
        )
    d = boxes.shape[1] // 2
    shared = np.ones((len(boxes), len(others)))
    for axis in range(d):
        start = np.maximum(boxes[:, None, axis], others[None, :, axis])
        end = np.minimum(boxes[:, None, d + axis], others[None, :, d + axis])
        shared *= np.maximum(end - start, 0.0)
    sizes = [(each[:, d:] - each[:, :d]).prod(axis=1) for each in (boxes, others)]
    joined = sizes[0][:, None] + sizes[1][None] - shared
    return np.divide(shared, joined, out=np.zeros_like(shared), where=joined > 0)


def match_boxes(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    *,
    classes: int,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    most: int = MOST_PER_CLASS,
) -> BoxMatches:
    """Match the boxes found in one image to its true ones as COCO's evaluator does.

    Within a label, found boxes choose in falling order of score: each takes the free true box of the
    highest IoU, if that reaches the threshold. Labels are whole numbers below ``classes``; only the
    ``most`` highest scores of a label count. Raises ValueError for input that makes no sense.
    """
    boxes, true_boxes = _checked_boxes(boxes, "found boxes"), _checked_boxes(true_boxes, "true boxes")
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    labels, true_labels = _checked_labels(labels, classes), _checked_labels(true_labels, classes)
    if not len(boxes) == len(scores) == len(labels) or len(true_boxes) != len(true_labels):
        raise ValueError(
            f"each box needs its label, and each found one its score: {len(boxes)} found boxes have "
            f"{len(scores)} scores and {len(labels)} labels, {len(true_boxes)} true boxes have "
            f"{len(true_labels)} labels"
        )
    if not np.isfinite(scores).all():
        raise ValueError("a score of a found box is NaN or infinite")
    d = true_boxes.shape[1] // 2
    empty = np.flatnonzero((true_boxes[:, d:] <= true_boxes[:, :d]).any(axis=1))
    if len(empty):
        raise ValueError(
            f"true box {empty[0]} has no size, so nothing can match it: {true_boxes[empty[0]].tolist()}"
        )
    limits = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)
    kept, hits = [], []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")][:most]
        kept.append(mine)
        hits.append(_hits(box_iou(boxes[mine], true_boxes[true_labels == label]), limits))
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    hit = np.concatenate(hits, axis=1) if hits else np.zeros((len(limits), 0), bool)
    return BoxMatches(
        tuple(float(t) for t in thresholds),
        scores[rows],
        labels[rows],
        hit,
        np.bincount(true_labels, minlength=classes),
    )


def _hits(iou: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(k, n) whether each of n boxes, best first, gets one of m true boxes at each of k limits."""
    n, m = iou.shape
    hit = np.zeros((len(limits), n), bool)
    if not m:
        return hit
    free = np.ones((len(limits), m), bool)
    at = np.arange(len(limits))
    for row in np.flatnonzero(iou.max(axis=1) >= limits.min()):
        open_iou = np.where(free, iou[row], -1.0)
        best = m - 1 - open_iou[:, ::-1].argmax(axis=1)  # of equal ones the last, as COCO's evaluator takes
        reached = open_iou[at, best] >= limits
        hit[:, row] = reached
        free[at[reached], best[reached]] = False
    return hit


def _checked_boxes(boxes: np.ndarray, name: str) -> np.ndarray:
    """(n, 4) or (n, 6) float64; no boxes at all may come in any shape."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if not boxes.size:
        return np.zeros((0, boxes.shape[1] if boxes.ndim == 2 and boxes.shape[1] in (4, 6) else 4))
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6):
        raise ValueError(f"{name} come as rows of 4 (2-D) or 6 (3-D) numbers, not in the shape {boxes.shape}")
    d = boxes.shape[1] // 2
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, d:] < boxes[:, :d]).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} of the {name} must be starts, then ends that are no smaller, all finite; "
            f"it is {boxes[wrong[0]].tolist()}"
        )
    return boxes


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n,) whole numbers from 0 to below the number of classes."""
    labels = np.asarray(labels).reshape(-1)
    if not labels.size:
        return np.zeros(0, np.int64)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels of boxes are whole numbers, not of type {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"a box has the label {wrong}; there are {classes} classes, counted from 0")
    return labels.astype(np.int64)

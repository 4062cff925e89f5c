"""How good detections are over many images: COCO's average precision, and FROC for lesions.

Both start from each image's matches (``boxes.match_boxes``) and take ``weights``: None (floats come back),
or (n,) or (n, R), how often each image counts, as ``bootstrap.resampled`` passes them (arrays (R,) for the
last).

* ``average_precision``: for each label and threshold on the IoU, boxes of all images in falling order of
  score give precision and recall; precision is made to fall with recall, read at the 101 recalls 0, 0.01,
  ... 1, and averaged. ``map`` is the mean over labels and over the thresholds 0.50, 0.55, ... 0.95,
  ``map@0.5`` over labels at one. ``ar`` is the mean recall of all boxes kept (at most 100 an image and
  label). Labels without a true box do not count. These are the numbers of COCO's evaluator for boxes of
  any size without crowds (equal to it to 1e-9, see the tests; ``coco_scores`` asks it itself).
* ``froc``: the share of lesions found when there are on average 1/8, 1/4, ... 8 false positives an image,
  and the mean over those seven rates (the score of the challenges ANODE09 and LUNA16). A second box on a
  lesion already found is a false positive. Between the rates that occur the curve is linear, beyond the
  last it stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.metrics.boxes import BoxMatches

RECALLS = np.linspace(0.0, 1.0, 101)
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def average_precision(
    matches: Sequence[BoxMatches],
    weights: np.ndarray | None = None,
    *,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """``map``, ``map@0.5`` and the other thresholds, ``ar``; per label ``ap/NAME``, ``ap@0.5/NAME``.

    names: of the labels, for the keys; their numbers where None. ``ap@0.5/NAME`` is there if 0.5 is among
    the thresholds. NaN where no true box is.
    """
    thresholds, classes = _agreed(matches)
    names = [str(i) for i in range(classes)] if names is None else list(names)
    if len(names) != classes:
        raise ValueError(f"{len(names)} names do not fit {classes} classes")
    columns = _columns(weights, len(matches))
    precision = np.empty((classes, len(thresholds), columns.shape[1]))
    recall = np.empty_like(precision)
    for label in range(classes):
        image, scores, hit, total = _of_label(matches, label, columns)
        precision[label], recall[label] = _precision_and_recall(image, scores, hit, total, columns)
    values = {"map": _mean(precision.reshape(-1, columns.shape[1]))}
    values |= {f"map@{t:g}": _mean(precision[:, i]) for i, t in enumerate(thresholds)}
    values["ar"] = _mean(recall.reshape(-1, columns.shape[1]))
    for label, name in enumerate(names):
        values[f"ap/{name}"] = _mean(precision[label])
        if 0.5 in thresholds:
            values[f"ap@0.5/{name}"] = precision[label, thresholds.index(0.5)]
    return _given(values, weights)


def froc(
    matches: Sequence[BoxMatches],
    weights: np.ndarray | None = None,
    *,
    iou: float,
    rates: Sequence[float] = FROC_RATES,
    label: int | None = None,
) -> dict[str, Any]:
    """``froc``, and ``sensitivity@0.125`` ... at each rate of false positives per image.

    iou: the threshold that makes a hit, one of those that were matched at. label: only boxes of that
    label; None takes all labels together, each box still matched within its own. NaN without lesions.
    """
    thresholds, classes = _agreed(matches)
    if iou not in thresholds:
        raise ValueError(f"boxes were matched at IoU {thresholds}, not at {iou}; match them with it")
    if label is not None and not 0 <= label < classes:
        raise ValueError(f"there is no label {label} among {classes} classes, counted from 0")
    columns = _columns(weights, len(matches))
    image, scores, hit, total = _of_label(matches, label, columns)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))[: len(scores)]  # of equal scores
    hit = hit[thresholds.index(iou)][order]
    each = columns[image[order]]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.cumsum(each * hit[:, None], axis=0)[last] / total
        wrong = np.cumsum(each * ~hit[:, None], axis=0)[last] / columns.sum(axis=0)
    sensitivity = np.full((len(rates), columns.shape[1]), math.nan)
    for r in np.flatnonzero((total > 0) & (columns.sum(axis=0) > 0)):
        sensitivity[:, r] = np.interp(rates, np.append(0.0, wrong[:, r]), np.append(0.0, found[:, r]))
    values = {"froc": sensitivity.mean(axis=0)}
    values |= {f"sensitivity@{rate:g}": row for rate, row in zip(rates, sensitivity, strict=True)}
    return _given(values, weights)


def _agreed(matches: Sequence[BoxMatches]) -> tuple[tuple[float, ...], int]:
    """Thresholds and number of classes that all images share."""
    if not matches:
        raise ValueError("there is no image to score")
    if len({(m.thresholds, len(m.true)) for m in matches}) > 1:
        raise ValueError("the images were matched at different thresholds or for different classes")
    return matches[0].thresholds, len(matches[0].true)


def _columns(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights as (n, R)."""
    columns = np.ones((n, 1)) if weights is None else np.asarray(weights, dtype=np.float64)
    return columns[:, None] if columns.ndim == 1 else columns


def _of_label(
    matches: Sequence[BoxMatches], label: int | None, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of one label (or all) over the images: image (m,), score (m,), hit (k, m); true boxes (R,)."""
    chosen = [np.ones(len(m.labels), bool) if label is None else m.labels == label for m in matches]
    image = np.repeat(np.arange(len(matches)), [int(some.sum()) for some in chosen])
    scores = np.concatenate([m.scores[some] for m, some in zip(matches, chosen, strict=True)])
    hit = np.concatenate([m.hit[:, some] for m, some in zip(matches, chosen, strict=True)], axis=1)
    true = np.array([m.true.sum() if label is None else m.true[label] for m in matches], dtype=np.float64)
    return image, scores, hit, true @ columns


def _precision_and_recall(
    image: np.ndarray, scores: np.ndarray, hit: np.ndarray, total: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(k, R) average precision over the 101 recalls, and (k, R) recall of all boxes; NaN without true ones.

    Precision only rises where a true box is found, so the steps at hits hold all that is read off: a hit
    that brings recall past some of the 101 values is read that many times.
    """
    order = np.argsort(-scores, kind="stable")
    each = columns[image[order]]
    seen = np.cumsum(each, axis=0)
    precision, recall = np.zeros((2, len(hit), columns.shape[1]))
    for i, is_hit in enumerate(hit[:, order]):
        rows = np.flatnonzero(is_hit)
        if not len(rows):
            continue
        found = np.cumsum(each[rows], axis=0)
        reached = found / np.maximum(total, np.finfo(np.float64).tiny)
        highest = np.maximum.accumulate((found / (seen[rows] + np.spacing(1)))[::-1], axis=0)[::-1]
        reads = np.searchsorted(RECALLS, reached, side="right")
        precision[i] = (highest * np.diff(reads, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
        recall[i] = reached[-1]
    return np.where(total > 0, precision, math.nan), np.where(total > 0, recall, math.nan)


def _mean(rows: np.ndarray) -> np.ndarray:
    """(R,) mean over the first axis of what is defined."""
    known = ~np.isnan(rows)
    total = np.where(known, rows, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, math.nan), where=known.any(axis=0))


def _given(values: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, Any]:
    """Floats where one weighting was asked for."""
    one = weights is None or np.ndim(weights) == 1
    return {name: float(row[0]) if one else row for name, row in values.items()}

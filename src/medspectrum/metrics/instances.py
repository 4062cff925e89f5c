"""How well separate things are told apart: nuclei, cells, and other instances in label maps.

An instance map holds a whole number per pixel, 0 for background and another one for each instance; which
number means nothing. Predicted and true instances are matched by intersection over union (IoU), each to
at most one, so that as many as possible reach a threshold, and of equally many those of the larger IoU.

* ``f1@t`` 2TP / (2TP + FP + FN) and ``ap@t`` TP / (TP + FP + FN), for matches of IoU t and above; ``f1``
  and ``ap`` their means over the thresholds 0.50, 0.55, ... 0.95. ``ap`` is the score of the 2018 Data
  Science Bowl and StarDist's "accuracy"; it has no confidences and is not COCO's average precision.
* ``pq`` = ``dq`` x ``sq``: panoptic quality (Kirillov et al. 2019, arXiv:1801.00868) of one class. ``dq``
  is F1 of the matches with an IoU above 0.5, ``sq`` the mean IoU of those (NaN without any).
* ``aji``: aggregated Jaccard index (Kumar et al. 2017, doi:10.1109/TMI.2017.2677499). Every true instance
  takes the prediction of the highest IoU (of equals, the lowest number), which may be taken again;
  predictions that no true instance took count in full in the denominator.

An image without any instance in either map gives NaN, which means leave out; one with instances in one map
only gives 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_FULL_TABLE = 1 << 22


class Overlaps(NamedTuple):
    """Which true and predicted instances share pixels: a sparse table, one row per pair.

    true_size (t,), predicted_size (p,): pixels of each instance. true, predicted (m,): indices into those.
    shared (m,): pixels in common.
    """

    true_size: np.ndarray
    predicted_size: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    shared: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """(m,) intersection over union of the pairs."""
        return self.shared / (self.true_size[self.true] + self.predicted_size[self.predicted] - self.shared)


class InstanceMatches(NamedTuple):
    """One image's part of every score; what ``instance_scores`` adds up or averages.

    found (k,): matches at each threshold. panoptic_found, panoptic_iou: number and summed IoU of matches
    above 0.5. shared, joined: numerator and denominator of the aggregated Jaccard index, in pixels.
    """

    thresholds: tuple[float, ...]
    true: int
    predicted: int
    found: np.ndarray
    panoptic_found: int
    panoptic_iou: float
    shared: int
    joined: int


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> Overlaps:
    """The overlaps of two instance maps of one shape.

    Raises ValueError where shapes differ or a map does not hold whole numbers.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must be of one shape; theirs are {predicted.shape} and {truth.shape}"
        )
    for name, each in (("prediction", predicted), ("truth", truth)):
        if each.dtype.kind not in "iub":
            raise ValueError(f"an instance map holds whole numbers; the {name} is of type {each.dtype}")
    mine, true = predicted.reshape(-1), truth.reshape(-1)
    inside = np.flatnonzero((mine != 0) | (true != 0))
    mine, predicted_size = _numbered(mine[inside])
    true, true_size = _numbered(true[inside])
    width = len(predicted_size) + 1
    pair = true * width + mine
    if (len(true_size) + 1) * width <= max(_FULL_TABLE, len(pair)):
        counts = np.bincount(pair)
        codes = np.flatnonzero(counts)
        shared = counts[codes]
    else:
        codes, shared = np.unique(pair, return_counts=True)
    rows, columns = codes // width, codes % width
    both = (rows > 0) & (columns > 0)
    return Overlaps(true_size, predicted_size, rows[both] - 1, columns[both] - 1, shared[both])


def match_instances(
    predicted: np.ndarray, truth: np.ndarray, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> InstanceMatches:
    """Match the instances of one image, at every threshold on the IoU (above 0, at most 1).

    Raises ValueError where shapes differ, a map does not hold whole numbers, or a threshold makes no sense.
    """
    if not all(0 < t <= 1 for t in thresholds):
        raise ValueError(f"thresholds on the IoU lie above 0 and up to 1, not {tuple(thresholds)}")
    table = overlaps(predicted, truth)
    iou = table.iou
    found = [len(_matched(table, iou, iou >= t)) for t in thresholds]
    certain = iou > 0.5  # an instance has at most one partner of that IoU
    shared, joined = _jaccard(table, iou)
    return InstanceMatches(
        tuple(float(t) for t in thresholds),
        len(table.true_size),
        len(table.predicted_size),
        np.array(found, dtype=np.int64),
        int(certain.sum()),
        float(iou[certain].sum()),
        shared,
        joined,
    )


def matched_pairs(predicted: np.ndarray, truth: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """(m, 2) values of predicted and true instances that match at a threshold on the IoU."""
    table = overlaps(predicted, truth)
    rows = _matched(table, table.iou, table.iou >= threshold)
    names = [np.unique(each)[np.unique(each) != 0] for each in (predicted, truth)]
    return np.stack([names[0][table.predicted[rows]], names[1][table.true[rows]]], axis=1)


def instance_scores(
    matches: Sequence[InstanceMatches], weights: np.ndarray | None = None, *, pooled: bool = False
) -> dict[str, Any]:
    """Scores over images: ``ap``, ``f1``, ``ap@0.5`` ..., ``f1@0.5`` ..., ``aji``, ``pq``, ``dq``, ``sq``.

    pooled: add up matches over the images and score once, so that images count by their instances;
    otherwise score each image and take the mean, NaN left out. weights: None (floats come back), or (n,)
    or (n, R) as ``bootstrap.resampled`` passes them (arrays (R,) for the last).
    """
    if not matches:
        raise ValueError("there is no image to score")
    if len({m.thresholds for m in matches}) > 1:
        raise ValueError("the images were matched at different thresholds; match them at the same ones")
    columns = np.ones((len(matches), 1)) if weights is None else np.asarray(weights, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    parts = _parts(matches)
    if pooled:
        values = _scores({name: part.T @ columns for name, part in parts.items()})
    else:
        each = _scores({name: part.T for name, part in parts.items()})
        values = {name: _mean(rows, columns) for name, rows in each.items()}
    result: dict[str, np.ndarray] = {}
    for score in ("ap", "f1"):
        result[score] = values[score].mean(axis=0)
        result |= {f"{score}@{t:g}": row for t, row in zip(matches[0].thresholds, values[score], strict=True)}
    result |= {score: values[score][0] for score in ("aji", "pq", "dq", "sq")}
    one = weights is None or np.ndim(weights) == 1
    return {name: float(row[0]) if one else row for name, row in result.items()}


def _parts(matches: Sequence[InstanceMatches]) -> dict[str, np.ndarray]:
    """What is added up over images, each (n, k) or (n, 1)."""

    def column(name: str) -> np.ndarray:
        return np.array([[getattr(m, name)] for m in matches], dtype=np.float64)

    names = ("true", "predicted", "panoptic_found", "panoptic_iou", "shared", "joined")
    return {"found": np.array([m.found for m in matches], np.float64)} | {n: column(n) for n in names}


def _scores(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of added-up parts, each (k, columns) or (1, columns)."""
    either = parts["true"] + parts["predicted"]
    dq = _ratio(2 * parts["panoptic_found"], either)
    return {
        "ap": _ratio(parts["found"], either - parts["found"]),
        "f1": _ratio(2 * parts["found"], either),
        "aji": _ratio(parts["shared"], parts["joined"]),
        "pq": _ratio(2 * parts["panoptic_iou"], either),
        "dq": dq,
        "sq": _ratio(parts["panoptic_iou"], parts["panoptic_found"]),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient, NaN where there is nothing below."""
    return np.divide(above, below, out=np.full(above.shape, math.nan), where=below > 0)


def _mean(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Weighted mean of (k, n) over the images, NaN left out: (k, R)."""
    known = ~np.isnan(rows)
    return _ratio(np.where(known, rows, 0.0) @ columns, known @ columns)


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values as 0 for 0 and 1, 2, ... for the others in rising order, and pixels of each but 0."""
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= max(_FULL_TABLE, len(values)):
        counts = np.bincount(values)
        counts[0] = 0
        names = np.flatnonzero(counts)
        number = np.zeros(len(counts), np.int64)
        number[names] = np.arange(1, len(names) + 1)
        return number[values], counts[names]
    names, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    zero = names == 0
    order = np.cumsum(~zero)
    order[zero] = 0
    return order[number], counts[~zero]


def _matched(table: Overlaps, iou: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Rows of the pairs that are matched, among those allowed."""
    rows = np.flatnonzero(allowed)
    true, predicted = table.true[rows], table.predicted[rows]
    times = [np.bincount(each)[each] if len(each) else each for each in (true, predicted)]
    contested = (times[0] > 1) | (times[1] > 1)
    if not contested.any():
        return rows
    from scipy.optimize import linear_sum_assignment

    open_rows = rows[contested]
    ones, i = np.unique(table.true[open_rows], return_inverse=True)
    others, j = np.unique(table.predicted[open_rows], return_inverse=True)
    gain = np.zeros((len(ones), len(others)))
    gain[i, j] = 1 + iou[open_rows] / (1 + min(gain.shape))  # one more match outweighs any IoU
    row_of = np.full(gain.shape, -1)
    row_of[i, j] = open_rows
    chosen = row_of[linear_sum_assignment(gain, maximize=True)]
    return np.sort(np.concatenate([rows[~contested], chosen[chosen >= 0]]))


def _jaccard(table: Overlaps, iou: np.ndarray) -> tuple[int, int]:
    """Numerator and denominator of the aggregated Jaccard index."""
    order = np.lexsort((table.predicted, -iou, table.true))
    best = order[np.unique(table.true[order], return_index=True)[1]]
    shared = int(table.shared[best].sum())
    taken = np.unique(table.predicted[best])
    joined = table.true_size.sum() + table.predicted_size[table.predicted[best]].sum() - shared
    joined += table.predicted_size.sum() - table.predicted_size[taken].sum()
    return shared, int(joined)

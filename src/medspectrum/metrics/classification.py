"""How good class probabilities are: discrimination, decisions, and calibration.

Every score takes ``probabilities`` (n, k) whose rows sum to 1, ``truth`` (n,) integers below k, and
``weights``: None (each case counts once), (n,), or (n, R) for R weightings at once, as the bootstrap
uses. The first two give a float, the last an array (R,). NaN says that the score is undefined there:
a class without cases, or without any other. The prediction is the class of the highest probability,
the first one where several tie.

Definitions (all agree with scikit-learn where it has the score):

* ``auc``: area under the ROC curve, ties count half. Two classes: of the last class. More: the mean of
  one-against-rest over the classes that have cases (and not all of them).
* ``average_precision``: sum over distinct thresholds of precision times gain in recall, no
  interpolation; the mean over the classes with cases, also for two classes, so that it does not hang
  on which class is called positive.
* ``balanced_accuracy``: mean recall over the classes with cases.
* ``f1``: mean over the classes that occur in the truth or in the predictions.
* ``calibration_error``: expected calibration error of the predicted class (Guo et al. 2017): cases fall
  into 15 bins of equal width by the highest probability; the mean over cases of
  |mean probability - share correct| of their bin.
* ``brier``: mean over cases of the squared distance between the row and the true class's unit vector
  (0 to 2). ``log_loss``: mean of -ln of the true class's probability, clipped at 1e-15.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

CALIBRATION_BINS = 15
Scores = np.ndarray | float


@overload
def auc(probabilities: np.ndarray, truth: np.ndarray, weights: None = None) -> float: ...
@overload
def auc(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Scores: ...
def auc(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Area under the ROC curve, one against rest; chance is 0.5."""
    if probabilities.shape[1] == 2:
        return _give(_auc_one(probabilities[:, 1], truth == 1, _columns(weights, len(truth))), weights)
    return _over_classes(_auc_one, probabilities, truth, weights)


def average_precision(
    probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> Scores:
    """Area under the precision-recall curve by steps; chance is the share of the class."""
    return _over_classes(_average_precision_one, probabilities, truth, weights)


def accuracy(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Share of cases whose most probable class is the true one."""
    correct = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    return _mean(correct, weights)


def balanced_accuracy(
    probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> Scores:
    """Mean over the classes of the share of their cases that is found."""
    hit, actual, _ = _counts(probabilities, truth, _columns(weights, len(truth)))
    return _give(_nanmean(_ratio(hit, actual)), weights)


def f1(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Mean over the classes of the harmonic mean of precision and recall."""
    hit, actual, predicted = _counts(probabilities, truth, _columns(weights, len(truth)))
    return _give(_nanmean(_ratio(2 * hit, actual + predicted)), weights)


def calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> Scores:
    """Expected calibration error of the predicted class, 15 bins of equal width; 0 is best."""
    confidence = probabilities.max(axis=1)
    gap = confidence - (probabilities.argmax(axis=1) == truth)
    bins = _bins(confidence, CALIBRATION_BINS)
    columns = _columns(weights, len(truth))
    with np.errstate(invalid="ignore"):
        error = np.abs(_sum_by(bins, columns, CALIBRATION_BINS, scale=gap)).sum(0) / columns.sum(0)
    return _give(error, weights)


def brier(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Mean squared distance between probabilities and truth, summed over the classes; 0 is best."""
    return _mean(((probabilities - _one_hot(truth, probabilities.shape[1])) ** 2).sum(axis=1), weights)


def log_loss(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Mean negative logarithm of the true class's probability; 0 is best."""
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0]
    return _mean(-np.log(np.clip(of_truth, 1e-15, 1.0)), weights)


SCORES: dict[str, Callable[..., Any]] = {
    "auc": auc,
    "average_precision": average_precision,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "calibration_error": calibration_error,
    "brier": brier,
    "log_loss": log_loss,
}
_FEW_GROUPS = 64
LOWER_IS_BETTER = frozenset({"calibration_error", "brier", "log_loss"})


def confusion(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(k, k) numbers of cases: rows are the true class, columns the predicted one."""
    k = probabilities.shape[1]
    return np.bincount(truth * k + probabilities.argmax(axis=1), minlength=k * k).reshape(k, k)


def calibration_curve(
    probabilities: np.ndarray, truth: np.ndarray, *, column: int | None = None, bins: int = 10
) -> dict[str, np.ndarray]:
    """What was promised against what came true, by bins of equal width; empty bins are left out.

    column: the class whose probability is looked at; None looks at the predicted class.
    Returns ``probability`` (mean promised), ``frequency`` (share that came true), ``cases`` (number).
    """
    if column is None:
        promised, came = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    else:
        promised, came = probabilities[:, column], truth == column
    where = _bins(promised, bins)
    cases = np.bincount(where, minlength=bins)
    used = cases > 0
    return {
        "probability": np.bincount(where, promised, bins)[used] / cases[used],
        "frequency": np.bincount(where, came.astype(np.float64), bins)[used] / cases[used],
        "cases": cases[used],
    }


HEAD, TAIL = 0.5, 0.2
"""A class belongs to the head with at least this share of the largest class's cases, to the tail with at most
that. Liu et al. (CVPR 2019) take 100 and 20 cases; a clinic's set is often smaller than that as a whole."""


def long_tail(counts: Sequence[int]) -> dict[str, list[int]]:
    """Columns of the ``head``, ``medium`` and ``tail`` classes, by their cases; {} where there is no tail.

    Groups without a class are left out.
    """
    most = max(counts, default=0)
    groups: dict[str, list[int]] = {"head": [], "medium": [], "tail": []}
    for column, n in enumerate(counts):
        name = "head" if n >= HEAD * most else "tail" if n <= TAIL * most else "medium"
        groups[name].append(column)
    return {name: columns for name, columns in groups.items() if columns} if groups["tail"] else {}


def some_classes(
    probabilities: np.ndarray, truth: np.ndarray, classes: Sequence[int], weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Balanced accuracy and F1 over some of the classes alone; NaN where none of them has cases."""
    hit, actual, predicted = (
        x[list(classes)] for x in _counts(probabilities, truth, _columns(weights, len(truth)))
    )
    return {
        "balanced_accuracy": _give(_nanmean(_ratio(hit, actual)), weights),
        "f1": _give(_nanmean(_ratio(2 * hit, actual + predicted)), weights),
    }


def one_class(
    probabilities: np.ndarray, truth: np.ndarray, column: int, weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores of one class against the rest; NaN where undefined. Floats, or (R,) for weights (n, R).

    Keys: auc, average_precision, sensitivity, specificity, precision, f1; the last four are of the
    decision for the most probable class.
    """
    positive, columns = truth == column, _columns(weights, len(truth))
    called = probabilities.argmax(axis=1) == column
    # Of two classes the last one's probability orders best: 1 - p has lost the digits of a small p.
    order = -probabilities[:, 1] if probabilities.shape[1] == 2 and column == 0 else probabilities[:, column]
    found, n, calls = (columns[some].sum(axis=0) for some in (positive & called, positive, called))
    values = {
        "auc": _auc_one(order, positive, columns),
        "average_precision": _average_precision_one(order, positive, columns),
        "sensitivity": _ratio(found, n),
        "specificity": _ratio(columns[~positive & ~called].sum(axis=0), columns[~positive].sum(axis=0)),
        "precision": _ratio(found, calls),
        "f1": _ratio(2 * found, n + calls),
    }
    return {name: _give(value, weights) for name, value in values.items()}


# -- what the scores are made of -------------------------------------------------------------------


def _columns(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights as (n, R) float64; R = 1 where there is one weighting."""
    if weights is None:
        return np.ones((n, 1))
    weights = np.asarray(weights, dtype=np.float64)
    return weights[:, None] if weights.ndim == 1 else weights


def _give(values: np.ndarray, weights: np.ndarray | None) -> Scores:
    """(R,) as it is, or a float where one weighting was asked for."""
    return float(values[0]) if weights is None or np.ndim(weights) == 1 else values


def _mean(per_case: np.ndarray, weights: np.ndarray | None) -> Scores:
    """Weighted mean over the cases."""
    columns = _columns(weights, len(per_case))
    return _give(_ratio(per_case @ columns, columns.sum(axis=0)), weights)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient, NaN where there is nothing below."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _nanmean(per_class: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    known = ~np.isnan(per_class)
    return _ratio(np.where(known, per_class, 0.0).sum(axis=0), known.sum(axis=0))


def _one_hot(truth: np.ndarray, k: int) -> np.ndarray:
    """(n, k) unit vectors."""
    return (truth[:, None] == np.arange(k)).astype(np.float64)


def _bins(values: np.ndarray, count: int) -> np.ndarray:
    """Bin of equal width on 0-1 that each value falls in; 1 belongs to the last."""
    return np.clip((values * count).astype(np.int64), 0, count - 1)


def _sum_by(
    group: np.ndarray, rows: np.ndarray, count: int, *, scale: np.ndarray | None = None
) -> np.ndarray:
    """(count, R) sums of the rows of each group, each row times its ``scale``.

    Few groups are summed by one product, which runs at the speed of the processor; many by one pass.
    """
    if count <= _FEW_GROUPS:
        member = np.zeros((count, len(group)))
        member[group, np.arange(len(group))] = 1.0 if scale is None else scale
        return member @ rows
    if scale is not None:
        rows = rows * scale[:, None]
    order = np.argsort(group, kind="stable")
    present, start = np.unique(group[order], return_index=True)
    sums = np.zeros((count, rows.shape[1]))
    if len(present):
        sums[present] = np.add.reduceat(rows[order], start, axis=0)
    return sums


def _counts(
    probabilities: np.ndarray, truth: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class (k, R): cases found, true cases, predicted cases."""
    k = probabilities.shape[1]
    called = probabilities.argmax(axis=1)
    both = _sum_by(truth * k + called, columns, k * k).reshape(k, k, -1)
    return both[np.arange(k), np.arange(k)], both.sum(axis=1), both.sum(axis=0)


def _over_classes(
    one: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    probabilities: np.ndarray,
    truth: np.ndarray,
    weights: np.ndarray | None,
) -> Scores:
    """Mean of a one-against-rest score over the classes where it is defined."""
    columns = _columns(weights, len(truth))
    k = probabilities.shape[1]
    orders = [probabilities[:, c] for c in range(k)]
    if k == 2:
        orders[0] = -probabilities[:, 1]
    return _give(_nanmean(np.stack([one(orders[c], truth == c, columns) for c in range(k)])), weights)


def _by_threshold(
    scores: np.ndarray, positive: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, highest first, as steps: weights of all cases (t, R); which steps hold a
    positive (t,); and those steps' weights of positives.
    """
    order = np.argsort(-scores, kind="stable")
    falling, rows, is_positive = scores[order], columns[order], positive[order]
    start = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]]))
    if len(start) == len(scores):
        return rows, is_positive, rows[is_positive]
    step = np.repeat(np.arange(len(start)), np.diff(np.append(start, len(scores))))
    holds = np.bincount(step[is_positive], minlength=len(start)) > 0
    first = np.flatnonzero(np.diff(step[is_positive], prepend=-1))
    return np.add.reduceat(rows, start, axis=0), holds, np.add.reduceat(rows[is_positive], first, axis=0)


def _auc_one(scores: np.ndarray, positive: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R,) share of pairs of a positive and a negative that are ordered right, ties half."""
    if not positive.any() or positive.all():
        return np.full(columns.shape[1], np.nan)
    negatives, holds, positives = _by_threshold(scores, positive, columns)
    negatives[holds] -= positives
    total = positives.sum(axis=0) * negatives.sum(axis=0)
    above = np.cumsum(negatives, axis=0)[holds]
    above -= 0.5 * negatives[holds]
    return 1.0 - _ratio(np.einsum("tr,tr->r", positives, above), total)


def _average_precision_one(scores: np.ndarray, positive: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R,) sum over thresholds of the gain in recall times the precision there."""
    if not positive.any() or positive.all():
        return np.full(columns.shape[1], np.nan)
    rows, holds, gain = _by_threshold(scores, positive, columns)
    total = gain.sum(axis=0)
    everything = rows.sum(axis=0)
    seen = np.cumsum(rows, axis=0)[holds]
    precision = np.cumsum(gain, axis=0)
    precision /= np.maximum(seen, np.finfo(np.float64).tiny)  # nothing seen: nothing gained either
    value = _ratio(np.einsum("tr,tr->r", gain, precision), total)
    return np.where(total < everything, value, np.nan)

"""Centring and scaling of features so that a penalty means the same for every model."""

from __future__ import annotations

import numpy as np

_PRIOR_CASES = 30.0


def scale_features(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (d,) and factor (d,) by which features are centred and scaled.

    Each feature is divided by its deviation within the classes, as far as the cases can tell it: its
    variance is drawn to the mean variance of all features as by 30 cases more, since over a handful of
    cases it is mostly chance. All are then divided so that a case has length 1 on average, which gives a
    penalty the same meaning for every model. A feature that never changes is 0 after centring.
    """
    total = weights.sum()
    mean = (weights @ rows) / total
    squares = weights @ np.square(rows - mean.astype(rows.dtype))
    k = int(labels.max()) + 1
    inner = np.zeros(rows.shape[1])
    for label in range(k):
        some = rows[labels == label]
        share = weights[labels == label]
        inner += share @ np.square(some - (share @ some / share.sum()).astype(rows.dtype))
    freedom = max(len(rows) - k, 0)
    return mean, scale_of_moments(squares, inner, total, freedom)


def scale_of_moments(squares: np.ndarray, inner: np.ndarray, total: float, freedom: int) -> np.ndarray:
    """The factor (d,), from weighted sums of squares about the mean and about the classes' means.

    total: of the weights. freedom: cases less classes.
    """
    inner = inner / total
    common = (inner.mean() if freedom and inner.mean() > 0 else squares.mean() / total) or 1.0
    variance = (freedom * inner + _PRIOR_CASES * common) / (freedom + _PRIOR_CASES)
    factor = 1.0 / np.sqrt(np.maximum(variance, 1e-12 * common))
    length = float((squares * factor**2).sum() / total)
    factor /= np.sqrt(length) if length > 0 else 1.0
    return factor

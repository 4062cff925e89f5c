"""How far readers agree on the same cases: Krippendorff's alpha and Cohen's kappa, pure NumPy.

Krippendorff, Content Analysis (2004), chapter 11: any number of readers, ratings may be missing; for nominal,
ordinal and interval values. Kappa (Cohen 1960) is weighted by the same differences, which for interval values
are the quadratic weights of Cohen 1968. All take weights of cases, so that patients can be resampled.
"""

from __future__ import annotations

import numpy as np

SCALES = ("nominal", "ordinal", "interval")


def coincidences(ratings: np.ndarray, values: int) -> np.ndarray:
    """(n, k, k) pairs of values within each case of (n, readers) ratings, -1 where a reader gave none.

    Each case counts as many times as it has ratings, as alpha wants it; cases with fewer than two do not.
    """
    counts = np.stack([(ratings == v).sum(axis=1) for v in range(values)], axis=1).astype(float)
    total = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]
    pairs[:, np.arange(values), np.arange(values)] -= counts
    return np.where(total[:, None, None] > 1, pairs / np.maximum(total - 1, 1)[:, None, None], 0.0)


def joint(one: np.ndarray, two: np.ndarray, values: int) -> np.ndarray:
    """(n, k, k) what two readers gave to each case that both rated; zeros for others."""
    told = np.zeros((len(one), values, values))
    both = np.flatnonzero((one >= 0) & (two >= 0))
    told[both, one[both], two[both]] = 1
    return told


def alpha(
    pairs: np.ndarray, levels: np.ndarray, scale: str = "nominal", weights: np.ndarray | None = None
) -> np.ndarray:
    """Krippendorff's alpha of ``coincidences``: (R,) for weights (n, R), else (1,); NaN where nothing varies.

    levels: (k,) numbers that the values stand for, used by the interval scale.
    """
    whole = _whole(pairs, weights)
    margins = whole.sum(axis=2)
    return _beyond_chance(whole, margins, margins, levels, scale, apart=True)


def kappa(
    pairs: np.ndarray, levels: np.ndarray, scale: str = "nominal", weights: np.ndarray | None = None
) -> np.ndarray:
    """Cohen's kappa of ``joint``, weighted by the scale's differences; as ``alpha``."""
    whole = _whole(pairs, weights)
    return _beyond_chance(whole, whole.sum(axis=2), whole.sum(axis=1), levels, scale, apart=False)


def observed(pairs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of pairs of ratings that are equal."""
    whole = _whole(pairs, weights)
    total = whole.sum(axis=(1, 2))
    same = np.einsum("rkk->r", whole)
    return np.where(total > 0, same / np.where(total > 0, total, 1), np.nan)


def _whole(pairs: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(R, k, k) sums over cases."""
    given = np.ones((len(pairs), 1)) if weights is None else weights
    return np.einsum("nkl,nr->rkl", pairs, given, optimize=True)


def _differences(scale: str, levels: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(R, k, k) squared differences of values on that scale."""
    if scale == "nominal":
        return np.broadcast_to(1.0 - np.eye(len(levels)), (len(margins), len(levels), len(levels)))
    if scale == "interval":
        return np.broadcast_to(np.subtract.outer(levels, levels) ** 2, (len(margins), *[len(levels)] * 2))
    ranks = margins.cumsum(axis=1) - margins / 2
    return (ranks[:, :, None] - ranks[:, None, :]) ** 2


def _beyond_chance(
    whole: np.ndarray, rows: np.ndarray, columns: np.ndarray, levels: np.ndarray, scale: str, *, apart: bool
) -> np.ndarray:
    differences = _differences(scale, np.asarray(levels, float), (rows + columns) / 2)
    total = rows.sum(axis=1)
    expected = rows[:, :, None] * columns[:, None, :]
    chance = (expected * differences).sum(axis=(1, 2)) / np.maximum(total - apart, 1)
    found = (whole * differences).sum(axis=(1, 2))
    return np.where(chance > 0, 1 - found / np.where(chance > 0, chance, 1), np.nan)

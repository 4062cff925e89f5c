"""How made pictures stand to real ones, by rows of features: how like, how varied, and whether copied.

* ``kid``: squared maximum mean discrepancy under the cubic kernel, unbiased (Binkowski et al., 2018).
* ``precision_recall``: share of made rows within the real ones' reach, and of real rows within the made ones'
  (Kynkaanniemi et al., 2019): a row reaches as far as its third nearest neighbour.
* ``memorised``: made rows that stand nearer to a training case than cases of other patients do, and to that
  one alone; held-out cases are what is usual.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NEIGHBOURS = 3
QUANTILE = 0.05
BY_CHANCE = 0.999
"""Verdicts against made pictures are spoken where held-out ones would give as many once in a thousand."""


def kid(real: np.ndarray, made: np.ndarray) -> float:
    """Kernel distance between (n, d) and (m, d) rows; 0 is best, chance may go below."""
    if len(real) < 2 or len(made) < 2:
        return float("nan")
    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    d = real.shape[1]
    inner = [(x @ y.T / d + 1) ** 3 for x, y in ((real, real), (made, made), (real, made))]
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in inner[:2]]
    return float(own[0] + own[1] - 2 * inner[2].mean())


def precision_recall(
    real: np.ndarray, made: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision and recall of made rows; NaN where either side has too few to tell a neighbour."""
    if min(len(real), len(made)) <= neighbours:
        return float("nan"), float("nan")

    def within(rows: np.ndarray, reach: np.ndarray) -> float:
        radius = np.partition(distances(reach, reach), neighbours, axis=1)[:, neighbours]  # the 0th is itself
        return float((distances(rows, reach) <= radius).any(axis=1).mean())

    return within(made, real), within(real, made)


def distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m) Euclidean distances."""
    rows, others = np.asarray(rows, np.float64), np.asarray(others, np.float64)
    square = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
    return np.sqrt(np.maximum(square, 0))


def nearest_case(rows: np.ndarray, train: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each row the nearest training case, its distance, and that over the nearest of another patient's.

    patients: (n,) of the training cases. The ratio is 1 where there is no other patient.
    """
    away = distances(rows, train)
    place = away.argmin(axis=1)
    first = away[np.arange(len(rows)), place]
    second = np.where(patients[None, :] == patients[place][:, None], np.inf, away).min(axis=1)
    ratio = np.where(np.isfinite(second), first / np.maximum(second, 1e-12), 1.0)
    return place, first, ratio


def memorised(
    train: np.ndarray, patients: np.ndarray, held: np.ndarray, made: np.ndarray, *, quantile: float = QUANTILE
) -> dict[str, Any]:
    """Whether made rows (m, d) stand suspiciously near to training rows (n, d), beside held-out ones (h, d).

    ``nearer``: share of them nearer than a low quantile of held-out cases. ``alone``: whose ratio of the
    nearest to the nearest of another patient is below that quantile of held-out cases. ``copies``: both at
    once. Each has ``share``, ``usual`` (of held-out cases) and ``limit``, the share that held-out cases in
    their place would exceed once in a thousand, the quantile's own chance counted in (a beta-binomial count).
    ``rows``: place of the nearest, distance, ratio and whether it counts as a copy.
    """
    from scipy.stats import betabinom

    _, usual, usual_ratio = nearest_case(held, train, patients)
    place, first, ratio = nearest_case(made, train, patients)
    rank = max(1, int(quantile * len(held)))
    limits = np.sort(usual)[rank - 1], np.sort(usual_ratio)[rank - 1]
    near, alone = first < limits[0], ratio < limits[1]
    most = float(betabinom.ppf(BY_CHANCE, len(made), rank, len(held) + 1 - rank)) / len(made)
    held_near, held_alone = usual <= limits[0], usual_ratio <= limits[1]

    def told(mine: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
        return {"share": float(mine.mean()), "usual": float(theirs.mean()), "limit": most}

    return {
        "nearer": told(near, held_near),
        "alone": told(alone, held_alone),
        "copies": told(near & alone, held_near & held_alone),
        "distance": {
            "made": [float(q) for q in np.quantile(first, (0.05, 0.5, 0.95))],
            "held_out": [float(q) for q in np.quantile(usual, (0.05, 0.5, 0.95))],
        },
        "rows": {"nearest": place, "distance": first, "ratio": ratio, "copy": near & alone},
    }

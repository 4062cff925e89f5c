"""How unlike an image is what was learned from: distances in the frozen features.

* ``mahalanobis``: squared distance from the mean in units of the features' own spread, along the ``RANK``
  widest directions and, summed up, along all others (Lee et al., "A simple unified framework for detecting
  out-of-distribution samples", NeurIPS 2018; the split into main and other directions as in probabilistic
  PCA, Tipping and Bishop 1999, so that a few hundred cases are enough for a thousand features).
* ``knn``: distance to the ``NEIGHBOURS``-th nearest case learned from, along the same directions and, as one
  number, beside them (Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

RANK = 64
NEIGHBOURS = 5
KEPT_NEIGHBOURS = 512
_LEAST = 8
SCORES = ("mahalanobis", "knn")


def describe_features(rows: np.ndarray, *, seed: int = 0) -> dict[str, np.ndarray]:
    """What is kept of features (n, d) learned from; {} for fewer than 8 rows, which say too little."""
    from sklearn.utils.extmath import randomized_svd

    n, d = rows.shape
    if n < _LEAST or d == 0:
        return {}
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    spread = centred.std(axis=0)
    rank = min(RANK, d, n // 4)
    _, values, basis = randomized_svd(centred, rank, random_state=seed)
    main = np.maximum(values**2 / (n - 1), 1e-12)
    rest = max((spread**2).sum() * n / (n - 1) - main.sum(), 0.0) / max(d - rank, 1)
    some = np.sort(np.random.default_rng(seed).permutation(n)[:KEPT_NEIGHBOURS])
    return {
        "feature_mean": mean.astype(np.float32),
        "feature_spread": spread.astype(np.float32),
        "feature_basis": basis.astype(np.float32),
        "feature_variances": main.astype(np.float32),
        "feature_rest": np.array([max(rest, 1e-6 * float(main.mean()))], np.float32),
        "feature_neighbours": _places(centred[some], basis)[0].astype(np.float32),
    }


def _places(centred: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates (n, r + 1) along the directions and beside them; (n, r) along; (n,) squared beside."""
    along = centred @ basis.T
    beside = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
    return np.concatenate([along, np.sqrt(beside)[:, None]], axis=1), along, beside


def unlikeness(kept: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Each score of features (n, d): the larger, the less alike."""
    from sklearn.metrics import pairwise_distances

    centred = rows - kept["feature_mean"].astype(np.float64)
    variances = kept["feature_variances"].astype(np.float64)
    places, along, beside = _places(centred, kept["feature_basis"].astype(np.float64))
    away = pairwise_distances(places, kept["feature_neighbours"].astype(np.float64))
    which = min(NEIGHBOURS, away.shape[1]) - 1
    return {
        "mahalanobis": (along**2 / variances).sum(axis=1) + beside / float(kept["feature_rest"][0]),
        "knn": np.partition(away, which, axis=1)[:, which],
    }

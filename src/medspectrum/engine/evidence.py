"""LogME: how probable labels are given frozen features, with nothing trained.

You et al., "LogME: practical assessment of pre-trained models for transfer learning", ICML 2021: the
logarithm of the evidence of a Bayesian linear model, per case, at the best precision of weights and noise.
"""

from __future__ import annotations

import numpy as np

from medspectrum.engine.threads import one_blas_thread

_ROUNDS = 30
_CLOSE = 1e-4
_LEAST = 1e-12


@one_blas_thread
def log_evidence(features: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean over classes of the log evidence per case; higher is better.

    features: (n, d). labels: (n,) integers below ``classes``. Each class is one target of 0 and 1.
    """
    rows = np.asarray(features, np.float64)
    n, d = rows.shape
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    spread = np.square(values)
    targets = (labels[:, None] == np.arange(classes)).astype(np.float64)
    along = np.square(left.T @ targets)  # (r, k)
    rest = np.maximum(np.square(targets).sum(axis=0) - along.sum(axis=0), 0.0)
    return float(np.mean([_evidence(spread, along[:, k], rest[k], n, d) for k in range(classes)]))


def _evidence(spread: np.ndarray, along: np.ndarray, rest: float, n: int, d: int) -> float:
    """Of one target, by the paper's fixed point. spread: squared singular values (r,)."""
    weight, noise = 1.0, 1.0  # precisions
    for _ in range(_ROUNDS):
        ratio = weight / noise
        length = max(float((spread * along / np.square(ratio + spread)).sum()), _LEAST)
        missed = max(float((along / np.square(1 + spread / ratio)).sum()) + rest, _LEAST)
        told = float((spread / (spread + ratio)).sum())  # directions that the data decide
        weight, noise = told / length, (n - told) / missed
        if abs(weight / noise - ratio) <= _CLOSE * ratio:
            break
    ratio = weight / noise
    length = float((spread * along / np.square(ratio + spread)).sum())
    missed = float((along / np.square(1 + spread / ratio)).sum()) + rest
    volume = np.log(weight + noise * spread).sum() + (d - len(spread)) * np.log(weight)
    whole = d * np.log(weight) + n * np.log(noise) - volume - noise * missed - weight * length
    return float(whole - n * np.log(2 * np.pi)) / (2 * n)

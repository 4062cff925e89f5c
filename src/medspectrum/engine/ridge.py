"""Ridge regression in closed form, for many penalties at once, with what it says of cases left out.

Objective, with case weights s and the intercept b unpenalised: sum_i s_i |y_i - x_i w - b|^2 + l |w|^2;
scikit-learn's alpha is l. One eigendecomposition serves all penalties. Leaving a group of cases out needs
no new fit: its residuals are (I - H)_gg^-1 times those of the full fit, H the hat matrix (Cook and
Weisberg 1982), here in coordinates scaled by the roots of the weights, where H is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.engine.solvers import LinearFits
from medspectrum.engine.threads import one_blas_thread

_CHUNK_ENTRIES = 8_000_000


def class_targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """(..., c) of -1 and 1: one column for two classes (the second is 1), else one for each.

    labels: (...) integers, or probabilities (..., classes), of which the expected value is given.
    """
    if np.issubdtype(labels.dtype, np.floating):
        return 2.0 * (labels[..., 1:] if classes == 2 else labels) - 1.0
    if classes == 2:
        return np.where(labels == 1, 1.0, -1.0)[..., None]
    return np.where(labels[..., None] == np.arange(classes), 1.0, -1.0)


def ridge_batch(
    grams: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    penalties: Sequence[float] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regressions of P problems of n cases each, given by their Gram matrices.

    grams: (P, n, n). targets: (P, n, c). weights: (P, n). Returns coefficients (P, m, n, c), by which a
    problem's w is features.T @ coefficients (they sum to 0 over the cases), and intercepts (P, c) that go
    with features centred by the weighted mean.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    middle = np.matmul(share[:, None, :], targets)  # (P, 1, c)
    root = np.sqrt(weights)[:, :, None]
    spread, vectors = np.linalg.eigh(_weighted_gram(grams, share, root))
    along = np.matmul(vectors.swapaxes(1, 2), root * (targets - middle))  # (P, n, c)
    strong = np.asarray(penalties, dtype=np.float64)
    damp = 1.0 / (np.maximum(spread, 0.0)[:, None, :] + strong[None, :, None])  # (P, m, n)
    p, m, n = damp.shape
    packed = (damp.transpose(0, 2, 1)[..., None] * along[:, :, None, :]).reshape(p, n, -1)
    found = root * np.matmul(vectors, packed)
    return found.reshape(p, n, m, -1).transpose(0, 2, 1, 3), middle[:, 0]


@one_blas_thread
def ridge(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    penalties: Sequence[float] | np.ndarray,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[LinearFits, np.ndarray]:
    """Ridge regressions of one problem, and its predictions for each group when left out of the fit.

    features: (n, d). targets: (n, c). weights: (n,), all above 0. groups: (n,) integers, None leaves out
    one case at a time. Returns the fits and predictions (m, n, c); these are NaN where there is one group.
    """
    n, d = features.shape
    strong = np.asarray(penalties, dtype=np.float64)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    share = weights / weights.sum()
    root = np.sqrt(weights)[:, None]
    middle, mean = share @ targets, share @ features
    scaled = root * (features - mean)  # float64
    wanted = root * (targets - middle)
    if n <= d:
        spread, rows = np.linalg.eigh(scaled @ scaled.T)
        spread = np.maximum(spread, 0.0)
        inverse = 1.0 / (spread + strong[:, None])  # (m, r)
        dual = np.matmul(rows, inverse[:, :, None] * (rows.T @ wanted))  # (m, n, c)
        w = np.matmul(scaled.T, dual)
        residual = strong[:, None, None] * dual
        kept = strong[:, None] * inverse  # I - H = rows kept rows.T - q q.T
    else:
        spread, axes = np.linalg.eigh(scaled.T @ scaled)
        spread = np.maximum(spread, 0.0)
        rows = scaled @ axes
        inverse = 1.0 / (spread + strong[:, None])
        w = np.matmul(axes, inverse[:, :, None] * (rows.T @ wanted))
        residual = wanted - np.matmul(scaled, w)
        kept = -inverse  # I - H = I + rows kept rows.T - q q.T
    fits = LinearFits(w, middle - np.matmul(mean, w))
    q = root[:, 0] / np.sqrt(weights.sum())
    groups = np.arange(n) if groups is None else groups
    if len(np.unique(groups)) < 2:
        return fits, np.full_like(residual, np.nan)
    return fits, targets - left_out(rows, kept, q, residual, groups, n > d) / root


def _weighted_gram(grams: np.ndarray, share: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Gram matrices of features centred by their weighted mean and scaled by the weights' roots."""
    inner = np.matmul(grams, share[:, :, None])
    centred = grams - inner
    centred -= inner.transpose(0, 2, 1)
    centred += np.matmul(share[:, None, :], inner)
    centred *= root
    centred *= root.transpose(0, 2, 1)
    return centred


def left_out(
    rows: np.ndarray, kept: np.ndarray, q: np.ndarray, residual: np.ndarray, groups: np.ndarray, whole: bool
) -> np.ndarray:
    """(m, n, c) scaled residuals of each group under the fit without it.

    I - H is rows @ diag(kept) @ rows.T - q q.T, plus the identity where ``whole``. rows: (n, r).
    kept: (m, r). q: (n,). residual: (m, n, c), of the full fit. Some groups of a fit may be given alone.
    """
    left = np.full_like(residual, np.nan)
    order = np.argsort(groups, kind="stable")
    _, start, size = np.unique(groups[order], return_index=True, return_counts=True)
    alone = order[start[size == 1]]
    if len(alone):
        rest = np.square(rows[alone]) @ kept.T - np.square(q[alone])[:, None] + float(whole)  # (g, m)
        left[:, alone] = residual[:, alone] / np.maximum(rest.T, 1e-12)[:, :, None]
    for members in np.unique(size[size > 1]):
        first = start[size == members]
        step = max(1, _CHUNK_ENTRIES // (int(members) * (rows.shape[1] + int(members)) * len(kept)))
        for i in range(0, len(first), step):
            here = order[first[i : i + step, None] + np.arange(members)]  # (g, s)
            some = rows[here]
            rest = np.matmul(some[:, None] * kept[:, None, :], some[:, None].swapaxes(-1, -2))
            rest -= (q[here][:, :, None] * q[here][:, None, :])[:, None]
            if whole:
                rest += np.eye(int(members))
            solved = np.linalg.solve(rest, residual[:, here].transpose(1, 0, 2, 3))  # (g, m, s, c)
            left[:, here] = solved.transpose(1, 0, 2, 3)
    return left

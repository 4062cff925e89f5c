"""Linear heads, many at once: logistic regression and ridge over problems x regularisations.

Where there are fewer cases than features everything that matters of the features is their Gram matrix.
In its eigenbasis the curvature of the loss is nearly diagonal, which makes a cheap and good
preconditioner for Newton's method with conjugate gradients; all problems, regularisations and classes
advance together, so the work is in a few large matrix products. Ridge is closed form in that basis, and
so are its predictions for cases (or groups of cases) left out.

Objectives, with case weights s, intercepts b unpenalised, and penalty l:

    logistic: sum_i s_i * loss(y_i, x_i w + b) + l / 2 * |w|^2      (scikit-learn's C is 1 / l)
    ridge:    sum_i s_i * |y_i - x_i w - b|^2  + l * |w|^2          (scikit-learn's alpha is l)

Two classes have one logit (that of the second class), more have a softmax over all.
Equal arguments give equal bits. Batched with other problems a result agrees to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum.engine.threads import one_blas_thread

_FLOAT32_ABOVE = 40_000_000  # features (n x d): beyond this they stay float32, 1e-6 is near enough there
_FLOAT32_TOLERANCE = 1e-6  # a fit that need not be nearer is done in float32 where cases outnumber features
_BATCH_ENTRIES = 4_000_000  # logits held at once: 32 MB an array
_MOST_NEWTON_STEPS = 60
_MOST_CG_STEPS = 250


@dataclass(frozen=True)
class LinearFits:
    """Fits of one problem, one for each penalty.

    weights: (m, d, c), intercepts: (m, c); c is 1 for two classes, else their number.
    """

    weights: np.ndarray
    intercepts: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(m, n, c) logits (ridge: scores) of features (n, d)."""
        return np.matmul(np.asarray(features, dtype=np.float64), self.weights) + self.intercepts[:, None, :]


@dataclass(frozen=True)
class Basis:
    """Features seen along the axes of their (weighted, centred) covariance; P problems or one shared.

    rows: (P, n, r) coordinates of the cases. spread: (P, r) weighted sums of squares along each axis.
    back: (P, n, r) or None: coordinates v stand for w = centred.T @ (back @ v); None: w = v.
    axes: (r, r) or None: rotation in which ``spread`` is meant, for the preconditioner alone.
    """

    rows: np.ndarray
    spread: np.ndarray
    back: np.ndarray | None = None
    axes: np.ndarray | None = None


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n,) case weights by which each class that occurs has the same total; their mean is 1."""
    count = np.bincount(labels, minlength=classes)
    present = max(int((count > 0).sum()), 1)
    return len(labels) / (present * count[labels].astype(np.float64))


def soft_class_weights(shares: np.ndarray, each: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) weights and (n, c) class probabilities of cases of which a share belongs to each class.

    shares: (n, c), rows sum to 1. each: (c,) weight of a case of each class; without it each class has the
    same total and their mean is 1. A case counts as its parts do: to a head that minimises a log loss or
    squares it is as good as one case for each class, with the class's weight times its share. Shares of 0
    and 1 give what ``class_weights`` gives.
    """
    if each is None:
        mass = shares.sum(axis=0)
        each = len(shares) / (len(mass) * mass)
    parts = shares * each
    weights = parts.sum(axis=1)
    return weights, parts / weights[:, None]


def gram(features: np.ndarray) -> np.ndarray:
    """(n, n) float64 inner products of centred rows."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows - rows.mean(axis=0)
    return rows @ rows.T


def gram_basis(grams: np.ndarray, weights: np.ndarray) -> Basis:
    """Eigenbasis of weighted, centred Gram matrices.

    grams: (P, n, n) of features with any common shift. weights: (P, n), zero for cases that only look on.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    inner = np.matmul(grams, share[:, :, None])  # (P, n, 1): with the weighted mean
    centred = grams - inner - inner.transpose(0, 2, 1) + np.matmul(share[:, None, :], inner)
    root = np.sqrt(weights)
    spread, vectors = np.linalg.eigh(root[:, :, None] * centred * root[:, None, :])
    real = spread > 1e-11 * np.maximum(spread[:, -1:], np.finfo(np.float64).tiny)
    inverse = np.zeros_like(spread)
    np.divide(1.0, np.sqrt(np.maximum(spread, 0.0)), out=inverse, where=real)
    back = root[:, :, None] * vectors * inverse[:, None, :]
    return Basis(rows=np.matmul(centred, back), spread=np.where(real, spread, 0.0), back=back)


@one_blas_thread
def logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    penalties: Sequence[float] | np.ndarray,
    weights: np.ndarray | None = None,
    tolerance: float = 1e-9,
) -> tuple[list[LinearFits], np.ndarray]:
    """Logistic regressions on the same cases under several weightings (folds: zero weight is left out).

    features: (n, d). labels: (n,) below ``classes``, or their probabilities (n, classes). weights: (P, n),
    None for one of all ones. Returns a fit for each weighting, and the logits (P, m, n, c) of all
    cases, left out ones too.
    """
    n, d = features.shape
    weights = np.ones((1, n)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    strong = np.asarray(penalties, dtype=np.float64)
    total = weights.sum(axis=0)
    if n <= d:
        mean = np.average(features.astype(np.float64), axis=0, weights=total)
        centred = features - mean
        basis = gram_basis((centred @ centred.T)[None], total[None])
        scale = weights.sum(axis=1, keepdims=True) / total.sum()
        basis = Basis(rows=basis.rows, spread=basis.spread * scale, back=basis.back)
    else:
        kind = np.float32 if n * d > _FLOAT32_ABOVE or tolerance >= _FLOAT32_TOLERANCE else np.float64
        mean = total @ features.astype(kind, copy=False) / total.sum()
        centred = features.astype(kind) - mean.astype(kind)
        basis = _covariance_basis(centred, weights)
    targets = _targets(labels, classes)
    c = targets.shape[1]
    held = max(1, _BATCH_ENTRIES * 2 // (n * c))
    solutions = np.empty((len(weights), len(strong), basis.rows.shape[2], c))
    shifts = np.empty((len(weights), len(strong), c))
    logits = np.empty((len(weights), len(strong), n, c))
    step = max(1, held // len(strong))
    for p in range(0, len(weights), step):
        few = slice(p, p + step)
        part = Basis(
            basis.rows, basis.spread[few] if len(basis.spread) > 1 else basis.spread, axes=basis.axes
        )
        for m in range(0, len(strong), held):
            some = slice(m, m + held)
            solutions[few, some], shifts[few, some], logits[few, some] = _newton(
                part, weights[few], targets[None], strong[some], tolerance
            )
    fits = []
    for v, b in zip(solutions, shifts, strict=True):
        w = v if basis.back is None else np.matmul(centred.T, np.matmul(basis.back[0], v))
        fits.append(LinearFits(w, b - np.matmul(mean.astype(np.float64), w)))
    return fits, logits


def logistic_batch(
    grams: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    classes: int,
    penalties: Sequence[float] | np.ndarray,
    tolerance: float = 1e-9,
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regressions of P problems of n cases each, given by their Gram matrices.

    grams: (P, n, n). labels, weights: (P, n). Returns coefficients (P, m, n, c), by which a problem's
    w is features.T @ coefficients (they sum to 0 over the cases), and intercepts (P, m, c) that go with
    features centred by the weighted mean.
    """
    basis = gram_basis(grams, weights)
    targets = _targets(labels, classes)
    v, b, _ = _newton(basis, weights, targets, np.asarray(penalties, dtype=np.float64), tolerance)
    assert basis.back is not None
    return np.matmul(basis.back[:, None], v), b


def _covariance_basis(centred: np.ndarray, weights: np.ndarray) -> Basis:
    """More cases than features: the features themselves, preconditioned along their covariance's axes."""
    total = weights.sum(axis=0)
    covariance = np.zeros((centred.shape[1],) * 2)
    for first in range(0, len(centred), 8192):  # so that no second copy of the features is made
        some = centred[first : first + 8192]
        covariance += some.T @ (some * total[first : first + 8192, None].astype(some.dtype))
    # Axes for a preconditioner need not be exact.
    spread, axes = np.linalg.eigh((covariance / len(weights)).astype(np.float32))
    scale = weights.sum(axis=1, keepdims=True) / total.sum() * len(weights)
    return Basis(rows=centred[None], spread=np.maximum(spread, 0.0) * scale, axes=axes.astype(centred.dtype))


def _targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """(..., c) one column for two classes, else one for each; of integers or of probabilities."""
    if np.issubdtype(labels.dtype, np.floating):
        return np.asarray(labels[..., 1:] if classes == 2 else labels, dtype=np.float64)
    if classes == 2:
        return (labels == 1)[..., None].astype(np.float64)
    return (labels[..., None] == np.arange(classes)).astype(np.float64)


def _newton(
    basis: Basis, weights: np.ndarray, targets: np.ndarray, penalties: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Newton's method on P problems x m penalties. Returns v (P, m, r, c), b (P, m, c), logits (P, m, n, c).

    A pair is done after the step whose Newton decrement, twice the expected fall of the objective, is
    below ``tolerance`` times the weight of its cases. Done pairs are dropped from the work.
    Inside, arrays are (P, n or r, m, c), so that a product with ``rows`` is one matrix product a problem.
    """
    count, n = weights.shape
    m, r, c = len(penalties), basis.rows.shape[2], targets.shape[2]
    v, b, f = np.zeros((count, r, m, c)), np.zeros((count, 1, m, c)), np.zeros((count, n, m, c))
    targets = np.broadcast_to(targets, (count, n, c))
    spread = np.broadcast_to(basis.spread, (count, r))
    who, which = np.arange(count), np.arange(m)
    open_ = np.ones((count, m), dtype=bool)
    for _ in range(_MOST_NEWTON_STEPS):
        who, which = who[open_[who].any(axis=1)], which[open_[:, which].any(axis=0)]
        if not len(who):
            break
        at = (who[:, None], which)
        into, among, once = ((who[:, None, None], np.arange(size)[:, None], which) for size in (r, n, 1))
        rows = basis.rows if len(basis.rows) == 1 or len(who) == count else basis.rows[who]
        step = _Step(
            rows,
            basis.axes,
            spread[who],
            weights[who],
            targets[who],
            penalties[which],
            (v[into], b[once], f[among]),
        )
        going = open_[at]
        dv, db, decrement = step.direction(going)
        df = step.forward(dv) + db
        size = step.length(dv, df, decrement, going)
        v[into] += size[:, None, :, None] * dv
        b[once] += size[:, None, :, None] * db
        f[among] += size[:, None, :, None] * df
        far = decrement > tolerance * weights[who].sum(axis=1)[:, None]
        open_[at] = going & far & (size > 0)
    if c > 1:  # a shift common to all classes changes nothing: the one that adds up to 0 is meant
        shift = b.mean(axis=-1, keepdims=True)
        b -= shift
        f -= shift
    return v.transpose(0, 2, 1, 3), b[:, 0], f.transpose(0, 2, 1, 3)


class _Step:
    """One Newton step of the problems that are still going."""

    def __init__(
        self,
        rows: np.ndarray,
        axes: np.ndarray | None,
        spread: np.ndarray,
        weights: np.ndarray,
        targets: np.ndarray,
        penalties: np.ndarray,
        point: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> None:
        """point: v (P, r, m, c), b (P, 1, m, c) and the logits f (P, n, m, c) they give."""
        self.rows, self.axes = rows, axes
        self.weights = weights[:, :, None, None]
        self.targets = targets[:, :, None, :]
        self.penalties = penalties[:, None]
        self.v, self.b, self.f = point
        if self.f.shape[-1] == 1:
            self.p = 0.5 * (1.0 + np.tanh(0.5 * self.f))
        else:
            raised = np.exp(self.f - self.f.max(axis=-1, keepdims=True))
            self.p = raised / raised.sum(axis=-1, keepdims=True)
        self.curve = self.weights * self.p * (1.0 - self.p)
        everything = self.weights.sum(axis=1, keepdims=True)
        self.mass = np.maximum(self.curve.sum(axis=1, keepdims=True), 1e-12 * everything)  # (P, 1, m, c)
        self.damp = 1.0 / (self.mass / everything * spread[:, :, None, None] + self.penalties)

    def forward(self, v: np.ndarray) -> np.ndarray:
        """(P, n, m, c) rows @ v."""
        return _product(self.rows, v)

    def backward(self, g: np.ndarray) -> np.ndarray:
        """(P, r, m, c) rows.T @ g."""
        return _product(self.rows.swapaxes(1, 2), g)

    def precondition(self, g: np.ndarray) -> np.ndarray:
        """Nearly the inverse of the curvature, applied to (P, r, m, c)."""
        if self.axes is None:
            return self.damp * g
        return _product(self.axes[None], self.damp * _product(self.axes.T[None], g))

    def curved(self, v: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curvature times a direction."""
        df = self.forward(v)
        df += b
        if df.shape[-1] == 1:
            df *= self.curve
        else:
            df -= (self.p * df).sum(axis=-1, keepdims=True)
            df *= self.p
            df *= self.weights
        hv = self.backward(df)
        hv += self.penalties * v
        return hv, df.sum(axis=1, keepdims=True)

    def direction(self, going: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Solve curvature @ step = -gradient by conjugate gradients, as exactly as is worth it."""
        g = self.weights * (self.p - self.targets)
        gv, gb = -(self.backward(g) + self.penalties * self.v), -g.sum(axis=1, keepdims=True)
        xv, xb = np.zeros_like(gv), np.zeros_like(gb)
        zv, zb = self.precondition(gv), gb / self.mass
        dv, db = zv, zb
        first = rz = _dot(gv, zv) + _dot(gb, zb)
        rv, rb = gv.copy(), gb.copy()
        # Superlinear: the nearer the end, the more exact the step.
        enough = np.clip(first / self.weights.sum(axis=(1, 2, 3))[:, None], 1e-12, 0.01) * first
        busy = going & (first > 0)
        for _ in range(_MOST_CG_STEPS):
            hv, hb = self.curved(dv, db)
            bend = _dot(dv, hv) + _dot(db, hb)
            length = np.where(busy & (bend > 0), rz / np.where(bend > 0, bend, 1.0), 0.0)[:, None, :, None]
            xv += length * dv
            xb += length * db
            hv *= length
            hb *= length
            rv -= hv
            rb -= hb
            zv, zb = self.precondition(rv), rb / self.mass
            new = _dot(rv, zv) + _dot(rb, zb)
            busy = busy & (new > enough)
            if not busy.any():
                break
            turn = np.where(busy, new / np.where(rz > 0, rz, 1.0), 0.0)[:, None, :, None]
            dv = zv + turn * dv
            db = zb + turn * db
            rz = np.where(busy, new, rz)
        return xv, xb, _dot(gv, xv) + _dot(gb, xb)

    def length(self, dv: np.ndarray, df: np.ndarray, decrement: np.ndarray, going: np.ndarray) -> np.ndarray:
        """(P, m) largest of 1, 1/2, 1/4... by which the objective falls as promised; 0 where none does."""
        linear = self.penalties[:, 0] * _dot(self.v, dv)
        square = self.penalties[:, 0] * _dot(dv, dv)
        here = self._loss(self.f)
        slack = 1e-13 * np.abs(here)
        size = going.astype(np.float64)
        for _ in range(20):
            change = self._loss(self.f + size[:, None, :, None] * df) - here
            change += size * linear + 0.5 * size * size * square
            short = (change > slack - 1e-4 * size * decrement) & (size > 0)
            if not short.any():
                return size
            size = np.where(short, 0.5 * size, size)
        return np.where(short, 0.0, size)

    def _loss(self, f: np.ndarray) -> np.ndarray:
        """(P, m) weighted sums of the cases' losses."""
        if f.shape[-1] == 1:
            each = np.maximum(f, 0.0) + np.log1p(np.exp(-np.abs(f))) - self.targets * f
        else:
            top = f.max(axis=-1, keepdims=True)
            each = np.log(np.exp(f - top).sum(axis=-1, keepdims=True)) + top
            each = each - (self.targets * f).sum(axis=-1, keepdims=True)
        return (self.weights * each).sum(axis=(1, 3))


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(P, a, m, c) left (P or 1, a, b) times right (P, b, m, c), one matrix product a problem.

    A left side that all share is read once, for the columns of all problems together.
    """
    if len(left) == 1 and len(right) > 1:
        p, b, m, c = right.shape
        side = right.transpose(1, 0, 2, 3).reshape(b, -1).astype(left.dtype, copy=False)
        both = (left[0] @ side).reshape(-1, p, m, c).transpose(1, 0, 2, 3)
        return np.ascontiguousarray(both, dtype=np.float64)
    flat = right.reshape(*right.shape[:2], -1)
    found = np.matmul(left, flat.astype(left.dtype, copy=False))
    return found.reshape(*found.shape[:2], *right.shape[2:]).astype(np.float64, copy=False)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P, m) inner products."""
    return np.einsum("prmc,prmc->pm", one, other)

"""Many small linear heads at once: several models' features x labelled sets x regularisations."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from medspectrum.engine.ridge import class_targets, ridge_batch
from medspectrum.engine.solvers import LinearFits, class_weights, gram, logistic_batch

_BATCH_ENTRIES = 400_000  # n x m x c logits of a batch: 3 MB, so that a step stays in the cache


def sweep(
    features: Sequence[np.ndarray],
    labels: np.ndarray,
    sets: Sequence[np.ndarray],
    *,
    classes: int,
    penalties: Sequence[float] | np.ndarray,
    head: Literal["logistic", "ridge"] = "logistic",
    balanced: bool = True,
    threads: int = 2,
) -> list[list[LinearFits]]:
    """Fits of every model's features (N, d) on every labelled set (indices), for every penalty.

    labels: (N,) below ``classes``; every set must hold every class. Returns fits by model, then by set.
    A set that lies within another one shares its inner products. The result does not hang on ``threads``.
    Raises ValueError for a set without one of the classes.
    """
    from threadpoolctl import threadpool_limits

    for i, of_set in enumerate(sets):
        if len(np.unique(labels[of_set])) < classes:
            raise ValueError(f"labelled set {i} lacks one of the {classes} classes")
    parents = _parents(sets)
    columns = len(penalties) * (1 if classes == 2 else classes)
    # One BLAS thread each: problems are many and small, and the bits do not depend on the machine.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        grams = list(pool.map(lambda rows: _grams(rows, sets, parents), features))
        jobs = []
        for size in sorted({len(of_set) for of_set in sets}, reverse=True):
            pairs = [(f, s) for f in range(len(features)) for s in range(len(sets)) if len(sets[s]) == size]
            step = max(1, _BATCH_ENTRIES // (size * columns))
            jobs += [pairs[i : i + step] for i in range(0, len(pairs), step)]

        def solve(pairs: list[tuple[int, int]]) -> list[LinearFits]:
            of_cases = np.stack([labels[sets[s]] for _, s in pairs])
            weights = np.stack([class_weights(y, classes) if balanced else np.ones(len(y)) for y in of_cases])
            inner = np.stack([grams[f][s] for f, s in pairs])
            if head == "ridge":
                targets = class_targets(of_cases, classes)
                dual, shift = ridge_batch(inner, targets, weights, penalties=penalties)
                shift = np.repeat(shift[:, None], len(penalties), axis=1)
            else:
                dual, shift = logistic_batch(inner, of_cases, weights, classes=classes, penalties=penalties)
            return [
                _primal(features[f][sets[s]], dual[i], shift[i], weights[i]) for i, (f, s) in enumerate(pairs)
            ]

        solved = pool.map(solve, jobs)
        found: dict[tuple[int, int], LinearFits] = {}
        for pairs, fits in zip(jobs, solved, strict=True):
            found.update(zip(pairs, fits, strict=True))
    return [[found[f, s] for s in range(len(sets))] for f in range(len(features))]


def _parents(sets: Sequence[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """For each set the largest one that holds it, itself if none does, and where its cases stand there."""
    order = sorted(range(len(sets)), key=lambda i: -len(sets[i]))
    tops: list[tuple[int, dict[int, int]]] = []
    found: list[tuple[int, np.ndarray]] = [(0, np.empty(0, dtype=np.int64))] * len(sets)
    for i in order:
        members = [int(j) for j in sets[i]]
        for top, place in tops:
            if all(j in place for j in members):
                found[i] = top, np.array([place[j] for j in members])
                break
        else:
            tops.append((i, {j: at for at, j in enumerate(members)}))
            found[i] = i, np.arange(len(members))
    return found


def _grams(
    features: np.ndarray, sets: Sequence[np.ndarray], parents: list[tuple[int, np.ndarray]]
) -> list[np.ndarray]:
    """(n, n) inner products of each set, computed once for those that lie within another."""
    made: dict[int, np.ndarray] = {}
    for top, _ in parents:
        if top not in made:
            made[top] = gram(features[sets[top]])
    return [made[top] if len(at) == len(made[top]) else made[top][np.ix_(at, at)] for top, at in parents]


def _primal(rows: np.ndarray, dual: np.ndarray, shift: np.ndarray, weights: np.ndarray) -> LinearFits:
    """Weights and intercepts for features as they come, from coefficients (m, n, c) of the cases."""
    m, n, c = dual.shape
    exact = rows.astype(np.float64)
    mean = weights @ exact / weights.sum()
    w = (dual.transpose(0, 2, 1).reshape(m * c, n) @ exact).reshape(m, c, -1).transpose(0, 2, 1)
    return LinearFits(w, shift - np.matmul(mean, w))

"""How sure a score is: intervals over test patients.

A resample draws as many patients as there are, with replacement; a case counts as often as its
patient was drawn. Patients are not stratified by class: how many of each class a hospital would have
sent is part of what is unknown. A resample in which a score is undefined (one class only) is left out
of that score's interval. The interval is the percentile interval, widened where need be to hold the
value itself (scores with a bias, such as the calibration error, can lie outside of their resamples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from medspectrum.metrics.classification import SCORES

RESAMPLES = 1000
FEWEST_OF_PAIRS = 3  # so few people make the same pairs in every resample
_KEPT_ENTRIES = 5_000_000  # cases x resamples kept for the next scoring: 40 MB
_BLOCK_ENTRIES = 100_000  # cases x resamples held at once: what fits the processor's cache


def patient_weights(
    patients: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[np.ndarray]:
    """Blocks (n, r) of how often each case counts in each resample; r adds up to ``resamples``.

    Blocks keep memory bounded at many cases; equal arguments give equal blocks.
    """
    names, of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    m = len(names)
    rng = np.random.default_rng([seed, m])
    block = min(resamples, max(32, _BLOCK_ENTRIES // max(len(of_case), 1)))
    for first in range(0, resamples, block):
        r = min(block, resamples - first)
        drawn = rng.integers(m, size=(m, r))
        drawn *= r
        drawn += np.arange(r)
        times = np.bincount(drawn.ravel(), minlength=m * r).reshape(m, r).astype(np.float64)
        yield times[of_case] if m < len(of_case) or not np.array_equal(of_case, np.arange(m)) else times


@lru_cache(maxsize=4)
def _kept(patients: tuple[str, ...], resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    blocks = tuple(patient_weights(patients, resamples=resamples, seed=seed))
    for block in blocks:
        block.flags.writeable = False
    return blocks


def _kept_weights(patients: tuple[str, ...], resamples: int, seed: int) -> Iterable[np.ndarray]:
    """Resamples of the same patients are drawn once: a sweep scores the same test cases again and again."""
    if len(patients) * resamples > _KEPT_ENTRIES:
        return patient_weights(patients, resamples=resamples, seed=seed)
    return _kept(patients, resamples, seed)


def intervals(
    probabilities: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[str],
    *,
    scores: Sequence[str] = tuple(SCORES),
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """``{score: {"value", "low", "high"}}``, None where undefined; low and high also for one patient."""

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        return {name: SCORES[name](probabilities, truth, weights) for name in scores}

    return resampled(several, patients, resamples=resamples, level=level, seed=seed)


def resampled(
    several: Callable[[np.ndarray | None], Mapping[str, Any]],
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
    partners: Sequence[str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """The same of any scores: ``several(None)`` gives floats by name, ``several((n, R))`` arrays (R,).

    partners: the second patient of each case, where a case is a pair. It then counts as often as both were
    drawn, multiplied: pairs that share a patient come and go together. A pair of one patient counts once.
    """
    values = {name: float(value) for name, value in several(None).items()}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    people = (*patients, *(partners or ()))
    if len(set(people)) > (1 if partners is None else FEWEST_OF_PAIRS) and resamples:
        for weights in _kept_weights(people, resamples, seed):
            if partners is not None:
                weights = _of_pairs(weights, np.array(patients) == np.array(partners))
            for name, row in several(weights).items():
                drawn[name].append(row)
    return {name: _summary(values[name], drawn[name], level) for name in values}


def _of_pairs(weights: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Weights (2 n, R) of first and second patients as those of n pairs."""
    first, second = np.split(weights, 2)
    return first * np.where(same[:, None], 1.0, second)


def paired_difference(
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[str],
    *,
    score: str = "auc",
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float | None, float | None, float | None]:
    """Score of A minus score of B on the same cases, with its interval: (value, low, high).

    Both are scored on the same resampled patients, so what makes a patient hard for both cancels.
    """
    of = SCORES[score]
    value = float(of(probabilities_a, truth)) - float(of(probabilities_b, truth))
    drawn = []
    if len(set(patients)) > 1:
        drawn = [
            of(probabilities_a, truth, weights) - of(probabilities_b, truth, weights)
            for weights in patient_weights(patients, resamples=resamples, seed=seed)
        ]
    found = _summary(value, drawn, level)
    return found["value"], found["low"], found["high"]


def _summary(value: float, drawn: list[np.ndarray], level: float) -> dict[str, float | None]:
    """Value and percentile interval as JSON values."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    known = np.concatenate(drawn) if drawn else np.empty(0)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"value": value, "low": None, "high": None}
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return {"value": value, "low": float(min(low, value)), "high": float(max(high, value))}

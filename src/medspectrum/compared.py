"""Scores of the same cases answered in several ways, all on the same resampled patients.

What makes a patient hard before and after a change cancels, so that a fall in the score, and what a remedy
brings back of it, are known better than either score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import resampled
from medspectrum.metrics.classification import SCORES, auc
from medspectrum.outliers import SCORES as UNLIKENESS

Judge = Callable[[np.ndarray | None], Any]
"""None -> the primary score; weights (n, R) of the cases -> (R,) scores."""
Score = dict[str, float | None]
LEAST_PATIENTS = 5  # of a centre or group that is compared with others
SHUFFLES = 400


def judge(task: Task, predictions: Any, cases: Sequence[Case]) -> Judge:
    """The task's primary score of these answers. Raises UserError for tasks that are not judged so."""
    if task.name == "classify":
        of, truth = SCORES[task.primary], np.array([task.target(c) for c in cases])
        given = np.asarray(predictions, np.float64)
        return lambda weights: of(given, truth, weights)
    if task.name == "segment":
        from medspectrum.tasks.segment import mean_of_cases

        table = task.tables(predictions, cases)[task.primary]  # type: ignore[attr-defined]
        return lambda weights: mean_of_cases(table, weights)
    raise UserError(
        "how predictors carry over is measured for the tasks classify and segment; this one is for "
        f"{task.name}"
    )


def scored(of: Judge, cases: Sequence[Case], *, seed: int = 0) -> Score:
    """The score with its interval over patients."""
    return resampled(lambda w: {"score": of(w)}, [c.patient for c in cases], seed=seed)["score"]


def fallen(before: Judge, after: Judge, cases: Sequence[Case], *, seed: int = 0) -> dict[str, Score]:
    """``score`` after a change, and the ``drop`` that the change costs."""

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        then = after(weights)
        return {"score": then, "drop": before(weights) - then}

    return resampled(several, [c.patient for c in cases], seed=seed)


def closed(
    clean: Judge, worse: Judge, mended: Judge, cases: Sequence[Case], *, seed: int = 0
) -> dict[str, Any]:
    """What a remedy gains, and which share of the gap it closes.

    ``score``, ``gain`` (mended minus worse), ``gap`` (clean minus worse) and ``closed`` (gain / gap, None
    where the gap's interval holds 0: there is nothing sure to close).
    """

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        best, low, mid = (np.asarray(of(weights), float) for of in (clean, worse, mended))
        gap = best - low
        share = np.divide(mid - low, gap, out=np.full(np.shape(gap), np.nan), where=gap > 0)
        return {"score": mid, "gain": mid - low, "gap": gap, "closed": share}

    found: dict[str, Any] = resampled(several, [c.patient for c in cases], seed=seed)
    low = found["gap"]["low"]
    return found | ({} if low is not None and low > 0 else {"closed": None})


def groups_of(names: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Places of each named group, in the order of their names; the unnamed are left out."""
    found = sorted({n for n in names if n is not None})
    return {name: np.array([i for i, n in enumerate(names) if n == name]) for name in found}


def worst_group(
    of: Judge, cases: Sequence[Case], names: Sequence[str | None], *, seed: int = 0
) -> dict[str, Any] | None:
    """The group that scores worst against all other cases, with the interval of the gap.

    Among several groups one is always worst: ``by_chance`` says how large the gap is where patients are dealt
    to groups of these sizes at random (mean, and the share of deals with at least this gap). Groups of fewer
    than ``LEAST_PATIENTS`` patients, and those whose score is undefined, are left aside; None where no group,
    or nothing beside it, is left.
    """
    patients = np.array([c.patient for c in cases])
    groups = {n: g for n, g in groups_of(names).items() if len(set(patients[g])) >= LEAST_PATIENTS}
    gaps = {n: _gap(of, len(cases), g) for n, g in groups.items()}
    known = {n: g for n, g in gaps.items() if not np.isnan(g)}
    if not known:
        return None
    worst = max(known, key=lambda n: known[n])
    inside = np.zeros((len(cases), 1))
    inside[groups[worst]] = 1

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        if weights is None:
            return {
                "score": _one(of, inside), "others": _one(of, 1 - inside), "gap": known[worst],
            }  # fmt: skip
        own, rest = of(weights * inside), of(weights * (1 - inside))
        return {"score": own, "others": rest, "gap": rest - own}

    found: dict[str, Any] = resampled(several, patients.tolist(), seed=seed)
    return {"name": worst, **found, "by_chance": _by_chance(of, patients, groups, known[worst], seed)}


def _one(of: Judge, weights: np.ndarray) -> float:
    return float(np.asarray(of(weights)).ravel()[0])


def _gap(of: Judge, n: int, places: np.ndarray) -> float:
    inside = np.zeros((n, 1))
    inside[places] = 1
    if not 0 < inside.sum() < n:
        return float("nan")
    return _one(of, 1 - inside) - _one(of, inside)


def _by_chance(
    of: Judge, patients: np.ndarray, groups: Mapping[str, np.ndarray], gap: float, seed: int
) -> dict[str, float]:
    """Gaps of the worst of groups to which patients were dealt at random."""
    people, of_case = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng([seed, 7])
    order = rng.permuted(np.tile(np.arange(len(people)), (SHUFFLES, 1)), axis=1)
    sizes = [len(np.unique(of_case[g])) for g in groups.values()]
    worst = np.full(SHUFFLES, -np.inf)
    start = 0
    for size in sizes:
        start = 0 if start + size > len(people) else start  # people at several centres come again
        chosen = np.zeros((SHUFFLES, len(people)), bool)
        np.put_along_axis(chosen, order[:, start : start + size], True, axis=1)
        start += size
        inside = chosen[:, of_case].T.astype(float)
        found = np.asarray(of(1 - inside)) - np.asarray(of(inside))
        worst = np.fmax(worst, found)
    known = worst[np.isfinite(worst)]
    if not len(known):
        return {}
    return {"gap": float(known.mean()), "share": float((known >= gap).mean())}


def noticed(
    clean: dict[str, np.ndarray],
    other: dict[str, np.ndarray],
    cases: Sequence[Case],
    others: Sequence[Case],
    *,
    seed: int,
) -> dict[str, Any]:
    """By score of unlikeness, the AUROC by which other cases are told from those judged; {} if not known."""
    truth = np.repeat([0, 1], [len(cases), len(others)])
    patients = [c.patient for c in (*cases, *others)]
    found = {}
    for name in UNLIKENESS:
        if f"unlike_{name}" not in clean or f"unlike_{name}" not in other:
            continue
        order = np.concatenate([clean[f"unlike_{name}"], other[f"unlike_{name}"]])
        columns = np.stack([-order, order], axis=1)
        found[name] = resampled(lambda w, c=columns: {"auroc": auc(c, truth, w)}, patients, seed=seed)[
            "auroc"
        ]
    return found

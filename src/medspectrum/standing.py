"""A predictor on cases as they are: for whom it works, how honest it is, how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import compared, outliers, reliability, subgroups
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.methods._features import mean_features
from medspectrum.progress import Step
from medspectrum.reference import Reference, evenly

ALPHA = 0.1
MOST_AT_HAND = {"classify": 2000, "segment": 100}  # test cases of a run: more would cost seconds
MOST_OTHER = 300  # cases of other data that are looked at


def limits_of(task: Task, reference: Reference | None, notes: list[str]) -> dict[str, float]:
    """Conformal thresholds from the validation patients of the run."""
    if task.name != "classify" or reference is None or not reference.has("val_answers"):
        return {}
    found = reliability.thresholds(
        reference["val_answers"],
        reference["val_truth"],
        reference["val_patients"].astype(str).tolist(),
        alpha=ALPHA,
    )
    if not found:
        notes.append("the run's validation part has too few patients to promise a coverage of 90 %")
    return found


def groups(of: compared.Judge, cases: Sequence[Case], by: str, seed: int) -> dict[str, Any]:
    """By column the score of each group with its interval, and the worst of them."""
    found = {}
    for column, names in subgroups.columns(cases, by).items():
        rows = {}
        for name, places in compared.groups_of(names).items():
            own = [cases[i] for i in places]
            rows[name] = {
                "n": len(own),
                "patients": len({c.patient for c in own}),
                **_within(of, cases, places, seed),
            }
        stated = [None if n == subgroups.NOT_STATED else n for n in names]
        found[column] = {"groups": rows, "worst": compared.worst_group(of, cases, stated, seed=seed)}
    return found


def _within(of: compared.Judge, cases: Sequence[Case], places: np.ndarray, seed: int) -> dict[str, Any]:
    inside = np.zeros((len(cases), 1))
    inside[places] = 1

    def several(weights: np.ndarray | None) -> Any:
        found = of(inside if weights is None else weights * inside)
        return float(np.asarray(found).ravel()[0]) if weights is None else found

    return {"score": compared.scored(several, cases, seed=seed)}


def honesty(
    task: Task, predictions: Any, cases: Sequence[Case], limits: dict[str, float], seed: int
) -> dict[str, Any]:
    """Calibration and coverage, of all cases and by centre."""
    if task.name != "classify":
        return {"calibration": None, "coverage": None}
    truth, patients = reliability.truth_of(task, cases), np.array([c.patient for c in cases])
    groups = {
        n: g
        for n, g in compared.groups_of([c.centre for c in cases]).items()
        if len(set(patients[g])) >= compared.LEAST_PATIENTS
    }

    def calibrated(g: Any) -> dict[str, Any]:
        return reliability.calibration(predictions[g], truth[g], patients[g].tolist(), seed=seed)

    def covered(g: Any) -> dict[str, Any]:
        return reliability.coverage(predictions[g], truth[g], patients[g].tolist(), limits, seed=seed)

    everything = np.arange(len(cases))
    return {
        "calibration": {
            "all": calibrated(everything), "per_centre": {n: calibrated(g) for n, g in groups.items()},
        },
        "coverage": {
            "promised": 1 - ALPHA, "all": covered(everything),
            "per_centre": {n: covered(g) for n, g in groups.items()},
        } if limits else None,
    }  # fmt: skip


def likeness(
    model: Any,
    reference: Reference | None,
    cases: Sequence[Case],
    found: dict[str, np.ndarray],
    other: tuple[Path, Sequence[Case]] | None,
    step: Step,
    *,
    seed: int,
) -> dict[str, Any] | None:
    """The share of cases less like the training than 95 % of validation; whether other data are noticed."""
    names = [n for n in outliers.SCORES if f"unlike_{n}" in found]
    if reference is None or not names:
        if other is not None:
            raise UserError(
                "other data can be told apart by heads on frozen features only; this predictor has none"
            )
        return None
    told: dict[str, Any] = {}
    for name in names:
        if not reference.has(f"val_{name}"):
            continue
        limit = float(np.quantile(reference[f"val_{name}"], 0.95))
        beyond = found[f"unlike_{name}"] > limit
        shares = {
            n: {"n": len(g), "share": float(beyond[g].mean())}
            for n, g in compared.groups_of([c.centre for c in cases]).items()
        }
        told[name] = {"limit": limit, "share": float(beyond.mean()), "per_centre": shares}
    result: dict[str, Any] = {"beyond_validation": told}
    if other is not None:
        path, strange = other[0], evenly(other[1], MOST_OTHER)
        lost = {x.source for x in model.ensure([i for c in strange for i in c.images.values()], step)}
        strange = [c for c in strange if not any(i.source in lost for i in c.images.values())]
        if not strange:
            raise UserError(f"{path}: none of its cases can be read")
        rows = outliers.unlikeness(reference.arrays, mean_features(model, strange))
        result["other"] = {
            "path": str(path),
            "cases": len(strange),
            "noticed": compared.noticed(found, named(rows), cases, strange, seed=seed),
        }
    return result


def named(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores of unlikeness under the names that they are kept by."""
    return {f"unlike_{name}": values for name, values in rows.items()}


def at_hand(
    task: Task,
    reference: Reference | None,
    model: Any,
    predictions: Any,
    cases: Sequence[Case],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """What a run knows of this without another look at an image: centres, probabilities, coverage, likeness.

    ``worst_centre``, ``calibration``, ``coverage``, ``beyond_validation``; each None where it is not known.
    On at most ``MOST_AT_HAND`` test cases, evenly chosen.
    """
    places = evenly(range(len(cases)), MOST_AT_HAND[task.name])
    some = [cases[i] for i in places]
    answers = predictions[places] if isinstance(predictions, np.ndarray) else [predictions[i] for i in places]
    of = compared.judge(task, answers, some)
    limits = limits_of(task, reference, [])
    found = {}
    if reference is not None and model is not None and reference.has("feature_mean"):
        rows = outliers.unlikeness(reference.arrays, mean_features(model, some))
        found = named(rows)
    alike = likeness(model, reference, some, found, None, lambda *_: None, seed=seed)
    return {
        "cases": len(some),
        "worst_centre": compared.worst_group(of, some, [c.centre for c in some], seed=seed),
        **honesty(task, answers, some, limits, seed),
        "beyond_validation": alike["beyond_validation"] if alike else None,
    }

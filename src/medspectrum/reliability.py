"""Whether stated probabilities are what happens, and sets of classes that hold the true one as promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.metrics import conformal
from medspectrum.metrics.bootstrap import resampled
from medspectrum.metrics.classification import brier, calibration_curve, calibration_error

FOLDS = 5
LEAST_PATIENTS = 10  # to fit a temperature on some and judge it on others
LEAST_TO_CALIBRATE = 10  # patients; with fewer no threshold of 90 % exists


def temperature_scaled(probabilities: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    """Probabilities (n, k) with their log odds multiplied by ``factor``, which is 1 / temperature."""
    logits = np.log(np.maximum(probabilities, 1e-12)) * np.reshape(factor, (-1, 1))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def temperature_apart(
    probabilities: np.ndarray, truth: np.ndarray, patients: Sequence[str], *, seed: int = 0
) -> tuple[np.ndarray, float] | None:
    """Rescaled probabilities, each case's factor fitted on other patients; and the mean temperature.

    None for fewer than ten patients. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    from medspectrum.methods._probabilities import fit_temperature

    people, of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(people) < LEAST_PATIENTS:
        return None
    fold = np.random.default_rng([seed, 3]).permutation(len(people))[of_case] % FOLDS
    logits = np.log(np.maximum(probabilities, 1e-12))
    factors = np.ones(len(truth))
    for number in range(FOLDS):
        others = fold != number
        factors[~others] = fit_temperature(logits[others], truth[others], np.ones(int(others.sum())))
    return temperature_scaled(probabilities, factors), float((1 / factors).mean())


def calibration(
    probabilities: np.ndarray, truth: np.ndarray, patients: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Calibration error, Brier score and curve; and the first two after a temperature fitted on others."""
    after = temperature_apart(probabilities, truth, patients, seed=seed)

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        found = {
            "calibration_error": calibration_error(probabilities, truth, weights),
            "brier": brier(probabilities, truth, weights),
        }
        if after is not None:
            found["calibration_error_scaled"] = calibration_error(after[0], truth, weights)
            found["brier_scaled"] = brier(after[0], truth, weights)
        return found

    curve = calibration_curve(probabilities, truth)
    return {
        "n": len(truth),
        "patients": len(set(patients)),
        **resampled(several, list(patients), seed=seed),
        "temperature": None if after is None else after[1],
        "curve": {name: values.tolist() for name, values in curve.items()},
    }


def thresholds(
    probabilities: np.ndarray, truth: np.ndarray, patients: Sequence[str], *, alpha: float, seed: int = 0
) -> dict[str, float]:
    """The threshold of each conformal score; {} for too few patients to promise anything."""
    if len(set(patients)) < max(LEAST_TO_CALIBRATE, int(np.ceil(1 / alpha)) - 1):
        return {}
    return {
        kind: conformal.calibrated(probabilities, truth, patients, kind, alpha=alpha, seed=seed)
        for kind in conformal.SCORES
    }


def coverage(
    probabilities: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[str],
    limits: dict[str, float],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """By conformal score: how often sets hold the truth, how large they are, how often one abstains.

    ``coverage``: share of patients' weight (each patient counts 1) whose set holds the true class. ``size``:
    mean number of classes. ``abstained``: share of cases whose set is not of one class.
    ``accuracy_answered``: of the others.
    """
    shares, _ = conformal.patient_shares(patients)
    found: dict[str, Any] = {}
    for kind, limit in limits.items():
        inside = conformal.sets(probabilities, limit, kind, seed=seed + 1)
        held = inside[np.arange(len(truth)), truth].astype(float)
        size = inside.sum(axis=1).astype(float)
        single = (size == 1).astype(float)

        def several(
            weights: np.ndarray | None, held: np.ndarray = held, size: np.ndarray = size,
            single: np.ndarray = single,
        ) -> dict[str, Any]:  # fmt: skip
            columns = np.ones((len(truth), 1)) if weights is None else weights
            total, people = columns.sum(axis=0), (columns * shares[:, None]).sum(axis=0)
            answered = single @ columns
            with np.errstate(invalid="ignore", divide="ignore"):
                rows = {
                    "coverage": (held * shares) @ columns / people,
                    "size": size @ columns / total,
                    "abstained": 1 - answered / total,
                    "accuracy_answered": (held * single) @ columns / answered,
                }
            return {k: float(v[0]) for k, v in rows.items()} if weights is None else rows

        found[kind] = {"threshold": limit, **resampled(several, list(patients), seed=seed)}
    return found


def truth_of(task: Task, cases: Sequence[Case]) -> np.ndarray:
    """(n,) indices of the true classes."""
    return np.array([task.target(case) for case in cases])

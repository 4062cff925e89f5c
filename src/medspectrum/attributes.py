"""Whether a group of patients, such as their centre, can be told from what a predictor gives out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.methods._head import Labelled
from medspectrum.methods._probabilities import softmax
from medspectrum.methods.linear_probe import fit_logistic
from medspectrum.metrics.bootstrap import intervals, paired_difference

FEWEST = 6
"""Patients of a value, below which its cases are left out."""
MOST_VALUES = 20
MOST_CASES = 2000
FOLDS = 5
SCORES = ("auc", "balanced_accuracy")


def told(
    cases: Sequence[Case],
    answers: np.ndarray,
    rows: np.ndarray,
    task: Task,
    name: str | None,
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How well the attribute is told from answers and features, each patient guessed from the others.

    answers: (n, k) probabilities; rows: (n, d) features; name: a column of the data, or None for the centre.
    Beside both stands what the true class tells alone: where centres have other patients, a right answer
    tells of the centre too. None where nothing was asked for and cases name no two centres. Raises UserError
    for a column that is not there or no group.
    """
    values = _values(cases, name)
    if values is None:
        return None
    people: dict[str, set[str]] = {}
    for case, value in zip(cases, values, strict=True):
        if value:
            people.setdefault(value, set()).add(case.patient)
    kept = [value for value, own in people.items() if len(own) >= FEWEST]
    if len(people) > MOST_VALUES:
        raise UserError(
            f"the column {name!r} has {len(people)} values; name one of at most {MOST_VALUES} groups"
        )
    if len(kept) < 2:
        if name is None:
            return None
        raise UserError(f"fewer than two values of {name!r} have {FEWEST} patients; name another column")
    some = np.array([i for i, value in enumerate(values) if value in kept])
    if len(some) > MOST_CASES:
        some = np.sort(np.random.default_rng([seed, 79]).permutation(some)[:MOST_CASES])
    names, truth = np.unique([values[i] for i in some], return_inverse=True)
    patients = [cases[i].patient for i in some]
    label = np.eye(len(task.classes), dtype=np.float32)[[int(task.target(cases[i])) for i in some]]
    asked = {
        "class": label,
        "answers": np.log(np.clip(answers[some], 1e-6, 1.0)).astype(np.float32),
        "features": rows[some],
    }
    guessed = {source: _guessed(own, truth, patients, len(names), seed) for source, own in asked.items()}
    scored = {
        source: intervals(own, truth, patients, scores=SCORES, seed=seed) for source, own in guessed.items()
    }
    beyond = {
        source: dict(
            zip(
                ("value", "low", "high"),
                paired_difference(guessed[source], guessed["class"], truth, patients, seed=seed),
                strict=True,
            )
        )
        for source in ("answers", "features")
    }
    counts = Counter(values[i] for i in some)
    return {
        "attribute": name or "centre",
        "values": {str(value): counts[str(value)] for value in names},
        "cases": len(some),
        "patients": len(set(patients)),
        "chance": {"auc": 0.5, "balanced_accuracy": 1 / len(names)},
        "from": scored,
        "auc_beyond_class": beyond,
    }


def _values(cases: Sequence[Case], name: str | None) -> list[str] | None:
    if name is None or name == "centre":
        found = [case.centre or "" for case in cases]
        if not any(found) and name is not None:
            raise UserError("no case names a centre; name its column with --centre, or another --attribute")
        return found if any(found) else None
    columns = sorted({column for case in cases for column in case.record})
    if name not in columns:
        there = f"there are: {', '.join(columns[:12])}" if columns else "the data have no further columns"
        raise UserError(f"no case has a column {name!r}; {there}")
    return ["" if (own := case.record.get(name)) is None else str(own).strip() for case in cases]


def _guessed(rows: np.ndarray, truth: np.ndarray, patients: Sequence[str], k: int, seed: int) -> np.ndarray:
    """(n, k) probabilities by a linear probe that has not seen the case's patient."""
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.full((len(truth), k), 1.0 / k)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learned, asked in folds.split(rows, truth, np.asarray(patients)):
        present, labels = np.unique(truth[learned], return_inverse=True)
        if len(present) < 2:
            continue
        given = Labelled(rows[learned], labels, present, [str(patients[int(i)]) for i in learned], ())
        weights, intercepts, _ = fit_logistic(given, None, seed)
        found[asked[:, None], present] = softmax(rows[asked] @ weights + intercepts)
    return found

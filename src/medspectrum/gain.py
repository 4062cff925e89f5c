"""What made pictures add to a few real labels: heads with and without them, judged on the same test cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medspectrum.budgets import Budget
from medspectrum.case import Case
from medspectrum.metrics.bootstrap import patient_weights
from medspectrum.metrics.classification import auc, balanced_accuracy, long_tail, some_classes
from medspectrum.tasks.classify import Classify

ARMS = ("real", "oversampled", "mixup", "synthetic")
"""Real cases alone; rare classes repeated; real cases mixed in feature space; real and made ones."""
PENALTIES = tuple(10.0 ** (e / 2) for e in range(4, -7, -1))
RESAMPLES = 500
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features (n, d), targets (n, k) that sum to 1, and a number of each row's patient."""


def gain(
    budgets: Sequence[Budget],
    test: Sequence[Case],
    task: Classify,
    rows_of: Callable[[Sequence[Case]], np.ndarray],
    made: np.ndarray,
    made_labels: np.ndarray,
    *,
    counts: Sequence[int],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of every arm at every budget, and each arm's gain over real cases alone, with intervals.

    budgets: of the training part. rows_of: features of cases. made: (m, d) features of made pictures with
    class indices. counts: training cases of each class, by which tail classes are told. Intervals are over
    test patients and draws of the labelled cases at once. The head is a ridge regression, classes weigh the
    same, its penalty is chosen on real patients left out.
    """
    truth = np.array([task.target(c) for c in test])
    seen, k = rows_of(test), len(task.classes)
    tail = long_tail(counts).get("tail", [])
    scores: dict[str, Callable[..., Any]] = {"auc": auc, "balanced_accuracy": balanced_accuracy}
    if tail:
        scores["tail_balanced_accuracy"] = lambda p, t, w: some_classes(p, t, tail, w)["balanced_accuracy"]
    weights = np.concatenate(
        list(patient_weights([c.patient for c in test], resamples=RESAMPLES, seed=seed)), 1
    )
    weights = np.concatenate([np.ones((len(test), 1)), weights], 1)  # the first is the value itself
    found: list[dict[str, Any]] = []
    names = list(dict.fromkeys(b.name for b in budgets))
    done = 0
    for name in names:
        draws = [b for b in budgets if b.name == name]
        values: dict[str, dict[str, list[np.ndarray]]] = {a: {s: [] for s in scores} for a in ARMS}
        for budget in draws:
            labels = np.array([task.target(c) for c in budget.cases])
            patients = np.unique([c.patient for c in budget.cases], return_inverse=True)[1]
            real = rows_of(budget.cases), np.eye(k)[labels], patients
            rng = np.random.default_rng([seed, 2, budget.draw])
            for arm, rows in arms(real, made, made_labels, rng).items():
                answers = _answers(rows, len(labels), seen)
                for score, of in scores.items():
                    values[arm][score].append(np.asarray(of(answers, truth, weights), float))
            done += 1
            if progress is not None:
                progress(done, len(budgets))
        rng = np.random.default_rng([seed, 3])
        picked = rng.integers(len(draws), size=(len(draws), RESAMPLES))
        summed = partial(_summed, picked=picked)
        found.append(
            {
                "budget": name,
                "draws": len(draws),
                "labels": int(np.mean([len(b.cases) for b in draws])),
                "arms": {a: {s: summed(np.stack(v)) for s, v in values[a].items()} for a in ARMS},
                "over_real": {
                    a: {s: summed(np.stack(values[a][s]) - np.stack(values["real"][s])) for s in scores}
                    for a in ARMS[1:]
                },
            }
        )
    return {
        "budgets": found,
        "scores": list(scores),
        "tail": [task.classes[c] for c in tail],
        "test": {"cases": len(test), "patients": len({c.patient for c in test})},
        "synthetic": {task.classes[c]: int((made_labels == c).sum()) for c in range(k)},
    }


def arms(real: Rows, made: np.ndarray, made_labels: np.ndarray, rng: np.random.Generator) -> dict[str, Rows]:
    """What each arm learns from; real rows first. Classes without a real label get none."""
    rows, targets, patients = real
    labels, k = targets.argmax(1), targets.shape[1]
    counts = np.bincount(labels, minlength=k)
    repeated = np.concatenate(
        [np.arange(len(rows))]
        + [rng.choice(np.flatnonzero(labels == c), counts.max() - counts[c]) for c in np.flatnonzero(counts)]
    ).astype(int)
    count = len(rows) + len(made)
    one, other = rng.integers(len(rows), size=(2, count - len(rows)))
    share = rng.beta(0.4, 0.4, size=(len(one), 1))
    mixed = share * rows[one] + (1 - share) * rows[other]
    blended = share * targets[one] + (1 - share) * targets[other]
    known = counts[made_labels] > 0
    return {
        "real": real,
        "oversampled": (rows[repeated], targets[repeated], patients[repeated]),
        "mixup": (
            np.concatenate([rows, mixed]), np.concatenate([targets, blended]),
            np.concatenate([patients, patients[one]]),
        ),
        "synthetic": (
            np.concatenate([rows, made[known]]), np.concatenate([targets, np.eye(k)[made_labels[known]]]),
            np.concatenate([patients, patients.max() + 1 + np.arange(known.sum())]),
        ),
    }  # fmt: skip


def _answers(learned: Rows, real: int, test: np.ndarray) -> np.ndarray:
    """Probabilities (n, k) of the test rows; the first ``real`` rows choose the penalty."""
    from medspectrum.engine.ridge import ridge
    from medspectrum.methods._scale import scale_features

    rows, targets, patients = learned
    labels = targets.argmax(1)
    weights = 1.0 / np.bincount(labels, minlength=targets.shape[1])[labels]
    weights *= len(labels) / weights.sum()
    order = np.unique(labels, return_inverse=True)[1]
    mean, factor = scale_features(rows, order, weights)
    pairs = np.unique(np.stack([labels[:real], patients[:real]], 1), axis=0)
    held = np.flatnonzero(np.bincount(pairs[:, 0], minlength=targets.shape[1])[labels[:real]] > 1)
    penalties = np.array(PENALTIES if len(held) else (1.0,))
    signed = 2 * targets - 1
    fits, left = ridge((rows - mean) * factor, signed, penalties=penalties, weights=weights, groups=patients)
    best = 0
    if len(held):
        errors = np.square(left[:, held] - signed[held]).sum(2) @ weights[held]
        best = int(np.nanargmin(errors)) if np.isfinite(errors).any() else len(penalties) // 2
    said = ((test - mean) * factor) @ fits.weights[best] + fits.intercepts[best]
    grown = np.exp(3 * (said - said.max(1, keepdims=True)))
    return grown / grown.sum(1, keepdims=True)


def _summed(values: np.ndarray, *, picked: np.ndarray) -> dict[str, float | None]:
    """Mean over draws, with a 95 % interval over draws and patients. values: (draws, 1 + resamples)."""
    mean = float(np.nanmean(values[:, 0]))
    drawn = np.take_along_axis(values[:, 1:], picked, 0).mean(0)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or not np.isfinite(mean):
        return {"value": None, "low": None, "high": None}
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": mean, "low": float(min(low, mean)), "high": float(max(high, mean))}

"""A logistic regression on frozen features: the usual measure of what features are worth.

Features are centred and scaled (see ``scale_features``), cases weighted so that each class counts the
same, and the regularisation is the one with the least log loss on held-out patients of the labelled
cases. A temperature from the same held-out predictions makes the probabilities honest.

Probabilities are those of a population in which the labelled classes are equally common, so that the
most probable class is the decision with the best balanced accuracy; they are calibrated for that
population. ``prevalence="labelled"`` turns them to the frequencies of the labelled cases instead: better
calibrated and more accurate where new cases come in the same mix, at the cost of the rare classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.methods._folds import patient_folds
from medspectrum.methods._head import Labelled, LinearHead, labelled_cases, only_class, restore_linear
from medspectrum.methods._probabilities import fit_temperature, softmax
from medspectrum.methods._scale import scale_features
from medspectrum.registry import method

PENALTIES = tuple(10.0**e for e in (1, 0.5, 0, -0.5, -1, -1.5, -2, -3))
DEFAULT_PENALTY = 0.1  # where no patient can be held out
_CHOICE_TOLERANCE = 1e-5  # of the fits that only choose; the one that is kept is exact
_ONE_FOLD_ABOVE = 20_000  # cases: a fifth of them is plenty to choose by


@method("linear_probe", trains="head", cost=0, restore=restore_linear, needs_model=True)
@one_blas_thread
def linear_probe(
    model: Model,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    penalty: float | None = None,
    prevalence: Literal["balanced", "labelled"] = "balanced",
) -> LinearHead:
    """Logistic regression on frozen features, its regularisation chosen on held-out patients.

    penalty: of the squared weights on scaled features; None chooses. prevalence: see the file's head.
    """
    if prevalence not in ("balanced", "labelled"):
        raise UserError(f"prevalence is balanced or labelled, not {prevalence!r}.")
    if penalty is not None and not penalty > 0:
        raise UserError(f"penalty must be above 0, not {penalty}.")
    given = labelled_cases(model, cases, task)
    settings: dict[str, Any] = {"prevalence": prevalence}
    if len(given.present) == 1:
        return only_class(model, given, settings)
    weights, intercepts, chosen = fit_logistic(given, penalty, seed)
    if prevalence == "labelled":
        log_share = np.log(np.bincount(given.labels) / len(given.labels))
        intercepts = intercepts + (log_share[1:] - log_share[:1] if len(intercepts) == 1 else log_share)
    settings["chosen_penalty"] = chosen
    return LinearHead(model, given.classes, weights, intercepts, given.present, len(cases), settings)


def fit_logistic(given: Labelled, penalty: float | None, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights (d, c), intercepts (c,) for raw features, temperature included; and the penalty chosen."""
    from medspectrum.engine.solvers import class_weights, logistic

    k, labels = len(given.present), given.labels
    balance = class_weights(labels, k)
    mean, factor = scale_features(given.rows, labels, balance)
    rows = (given.rows - mean) * factor
    penalties = np.array(PENALTIES if penalty is None else (penalty,))
    fold = patient_folds(given.patients, labels, seed=seed)
    temperature = 1.0
    if fold is None:
        if penalty is None:
            penalties = np.array([DEFAULT_PENALTY])
        fits, _ = logistic(rows, labels, classes=k, penalties=penalties, weights=balance)
        fit, best = fits[0], 0
    else:
        used = range(1 if len(labels) > _ONE_FOLD_ABOVE else fold.max() + 1)
        learned = np.array([np.where(fold == i, 0.0, balance) for i in used])
        fits, logits = logistic(
            rows, labels, classes=k, penalties=penalties, weights=learned, tolerance=_CHOICE_TOLERANCE
        )
        held = [_held_out(fold, labels, i) for i in used]
        where = np.concatenate(held)
        outer = np.concatenate([logits[i][:, rows_] for i, rows_ in enumerate(held)], axis=1)
        best = _least_loss(outer, labels[where], balance[where])
        temperature = fit_temperature(outer[best], labels[where], balance[where]) if len(where) else 1.0
        fits, _ = logistic(rows, labels, classes=k, penalties=penalties[best : best + 1], weights=balance)
        fit = fits[0]
    weights = temperature * factor[:, None] * fit.weights[0]
    return weights, temperature * fit.intercepts[0] - mean @ weights, float(penalties[best])


def _held_out(fold: np.ndarray, labels: np.ndarray, i: int) -> np.ndarray:
    """Cases of fold i whose class was there to be learned from the other folds."""
    known = np.unique(labels[fold != i])
    return np.flatnonzero((fold == i) & np.isin(labels, known))


def _least_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> int:
    """Which of the penalties (m, n, c) has the least weighted log loss; the first, strongest, of equals."""
    if not len(labels):
        return PENALTIES.index(DEFAULT_PENALTY) if len(logits) == len(PENALTIES) else 0
    losses = []
    for of_one in logits:
        of_truth = np.take_along_axis(softmax(of_one), labels[:, None], axis=1)[:, 0]
        losses.append(-(weights * np.log(np.maximum(of_truth, 1e-300))).sum())
    return int(np.argmin(losses))

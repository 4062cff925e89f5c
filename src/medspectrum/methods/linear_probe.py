"""A logistic regression on frozen features: the usual measure of what features are worth.

Features are centred and scaled (see ``scale_features``), cases weighted so that each class counts the
same, and the regularisation is the one with the least log loss on held-out patients of the labelled
cases. A temperature from the same held-out predictions makes the probabilities honest.

Probabilities are those of a population in which the labelled classes are equally common, so that the
most probable class is the decision with the best balanced accuracy; they are calibrated for that
population. ``prevalence="labelled"`` turns them to the frequencies of the labelled cases instead: better
calibrated and more accurate where new cases come in the same mix, at the cost of the rare classes.

``weighting`` says how cases count while fitting: ``classes`` (each class the same), ``root`` (a class with
the root of its cases), ``effective`` (Cui et al. 2019, see ``engine.class_loss``) or ``none``. Whatever it
is, the logits are shifted to the population that ``prevalence`` names; ``none`` with ``balanced`` is thereby
the logit adjustment of Menon et al. (ICLR 2021, equation 9), ``none`` with ``labelled`` plain cross-entropy.

``soft`` learns from the shares of a case's readers for each class instead of their majority: a case on which
readers differ counts for each class by its share, while fitting, while choosing and for the temperature.
Probabilities are then of what a reader would say.
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
from medspectrum.methods._probabilities import fit_temperature, surprise
from medspectrum.methods._scale import scale_features
from medspectrum.registry import method

WEIGHTINGS = ("classes", "root", "effective", "none")
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
    weighting: Literal["classes", "root", "effective", "none"] = "classes",
    soft: bool = False,
) -> LinearHead:
    """Logistic regression on frozen features, its regularisation chosen on held-out patients.

    penalty: of the squared weights on scaled features; None chooses. prevalence, weighting, soft: see the
    file's head.
    """
    if prevalence not in ("balanced", "labelled"):
        raise UserError(f"prevalence is balanced or labelled, not {prevalence!r}.")
    if weighting not in WEIGHTINGS:
        raise UserError(f"weighting is one of {', '.join(WEIGHTINGS)}, not {weighting!r}.")
    if penalty is not None and not penalty > 0:
        raise UserError(f"penalty must be above 0, not {penalty}.")
    given = labelled_cases(model, cases, task, soft=soft)
    settings: dict[str, Any] = {"prevalence": prevalence, "weighting": weighting}
    settings |= {"soft": True} if soft else {}
    if len(given.present) == 1:
        return only_class(model, given, settings)
    weights, intercepts, chosen = fit_logistic(given, penalty, seed, weighting)
    if prevalence == "labelled":
        count = np.bincount(given.labels) if given.shares is None else given.shares.sum(axis=0)
        log_share = np.log(count / len(given.labels))
        intercepts = intercepts + (log_share[1:] - log_share[:1] if len(intercepts) == 1 else log_share)
    settings["chosen_penalty"] = chosen
    return LinearHead(model, given.classes, weights, intercepts, given.present, len(cases), settings)


def fit_logistic(
    given: Labelled, penalty: float | None, seed: int, weighting: str = "classes"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights (d, c), intercepts (c,) for raw features, temperature included; and the penalty chosen.

    The logits are of a population with equally common classes, whatever the weighting of the cases.
    """
    from medspectrum.engine.solvers import class_weights, logistic, soft_class_weights

    k, labels = len(given.present), given.labels
    if given.shares is None:
        balance, truth = class_weights(labels, k), labels
    else:
        balance, truth = soft_class_weights(given.shares)
    counting, targets, shift = _counting(given, weighting, balance, truth)
    mean, factor = scale_features(given.rows, labels, balance)
    rows = (given.rows - mean) * factor
    penalties = np.array(PENALTIES if penalty is None else (penalty,))
    fold = patient_folds(given.patients, labels, seed=seed)
    temperature = 1.0
    if fold is None:
        if penalty is None:
            penalties = np.array([DEFAULT_PENALTY])
        fits, _ = logistic(rows, targets, classes=k, penalties=penalties, weights=counting)
        fit, best = fits[0], 0
    else:
        used = range(1 if len(labels) > _ONE_FOLD_ABOVE else fold.max() + 1)
        learned = np.array([np.where(fold == i, 0.0, counting) for i in used])
        fits, logits = logistic(
            rows, targets, classes=k, penalties=penalties, weights=learned, tolerance=_CHOICE_TOLERANCE
        )
        held = [_held_out(fold, labels, i) for i in used]
        where = np.concatenate(held)
        outer = np.concatenate([logits[i][:, rows_] for i, rows_ in enumerate(held)], axis=1) + shift
        best = _least_loss(outer, truth[where], balance[where])
        temperature = fit_temperature(outer[best], truth[where], balance[where]) if len(where) else 1.0
        fits, _ = logistic(rows, targets, classes=k, penalties=penalties[best : best + 1], weights=counting)
        fit = fits[0]
    weights = temperature * factor[:, None] * fit.weights[0]
    return weights, temperature * (fit.intercepts[0] + shift) - mean @ weights, float(penalties[best])


def _counting(
    given: Labelled, weighting: str, balance: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
    """How cases count: (n,) weights, mean 1; what they are to be called, indices (n,) or shares (n, c).

    And what turns the logits to equally common classes: (c,), or 0. balance, truth: the first two where each
    class counts the same.
    """
    from medspectrum.engine.class_loss import weights_of
    from medspectrum.engine.solvers import soft_class_weights

    if weighting == "classes":
        return balance, truth, 0.0
    k = len(given.present)
    counts = np.bincount(given.labels, minlength=k) if given.shares is None else given.shares.sum(axis=0)
    counts = counts.astype(np.float64)
    if weighting == "root":
        each = counts**-0.5 * counts.sum() / np.sqrt(counts).sum()
    else:
        each = weights_of("plain" if weighting == "none" else weighting, counts).astype(np.float64)
    seen = np.log(each * counts)
    shift = seen[:1] - seen[1:] if k == 2 else -seen
    if given.shares is None:
        return each[given.labels], given.labels, shift
    return *soft_class_weights(given.shares, each), shift


def _held_out(fold: np.ndarray, labels: np.ndarray, i: int) -> np.ndarray:
    """Cases of fold i whose class was there to be learned from the other folds."""
    known = np.unique(labels[fold != i])
    return np.flatnonzero((fold == i) & np.isin(labels, known))


def _least_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> int:
    """Which of the penalties (m, n, c) has the least weighted log loss; the first, strongest, of equals."""
    if not len(labels):
        return PENALTIES.index(DEFAULT_PENALTY) if len(logits) == len(PENALTIES) else 0
    return int(np.argmin([(weights * surprise(of_one, labels)).sum() for of_one in logits]))

"""Ridge regression on frozen features: closed form, the cheapest head that learns.

Scores of -1 and 1 are regressed on centred and scaled features, each class with the same total weight. The
penalty is the one with the least squared error over labelled patients left out one at a time, which costs
no further fit. The scores of patients left out also give the temperature by which a softmax turns scores
into probabilities; as with the linear probe these are of a population with equally common classes.
Where several readers labelled a case, ``soft`` regresses on their expected score instead of the majority's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.methods._head import LinearHead, labelled_cases, only_class, restore_linear
from medspectrum.methods._probabilities import fit_temperature
from medspectrum.methods._scale import scale_features
from medspectrum.registry import method

PENALTIES = tuple(10.0 ** (e / 2) for e in range(6, -7, -1))
DEFAULT_PENALTY = 1.0  # where no patient can be left out
SHARPNESS = 3.0  # a score of 1 is this logit before the temperature: 95 % for two classes


@method("ridge", trains="head", cost=0, restore=restore_linear, needs_model=True)
@one_blas_thread
def ridge(
    model: Model,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001 - nothing is drawn
    penalty: float | None = None,
    soft: bool = False,
) -> LinearHead:
    """Ridge regression on frozen features, its penalty chosen by leaving out one patient at a time.

    penalty: of the squared weights on scaled features; None chooses. soft: learn from the shares of readers
    where a case has several.
    """
    from medspectrum.engine.ridge import class_targets
    from medspectrum.engine.ridge import ridge as solve
    from medspectrum.engine.solvers import class_weights, soft_class_weights

    if penalty is not None and not penalty > 0:
        raise UserError(f"penalty must be above 0, not {penalty}.")
    given = labelled_cases(model, cases, task, soft=soft)
    labels, k = given.labels, len(given.present)
    if k == 1:
        return only_class(model, given, {})
    if given.shares is None:
        balance, truth = class_weights(labels, k), labels
    else:
        balance, truth = soft_class_weights(given.shares)
    mean, factor = scale_features(given.rows, labels, balance)
    _, patients = np.unique(given.patients, return_inverse=True)
    held = _can_be_held_out(patients, labels)
    penalties = np.array(PENALTIES if penalty is None else (penalty,))
    if penalty is None and not held.any():
        penalties = np.array([DEFAULT_PENALTY])
    targets = class_targets(truth, k)
    fits, left = solve(
        (given.rows - mean) * factor, targets, penalties=penalties, weights=balance, groups=patients
    )
    best, temperature = 0, 1.0
    if held.any():
        errors = np.square(left[:, held] - targets[held]).sum(axis=2) @ balance[held]
        best = int(np.argmin(errors))
        temperature = fit_temperature(SHARPNESS * left[best, held], truth[held], balance[held])
    weights = SHARPNESS * temperature * factor[:, None] * fits.weights[best]
    intercepts = SHARPNESS * temperature * fits.intercepts[best] - mean @ weights
    settings = {"chosen_penalty": float(penalties[best]), **({"soft": True} if soft else {})}
    return LinearHead(model, given.classes, weights, intercepts, given.present, len(cases), settings)


def _can_be_held_out(patients: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) whether a case's class is known from another patient too."""
    pairs = np.unique(np.stack([labels, patients], axis=1), axis=0)
    return np.bincount(pairs[:, 0])[labels] > 1

"""The nearest class mean: one prototype a class, the least that can be learned from examples.

Features are centred on the mean of the classes' means and brought to length 1; a prototype is the mean of
its class's directions, and a case's score its cosine to it (Snell et al. 2017 with cosine instead of
Euclidean distance). A temperature found on held-out patients turns cosines into probabilities, of a
population in which the labelled classes are equally common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.methods._features import case_features
from medspectrum.methods._folds import patient_folds
from medspectrum.methods._head import Labelled, labelled_cases
from medspectrum.methods._probabilities import fit_temperature, softmax, spread_to_all
from medspectrum.registry import method

SHARPNESS = 5.0  # logit of a cosine of 1 before the temperature


@dataclass(frozen=True)
class Prototypes:
    """Class directions (c, d) float64 around a centre (d,); logits are ``sharpness`` times the cosines."""

    model: Model
    classes: tuple[str, ...]
    centre: np.ndarray
    directions: np.ndarray
    present: np.ndarray
    labelled: int
    sharpness: float

    @property
    def trained_parameters(self) -> int:
        """The prototypes and their centre."""
        return self.directions.size + self.centre.size

    @one_blas_thread
    def predict(self, cases: Sequence[Case]) -> np.ndarray:
        """(n, k) float64 probabilities."""
        rows = case_features(self.model, cases, width=len(self.centre))
        logits = self.sharpness * (unit(rows - self.centre) @ self.directions.T)
        shares = softmax(logits) if len(self.present) > 1 else np.ones((len(cases), 1))
        return spread_to_all(shares, self.present, len(self.classes), self.labelled)

    def head(self) -> Any:
        """The head as torch computes it: features (n, d) -> logits of ``present``."""
        from medspectrum.engine import heads

        return heads.directions(self.centre, self.directions, self.sharpness)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        arrays = {"centre": self.centre, "directions": self.directions, "present": self.present}
        return arrays, {
            "classes": list(self.classes),
            "labelled": self.labelled,
            "sharpness": self.sharpness,
        }


def _restore(model: Model, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Prototypes:
    return Prototypes(
        model,
        tuple(settings["classes"]),
        np.asarray(arrays["centre"]),
        np.asarray(arrays["directions"]),
        np.asarray(arrays["present"]),
        int(settings["labelled"]),
        float(settings["sharpness"]),
    )


@method("prototype", trains="head", cost=0, restore=_restore, needs_model=True)
@one_blas_thread
def prototype(model: Model, cases: Sequence[Case], task: Task, *, seed: int = 0) -> Prototypes:
    """The nearest class mean by cosine of centred features, its temperature from held-out patients."""
    given = labelled_cases(model, cases, task)
    k = len(given.present)
    centre, directions = _means(given.rows, given.labels, np.arange(k))
    sharpness = SHARPNESS * _temperature(given, seed)
    return Prototypes(model, given.classes, centre, directions, given.present, len(cases), sharpness)


def _means(rows: np.ndarray, labels: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (d,) and directions (c, d) of the classes ``which``."""
    means = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in which])
    centre = means.mean(axis=0)
    return centre, unit(np.stack([unit(rows[labels == c] - centre).mean(axis=0) for c in which]))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)


def _temperature(given: Labelled, seed: int) -> float:
    """The temperature by which cases of held-out patients have the least class-balanced log loss."""
    from medspectrum.engine.solvers import class_weights

    fold = patient_folds(given.patients, given.labels, seed=seed)
    if fold is None:
        return 1.0
    k = len(given.present)
    logits = np.zeros((len(fold), k))
    held = np.zeros(len(fold), dtype=bool)
    for i in range(fold.max() + 1):
        learn = fold != i
        which = np.unique(given.labels[learn])
        here = np.flatnonzero(~learn & np.isin(given.labels, which))
        if len(which) < 2 or not len(here):
            continue
        centre, directions = _means(given.rows[learn], given.labels[learn], which)
        logits[here] = -1e3  # classes that this fold could not learn
        logits[np.ix_(here, which)] = SHARPNESS * (unit(given.rows[here] - centre) @ directions.T)
        held[here] = True
    balance = class_weights(given.labels, k)
    return fit_temperature(logits[held], given.labels[held], balance[held]) if held.any() else 1.0

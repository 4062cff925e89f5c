"""The predictor of every head that is linear in the features: scores, softmax, done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, ClassTarget, Model, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.methods._features import case_features
from medspectrum.methods._probabilities import softmax, spread_to_all

_CHUNK_CASES = 4096
_OF_HEAD = ("classes", "labelled", "unit_length")  # of a saved state; the rest are the method's settings


@dataclass(frozen=True)
class LinearHead:
    """Probabilities = softmax(features @ weights + intercepts).

    weights: (d, c), intercepts: (c,), float64, temperature and scaling of features folded in; c is 1 for
    two labelled classes (the logit of the second), 0 for one, else their number. present: columns of
    ``classes`` that were labelled. labelled: how many cases were. unit_length: features are brought to
    length 1 before.
    """

    model: Model
    classes: tuple[str, ...]
    weights: np.ndarray
    intercepts: np.ndarray
    present: np.ndarray
    labelled: int
    settings: dict[str, Any]
    unit_length: bool = False

    @property
    def trained_parameters(self) -> int:
        """Weights and intercepts."""
        return self.weights.size + self.intercepts.size

    @one_blas_thread
    def predict(self, cases: Sequence[Case]) -> np.ndarray:
        """(n, k) float64 probabilities."""
        rows = case_features(self.model, cases, width=len(self.weights))
        found = [np.empty((0, len(self.present)))]
        for first in range(0, len(rows), _CHUNK_CASES):
            some = rows[first : first + _CHUNK_CASES].astype(np.float64)
            some = unit_rows(some) if self.unit_length else some
            logits = some @ self.weights + self.intercepts
            found.append(softmax(logits) if logits.shape[1] else np.ones((len(some), 1)))
        return spread_to_all(np.concatenate(found), self.present, len(self.classes), self.labelled)

    def head(self) -> Any:
        """The head as torch computes it: features (n, d) -> logits of ``present``."""
        from medspectrum.engine import heads

        return heads.linear(self.weights, self.intercepts, unit_length=self.unit_length)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        arrays = {"weights": self.weights, "intercepts": self.intercepts, "present": self.present}
        told = {"unit_length": True} if self.unit_length else {}
        return arrays, {**self.settings, **told, "classes": list(self.classes), "labelled": self.labelled}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) of length 1; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def only_class(model: Model, given: Labelled, settings: dict[str, Any]) -> LinearHead:
    """The head where one class alone was labelled: there is nothing to tell apart."""
    none = np.empty((given.rows.shape[1], 0))
    return LinearHead(model, given.classes, none, np.empty(0), given.present, len(given.labels), settings)


def restore_linear(model: Model, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> LinearHead:
    """The head as it was saved."""
    rest = {name: value for name, value in settings.items() if name not in _OF_HEAD}
    return LinearHead(
        model,
        tuple(settings["classes"]),
        np.asarray(arrays["weights"]),
        np.asarray(arrays["intercepts"]),
        np.asarray(arrays["present"]),
        int(settings["labelled"]),
        rest,
        bool(settings.get("unit_length", False)),
    )


@dataclass(frozen=True)
class Labelled:
    """The labelled cases as numbers. rows: (n, d) float32. labels: (n,) indices into ``present``.

    shares: (n, len(present)) of readers for each class, where heads learn from them.
    """

    rows: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    patients: list[str]
    classes: tuple[str, ...]
    shares: np.ndarray | None = None


def labelled_cases(model: Model, cases: Sequence[Case], task: Task, *, soft: bool = False) -> Labelled:
    """Features, labels and patients; soft: shares of readers too. Raises UserError where there is no case."""
    labels, present = labels_of(cases, task)
    return Labelled(
        case_features(model, cases),
        labels,
        present,
        [case.patient for case in cases],
        tuple(task.classes),
        shares_of(cases, task, present) if soft else None,
    )


def shares_of(cases: Sequence[Case], task: Task, present: np.ndarray) -> np.ndarray | None:
    """(n, len(present)) share of each case's readers for each class; None where no case has several readers.

    A label that is none of these classes (nobody's majority here) is set aside: the rest share its part.
    """
    targets = [case.asked(ClassTarget) for case in cases]
    if not any(own is not None and len(own.readers) > 1 for own in targets):
        return None
    given = [own.shares() if own is not None else {} for own in targets]
    found = np.array([[own.get(task.classes[c], 0.0) for c in present] for own in given])
    return found / found.sum(axis=1, keepdims=True)


def labels_of(cases: Sequence[Case], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(n,) indices into the classes that occur, and those classes' columns."""
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    present, labels = np.unique([task.target(case) for case in cases], return_inverse=True)
    return labels, present

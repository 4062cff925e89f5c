"""The nearest labelled cases vote: nothing is trained, so it shows what the features already know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.methods._features import case_features
from medspectrum.methods._head import labelled_cases
from medspectrum.methods._probabilities import spread_to_all
from medspectrum.registry import method

NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100)
_CHUNK_ENTRIES = 20_000_000  # similarities held at once: 80 MB
_MOST_ASKED = 3000  # cases by which the number of neighbours is chosen
_SHARPNESS = 10.0  # a neighbour whose cosine is 0.1 less votes with 1/e of the weight


@dataclass(frozen=True)
class Neighbours:
    """Labelled cases that vote. rows: (n, d) float32 of length 1, centred by ``mean``; labels: (n,)."""

    model: Model
    classes: tuple[str, ...]
    rows: np.ndarray
    mean: np.ndarray
    labels: np.ndarray
    present: np.ndarray
    neighbours: int
    trained_parameters: int = 0

    @one_blas_thread
    def predict(self, cases: Sequence[Case]) -> np.ndarray:
        """(n, k) shares of the votes."""
        asked = _directions(case_features(self.model, cases, width=len(self.mean)), self.mean)
        k = len(self.present)
        found = [np.empty((0, k))]
        step = max(1, _CHUNK_ENTRIES // len(self.rows))
        for first in range(0, len(asked), step):
            alike = asked[first : first + step] @ self.rows.T
            found.append(_votes(alike, self.labels, k, [self.neighbours])[0])
        return spread_to_all(np.concatenate(found), self.present, len(self.classes), len(self.labels))

    def head(self) -> Any:
        """The head as torch computes it: features (n, d) -> logits of ``present``; see there."""
        from medspectrum.engine import heads

        return heads.nearest(self.rows, self.mean, self.labels, len(self.present), self.neighbours)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        arrays = {"rows": self.rows, "mean": self.mean, "labels": self.labels, "present": self.present}
        return arrays, {"classes": list(self.classes), "neighbours": self.neighbours}


def _restore(model: Model, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Neighbours:
    return Neighbours(
        model,
        tuple(settings["classes"]),
        np.asarray(arrays["rows"]),
        np.asarray(arrays["mean"]),
        np.asarray(arrays["labels"]),
        np.asarray(arrays["present"]),
        int(settings["neighbours"]),
    )


@method("knn", trains="nothing", cost=0, restore=_restore, needs_model=True)
@one_blas_thread
def knn(
    model: Model, cases: Sequence[Case], task: Task, *, seed: int = 0, neighbours: int | None = None
) -> Neighbours:
    """The nearest labelled cases vote, by cosine of centred features, each class with equal weight.

    neighbours: how many vote; None chooses the number with the least log loss when each labelled case is
    judged by the cases of other patients (of 3,000 cases drawn by ``seed`` where there are more).
    """
    if neighbours is not None and neighbours < 1:
        raise UserError(f"neighbours must be 1 or more, not {neighbours}.")
    given = labelled_cases(model, cases, task)
    k = len(given.present)
    # The mean of the classes' means: a centre that does not lean to the common class.
    mean = np.stack([given.rows[given.labels == c].mean(axis=0) for c in range(k)]).mean(axis=0)
    rows = _directions(given.rows, mean)
    if neighbours is None:
        neighbours = _choose(rows, given.labels, np.asarray(given.patients), k, seed)
    neighbours = min(neighbours, len(rows))
    return Neighbours(model, given.classes, rows, mean, given.labels, given.present, neighbours)


def _directions(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Centred rows of length 1; one that lies on the mean stays 0 and is as near to all."""
    centred = rows - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)


def _choose(rows: np.ndarray, labels: np.ndarray, patients: np.ndarray, k: int, seed: int) -> int:
    """The number of neighbours with the least class-balanced log loss, own patient left out."""
    some = np.arange(len(rows))
    if len(some) > _MOST_ASKED:
        some = np.sort(np.random.default_rng([seed, len(rows)]).permutation(some)[:_MOST_ASKED])
    choices = [number for number in NEIGHBOURS if number < len(rows)] or [1]
    losses = np.zeros(len(choices))
    count = np.bincount(labels, minlength=k)
    _, of_case = np.unique(patients, return_inverse=True)
    step = max(1, _CHUNK_ENTRIES // len(rows))
    for first in range(0, len(some), step):
        asked = some[first : first + step]
        alike = rows[asked] @ rows.T
        alike[of_case[asked][:, None] == of_case[None, :]] = -np.inf
        for i, votes in enumerate(_votes(alike, labels, k, choices)):
            of_truth = votes[np.arange(len(asked)), labels[asked]]
            losses[i] -= (np.log(of_truth) / count[labels[asked]]).sum()
    return choices[int(np.argmin(losses))]


def _votes(alike: np.ndarray, labels: np.ndarray, k: int, choices: Sequence[int]) -> list[np.ndarray]:
    """(n, k) shares of the votes for each number of neighbours, nearest first; -inf never votes.

    A vote weighs exp(10 (cosine - nearest cosine)) / (cases of its class / cases of the rarest), and
    every class has one vote of 1 / k beforehand, so that three neighbours do not claim certainty.
    """
    most = min(max(choices), alike.shape[1])
    if most < alike.shape[1]:
        nearest = np.argpartition(-alike, most - 1, axis=1)[:, :most]
    else:
        nearest = np.broadcast_to(np.arange(alike.shape[1]), alike.shape)
    near = np.take_along_axis(alike, nearest, axis=1).astype(np.float64)
    order = np.lexsort((nearest, -near), axis=1)  # equal cosines: the earlier case first
    near, whose = np.take_along_axis(near, order, axis=1), labels[np.take_along_axis(nearest, order, axis=1)]
    count = np.maximum(np.bincount(labels, minlength=k), 1)
    top = np.where(np.isfinite(near[:, :1]), near[:, :1], 0.0)
    weight = np.exp(_SHARPNESS * (near - top)) * (count.min() / count)[whose]
    of_class = np.stack([np.cumsum(weight * (whose == c), axis=1) for c in range(k)], axis=2)
    found = []
    for number in choices:
        votes = of_class[:, min(number, most) - 1] + 1.0 / k
        found.append(votes / votes.sum(axis=1, keepdims=True))
    return found

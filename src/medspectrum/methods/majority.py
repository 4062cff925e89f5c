"""How often each class is: what any model has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.methods._head import labels_of
from medspectrum.registry import method


@dataclass(frozen=True)
class Frequencies:
    """The same probabilities (k,) for every case."""

    classes: tuple[str, ...]
    frequencies: np.ndarray
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> np.ndarray:
        """(n, k) the frequencies, again and again."""
        return np.tile(self.frequencies, (len(cases), 1))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        return {"frequencies": self.frequencies}, {"classes": list(self.classes)}


def _restore(_model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Frequencies:
    return Frequencies(tuple(settings["classes"]), np.asarray(arrays["frequencies"]))


@method("majority", trains="nothing", cost=0, restore=_restore, needs_model=False)
def majority(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
) -> Frequencies:
    """Predict the classes' frequencies among the labelled cases; looks at no image."""
    labels, present = labels_of(cases, task)
    frequencies = np.zeros(len(task.classes))
    frequencies[present] = np.bincount(labels) / len(labels)
    return Frequencies(tuple(task.classes), frequencies)

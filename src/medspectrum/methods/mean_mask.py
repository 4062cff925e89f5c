"""Where the labels lie on average: what any segmentation has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods._dense import refuse_partial, roles
from medspectrum.registry import method

MOST_VOXELS = 64 * 64 * 64


@dataclass(frozen=True)
class MeanMask:
    """The most frequent label at each place, stretched to the image. mean: (Z, Y, X) uint8."""

    classes: tuple[str, ...]
    mean: np.ndarray
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """The same outline for every case, on its image's grid."""
        return [LabelMap.of(_stretched(self.mean, roles(case)[0].load().size)) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        return {"mean": self.mean}, {"classes": list(self.classes)}


def _stretched(labels: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Labels at another size, the nearest each."""
    places = [
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int)
        for n, m in zip(size, labels.shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _restore(_model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> MeanMask:
    return MeanMask(tuple(settings["classes"]), np.asarray(arrays["mean"], np.uint8))


@method("mean_mask", task="segment", trains="nothing", cost=0, restore=_restore, needs_model=False)
def mean_mask(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
) -> MeanMask:
    """Predict the labels' most frequent places among the labelled cases; looks at no image."""
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    refuse_partial(cases, task)
    truths = [task.target(case) for case in cases]
    size = np.median([t.shape for t in truths], axis=0).astype(int)
    shrink = (
        min(1.0, (MOST_VOXELS / float(np.prod(size))) ** (1 / sum(size > 1))) if (size > 1).any() else 1.0
    )
    z, y, x = (max(1, round(n * shrink)) if n > 1 else 1 for n in size)
    counts = np.zeros((len(task.classes) + 1, z, y, x), np.int32)
    for truth in truths:
        small = _stretched(truth, (z, y, x))
        for label in range(len(counts)):
            counts[label] += small == label
    return MeanMask(tuple(task.classes), counts.argmax(axis=0).astype(np.uint8))

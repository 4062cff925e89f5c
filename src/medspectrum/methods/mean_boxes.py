"""Where boxes lie on average: what any detection has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.detections import Detections
from medspectrum.engine import planes
from medspectrum.errors import UserError
from medspectrum.methods._dense import roles
from medspectrum.metrics.boxes import box_iou
from medspectrum.registry import method

MOST_OF_A_LABEL = 100
LOOKED_AT = 4000  # boxes of a label
ALIKE = 0.5


@dataclass(frozen=True)
class MeanBoxes:
    """The same boxes for every case, stretched to the image. boxes: (n, 2 d) as shares of its sides."""

    classes: tuple[str, ...]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[Detections]:
        """The usual boxes, in pixels of each image."""
        axes = self.boxes.shape[1] // 2
        found = []
        for case in cases:
            sides = _sides(case)
            boxes = self.boxes * np.tile(sides, 2) if len(sides) == axes else np.zeros((0, 2 * len(sides)))
            n = len(boxes)
            found.append(Detections.of(boxes, self.scores[:n], self.labels[:n], axes=len(sides)))
        return found

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        arrays = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return arrays, {"classes": list(self.classes)}


def _sides(case: Case) -> np.ndarray:
    """Sides of the case's image in pixels: x, y, and of a volume z."""
    size = planes.cut(roles(case)[0]).size
    return np.array(size[2:0:-1] if size[0] == 1 else size[::-1], float)


def _restore(_model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> MeanBoxes:
    return MeanBoxes(tuple(settings["classes"]), arrays["boxes"], arrays["scores"], arrays["labels"])


@method("mean_boxes", task="detect", trains="nothing", cost=0, restore=_restore, needs_model=False)
def mean_boxes(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
) -> MeanBoxes:
    """Predict the places where boxes lay most often among the labelled cases; looks at no image."""
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    rng = np.random.default_rng(seed)
    truths = [(task.target(case), _sides(case)) for case in cases]
    axes = len(truths[0][1])
    boxes, scores, labels = [], [], []
    for label in range(len(task.classes)):
        own = [
            true.boxes[true.labels == label] / np.tile(sides, 2)
            for true, sides in truths
            if len(sides) == axes
        ]
        rows = np.concatenate([np.zeros((0, 2 * axes)), *own])
        rows = rows[rng.permutation(len(rows))[:LOOKED_AT]]
        alike = box_iou(rows, rows) >= ALIKE
        often = alike.sum(axis=1) / len(cases)
        free = np.ones(len(rows), bool)
        for place in np.argsort(-often, kind="stable"):
            if free[place] and sum(x == label for x in labels) < MOST_OF_A_LABEL:
                boxes.append(rows[alike[place]].mean(axis=0))
                scores.append(min(1.0, float(often[place])))
                labels.append(label)
                free &= ~alike[place]
    return MeanBoxes(
        tuple(task.classes),
        np.array(boxes, np.float32).reshape(-1, 2 * axes),
        np.array(scores, np.float32),
        np.array(labels, np.int32),
    )

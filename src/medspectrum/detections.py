"""What a detector answers for one case: boxes, each with a score and a label; kept as a few plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes found in one case, the surest first.

    boxes: (n, 4) float32 as x0, y0, x1, y1, or in volumes (n, 6) as x0, y0, z0, x1, y1, z1: edges, in pixels
    of the image. scores: (n,) float32 from 0 to 1. labels: (n,) int32, indices into the task's classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, axes: int = 2) -> Detections:
        """Sorted by falling score. axes: 2 or 3, for when there is no box. Raises ValueError for misfits."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 2 * axes)
        scores, labels = np.asarray(scores, np.float32).reshape(-1), np.asarray(labels).reshape(-1)
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels do not fit")
        order = np.argsort(-scores, kind="stable")
        return cls(boxes[order], scores[order], labels[order].astype(np.int32))

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def axes(self) -> int:
        """2 for boxes in a picture, 3 for boxes in a volume."""
        return self.boxes.shape[1] // 2

    def surest(self, most: int) -> Detections:
        """The first of them."""
        return Detections(self.boxes[:most], self.scores[:most], self.labels[:most])


def pack(found: Sequence[Detections]) -> dict[str, np.ndarray]:
    """The answers for many cases as five arrays."""
    return {
        "counts": np.array([len(one) for one in found], np.int64),
        "axes": np.array([one.axes for one in found], np.int8),
        "corners": np.concatenate([np.empty(0), *(one.boxes.reshape(-1) for one in found)]).astype(
            np.float32
        ),
        "scores": np.concatenate([np.empty(0), *(one.scores for one in found)]).astype(np.float32),
        "labels": np.concatenate([np.empty(0), *(one.labels for one in found)]).astype(np.int32),
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Detections]:
    """The answers that ``pack`` made arrays of."""
    made, row, corner = [], 0, 0
    for n, axes in zip(arrays["counts"].tolist(), arrays["axes"].tolist(), strict=True):
        boxes = arrays["corners"][corner : corner + 2 * axes * n].reshape(n, 2 * axes)
        made.append(Detections(boxes, arrays["scores"][row : row + n], arrays["labels"][row : row + n]))
        row, corner = row + n, corner + 2 * axes * n
    return made

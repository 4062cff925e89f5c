"""Boxes from label maps, and boxes of volumes as boxes of their planes and back.

A box is x0, y0, x1, y1 in a picture and x0, y0, z0, x1, y1, z1 in a volume: edges in pixels, so that pixel i
reaches from i to i + 1. Arrays are (Z, Y, X).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medspectrum.detections import Detections
from medspectrum.metrics.boxes import box_iou

LEAST_VOXELS = 4  # smaller specks of a label are slips of the pen
LINKED = 0.3  # IoU of boxes in planes that follow each other
GAP = 1  # planes that a thing may be overlooked in


def boxes_of_labels(labels: np.ndarray, *, least: int = LEAST_VOXELS) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the connected parts of each label above 0, (n, 4) or (n, 6), and their labels (n,).

    labels: (Z, Y, X) whole numbers; Z = 1 makes boxes of a picture. Parts that touch at a corner are one.
    least: voxels of a part; the largest part of a label is kept however small it is.
    """
    from scipy import ndimage

    flat = labels.shape[0] == 1
    boxes, names = [], []
    for label in (int(v) for v in np.unique(labels) if v > 0):
        parts, count = ndimage.label(labels == label, structure=np.ones((3, 3, 3)))  # type: ignore[misc]
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        for place, around in enumerate(ndimage.find_objects(parts)):
            if sizes[place] < least and sizes[place] < sizes.max():
                continue
            ends = [(s.start, s.stop) for s in reversed(around)]  # x, y, z
            ends = ends[:2] if flat else ends
            boxes.append([float(e[0]) for e in ends] + [float(e[1]) for e in ends])
            names.append(label)
    width = 4 if flat else 6
    return np.array(boxes, np.float64).reshape(-1, width), np.array(names, np.int64)


def in_planes(boxes: np.ndarray, axis: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per plane of a volume: (m, 4) boxes x0, y0, x1, y1 of the plane, and which of the boxes they are of.

    boxes: (n, 6). axis: of (Z, Y, X), along which the planes follow each other. A plane holds a box that
    covers its middle, and each box is in one plane at least.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
    through = 2 - axis
    kept = [i for i in range(3) if i != through]
    columns = [*kept, *(i + 3 for i in kept)]
    first = np.ceil(boxes[:, through] - 0.5).astype(int)
    last = np.ceil(boxes[:, through + 3] - 0.5).astype(int) - 1
    middle = np.floor((boxes[:, through] + boxes[:, through + 3]) / 2).astype(int)
    thin = last < first
    first, last = np.where(thin, middle, first), np.where(thin, middle, last)
    first, last = np.clip(first, 0, count - 1), np.clip(last, 0, count - 1)
    found = []
    for plane in range(count):
        here = np.flatnonzero((first <= plane) & (plane <= last))
        found.append((boxes[here][:, columns], here))
    return found


def joined(found: Sequence[Detections], axis: int) -> Detections:
    """Boxes of planes that follow each other as boxes of the volume.

    Plane after plane, each box goes on with the open thing of its label that it overlaps most (IoU of 0.3 at
    least, surest boxes first), past one plane in which it was overlooked. The box reaches as far as its
    surer half of planes says, its score is the mean of its planes', times k / (k + 1) for k planes: what is
    seen in one plane only is likely to be an error.
    """
    things: list[_Thing] = []
    for plane, one in enumerate(found):
        near = [t for t in things if plane - t.planes[-1] <= GAP + 1]
        taken: set[int] = set()
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
            best, most = None, LINKED
            for i, thing in enumerate(near):
                if i in taken or thing.label != int(label):
                    continue
                overlap = float(box_iou(box[None], thing.boxes[-1][None])[0, 0])
                if overlap >= most:
                    best, most = i, overlap
            if best is None:
                things.append(_Thing(int(label)))
                things[-1].add(plane, box, float(score))
            else:
                taken.add(best)
                near[best].add(plane, box, float(score))
    rows = [thing.whole(axis) for thing in things]
    return Detections.of(
        np.array([box for box, _ in rows]),
        np.array([score for _, score in rows]),
        np.array([thing.label for thing in things], np.int32),
        axes=3,
    )


class _Thing:
    """What is followed from plane to plane."""

    def __init__(self, label: int) -> None:
        self.label = label
        self.planes: list[int] = []
        self.boxes: list[np.ndarray] = []
        self.scores: list[float] = []

    def add(self, plane: int, box: np.ndarray, score: float) -> None:
        self.planes.append(plane)
        self.boxes.append(np.asarray(box, np.float64))
        self.scores.append(score)

    def whole(self, axis: int) -> tuple[np.ndarray, float]:
        scores, planes, boxes = np.array(self.scores), np.array(self.planes), np.stack(self.boxes)
        sure = np.argsort(-scores, kind="stable")[: math.ceil(len(scores) / 2)]
        low, high = boxes[sure, :2].min(axis=0), boxes[sure, 2:].max(axis=0)
        trusted = scores >= 0.5 * scores.max()
        ends = planes[trusted].min(), planes[trusted].max() + 1
        box = np.empty(6)
        through = 2 - axis
        kept = [i for i in range(3) if i != through]
        box[kept], box[[i + 3 for i in kept]] = low, high
        box[[through, through + 3]] = ends
        k = len(scores)
        return box, float(scores.mean() * k / (k + 1))

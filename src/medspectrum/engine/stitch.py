"""Scores of windows put together: blended in a rolling band, or each voxel from one window.

Both are told of the windows in the order of ``Tiles.places`` and give the whole at the end. The order of
additions is fixed, so that equal scores give equal bits.
"""

from __future__ import annotations

import numpy as np

from medspectrum.engine.window_grid import Tiles


def labels_of(scores: np.ndarray) -> np.ndarray:
    """The class of the highest score along the first axis, the first of equals; K = 1: whether above 0.

    uint8, or uint16 for more than 256 classes. A running maximum, several times as fast as ``argmax`` along
    an axis that is not the last.
    """
    kind = np.uint8 if len(scores) <= 256 else np.uint16
    if len(scores) == 1:
        return (scores[0] > 0).astype(kind)
    best = scores[0].copy()
    labels = np.zeros(best.shape, kind)
    for number, score in enumerate(scores[1:], start=1):
        # classes come in rising order, so a later winner's number is the larger one
        np.maximum(labels, (score > best).astype(kind) * kind(number), out=labels)
        np.maximum(best, score, out=best)
    return labels


class Blend:
    """Weighted sums of overlapping windows. For labels, in a band as thick as one window.

    Slices that no later window reaches are turned into labels, and the band moves on. The sum of weights
    is the same for all classes, so labels do not need it; scores are divided by it at the end.
    """

    def __init__(self, tiles: Tiles, weight: np.ndarray, *, turns: int, gives: str) -> None:
        self._tiles, self._weight, self._turns = tiles, weight, turns
        self._gives = gives
        self._base = 0
        self._band = np.zeros(0, np.float32)
        self._spare = np.zeros(0, np.float32)
        self._labels = np.zeros(0, np.uint8)

    def _begin(self, classes: int, extent: list[int]) -> None:
        thick, *rest = self._tiles.size
        if self._gives == "labels":
            thick = min(thick, self._tiles.side[0])
            self._labels = np.zeros(self._tiles.size, np.uint8 if classes <= 256 else np.uint16)
            self._band = np.zeros((thick, classes, *rest), np.float32)
        else:  # a view: the scores are (classes, ...) in memory
            self._band = np.moveaxis(np.zeros((classes, thick, *rest), np.float32), 0, 1)
        self._spare = np.empty((classes, *extent), np.float32)

    def add(self, place: tuple[int, ...], scores: np.ndarray) -> None:
        """Add the scores (K, ...) of one window."""
        (slices, *rest), (mine, *others) = self._tiles.inside(place)
        if not self._band.size:
            self._begin(len(scores), [s.stop - s.start for s in rest])
        if self._gives == "labels" and slices.start > self._base:
            self._finish(slices.start)
        for there, here in zip(range(slices.start, slices.stop), range(mine.start, mine.stop), strict=True):
            np.multiply(scores[(slice(None), here, *others)], self._weight[(here, *others)], out=self._spare)
            self._band[(there - self._base, slice(None), *rest)] += self._spare

    def _finish(self, end: int) -> None:
        """Turn the slices before ``end`` into labels, and let the band begin there."""
        done = end - self._base
        for number in range(done):
            self._labels[self._base + number] = labels_of(self._band[number])
        for number in range(len(self._band)):
            later = number + done
            self._band[number] = self._band[later] if later < len(self._band) else 0
        self._base = end

    def whole(self) -> np.ndarray:
        """The labels, or the mean scores."""
        if self._gives == "labels":
            self._finish(self._tiles.size[0])
            return self._labels
        total = np.zeros(self._tiles.size, np.float32)
        for place in self._tiles.places():
            there, here = self._tiles.inside(place)
            total[there] += self._weight[here]
        total *= self._turns
        scores = np.moveaxis(self._band, 1, 0)
        scores /= total
        return scores


class Centre:
    """Each voxel from the window whose centre is nearest; the windows' cores fill the volume."""

    def __init__(self, tiles: Tiles, *, turns: int, gives: str) -> None:
        self._tiles, self._turns, self._gives = tiles, turns, gives
        self._made = np.zeros(0, np.float32)
        self._sum = np.zeros(0, np.float32)
        self._added = 0

    def add(self, place: tuple[int, ...], scores: np.ndarray) -> None:
        """Take the core of one window's scores (K, ...); mirrored ones of the same window are averaged."""
        there, here = self._tiles.core(place)
        part = scores[(slice(None), *here)]
        if self._turns > 1:
            self._sum = part.astype(np.float32) if self._added == 0 else self._sum + part
            self._added = (self._added + 1) % self._turns
            if self._added:
                return
            part = self._sum / self._turns
        if self._gives == "labels":
            made = labels_of(part)
            if not self._made.size:
                self._made = np.zeros(self._tiles.size, made.dtype)
            self._made[there] = made
        else:
            if not self._made.size:
                self._made = np.zeros((len(part), *self._tiles.size), np.float32)
            self._made[(slice(None), *there)] = part

    def whole(self) -> np.ndarray:
        """The labels or scores."""
        return self._made

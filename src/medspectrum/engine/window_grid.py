"""Where windows lie over a volume, what each weighs, and which voxels are its own. Geometry only.

Every function works for any number of axes. A window may begin before the volume or end after it: where
the volume is smaller than the window, the window lies around it, half of what is lacking on either side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum.errors import UserError

SIGMA = 0.125
"""Standard deviation of the Gaussian importance, as a part of the window's side."""
LEAST_IMPORTANCE = 1e-3
BLENDS = ("gaussian", "constant")


def sides(roi: int | Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The window's sides for a volume of that size; one number stands for all axes. Raises UserError."""
    given = (roi,) * len(size) if isinstance(roi, int | np.integer) else tuple(roi)
    if len(given) != len(size):
        raise UserError(f"a window of {len(given)} sides does not fit a volume of {len(size)} axes")
    if any(int(side) < 1 for side in given):
        raise UserError(f"a window's sides are at least 1 voxel; got {given}")
    return tuple(int(side) for side in given)


def overlaps(overlap: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """The overlap along each axis. Raises UserError outside 0 <= overlap < 1."""
    given = (float(overlap),) * axes if isinstance(overlap, int | float) else tuple(overlap)
    if len(given) != axes or any(not 0 <= part < 1 for part in given):
        raise UserError(f"an overlap is at least 0 and below 1, one or one per axis; got {overlap}")
    return tuple(float(part) for part in given)


def starts(size: int, side: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis, every ``int(side * (1 - overlap))`` voxels, at least 1.

    The last window is moved back so that it ends with the volume (the placement of MONAI's
    ``sliding_window_inference``). A volume no larger than the window gets one window around it.
    """
    if size <= side:
        return [-((side - size) // 2)]
    step = max(1, int(side * (1 - overlap)))
    return [*range(0, size - side, step), size - side]


def even_starts(size: int, side: int, overlap: float) -> list[int]:
    """The fewest windows with at least that overlap, spread evenly, so that no core is cut short."""
    if size <= side:
        return [-((side - size) // 2)]
    step = max(1, int(side * (1 - overlap)))
    gaps = -(-(size - side) // step)
    return [round(place * (size - side) / gaps) for place in range(gaps + 1)]


def cores(begins: Sequence[int], side: int, size: int) -> list[tuple[int, int]]:
    """The voxels [first, end) that are nearest to each window's centre along one axis, ties to the first.

    Together they hold every voxel of the axis exactly once.
    """
    bounds = [(first + second + side + 1) // 2 for first, second in itertools.pairwise(begins)]
    return list(zip([0, *bounds], [*bounds, size], strict=True))


def importance(side: Sequence[int], blend: str) -> np.ndarray:
    """What a window's voxels weigh in the blend, float32 with the window's sides.

    gaussian: the product of exp(-x^2 / 2 sigma^2) along the axes, x from the window's centre, sigma an
    eighth of its side, and at least 0.001 (the definition of MONAI's ``compute_importance_map``).
    constant: 1 everywhere. Raises UserError for another name.
    """
    if blend not in BLENDS:
        raise UserError(f"there is no blend {blend!r}; there are {', '.join(BLENDS)}")
    weight = np.ones(tuple(side), np.float32)
    if blend == "constant":
        return weight
    for axis, length in enumerate(side):
        x = np.arange(length, dtype=np.float32) - np.float32((length - 1) / 2)
        bell = np.exp(x**2 / np.float32(-2 * (SIGMA * length) ** 2))
        weight *= bell.reshape([-1 if a == axis else 1 for a in range(len(side))])
    return np.maximum(weight, max(float(weight.min()), LEAST_IMPORTANCE))


def flips(mirror: Sequence[int], axes: int) -> list[tuple[int, ...]]:
    """Every combination of the mirrored axes, none first. Raises UserError for an axis that is not there."""
    if len(set(mirror)) != len(tuple(mirror)) or any(not 0 <= axis < axes for axis in mirror):
        raise UserError(f"mirrored axes are different numbers from 0 to {axes - 1}; got {tuple(mirror)}")
    found: list[tuple[int, ...]] = [()]
    for axis in mirror:
        found += [(*known, axis) for known in found]
    return found


@dataclass(frozen=True)
class Tiles:
    """The windows over one volume. size: the volume's; side: a window's; starts: first voxels per axis."""

    size: tuple[int, ...]
    side: tuple[int, ...]
    starts: tuple[list[int], ...]

    def places(self) -> Iterator[tuple[int, ...]]:
        """Each window's number along each axis, the last axis fastest."""
        return itertools.product(*(range(len(begins)) for begins in self.starts))

    def inside(self, place: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of a window that lies in the volume: in the volume's voxels, and in the window's."""
        there, here = [], []
        for begins, number, length, side in zip(self.starts, place, self.size, self.side, strict=True):
            begin = begins[number]
            first, end = max(0, begin), min(length, begin + side)
            there.append(slice(first, end))
            here.append(slice(first - begin, end - begin))
        return tuple(there), tuple(here)

    def core(self, place: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The voxels that are nearest to this window's centre, in the volume's voxels and in the window's."""
        there, here = [], []
        for begins, number, length, side in zip(self.starts, place, self.size, self.side, strict=True):
            first, end = cores(begins, side, length)[number]
            there.append(slice(first, end))
            here.append(slice(first - begins[number], end - begins[number]))
        return tuple(there), tuple(here)

    def cut(self, volume: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
        """One window of a (C, ...) volume as float32 in C order, zeros where it lies outside."""
        there, here = self.inside(place)
        made = np.zeros((volume.shape[0], *self.side), np.float32)
        made[(slice(None), *here)] = volume[(slice(None), *there)]
        return made

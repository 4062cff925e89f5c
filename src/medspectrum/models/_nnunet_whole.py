"""A whole image outlined by a network of nnU-Net, as nnU-Net itself goes about it.

Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z), second version: turned to the plans' axes, cut to what
is not zero, normalised, resampled to the plans' spacing, seen in windows, and the scores resampled back
before the highest counts. They are resampled class by class, so that few lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medspectrum.engine import windows
from medspectrum.models._nnunet_plans import Plans, Resampling, normalised

APART = 3.0
"""Ratio of spacings above which slices are resampled on their own."""
WEIGHT_AT_MIDDLE = 10.0
Progress = Callable[[int, int], None]


def labels_of(
    plans: Plans,
    run: Any,
    volume: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    mirror: Sequence[int] = (),
    progress: Progress | None = None,
) -> np.ndarray:
    """(Z, Y, X) labels of an image.

    run: what ``engine.windows.slide`` takes, for windows of ``plans.patch``. volume: (channels, Z, Y, X), a
    picture has Z = 1. spacing_mm: (Z, Y, X). mirror: axes of the patch, as the network saw them mirrored.
    Raises ValueError for another number of channels.
    """
    order = plans.order
    turned = volume.astype(np.float32).transpose(0, *(axis + 1 for axis in order))
    own = [float(spacing_mm[axis]) for axis in order]
    inside = _not_zero(turned)
    box = _around(inside)
    cut, inside = turned[(slice(None), *box)], inside[box]
    wanted = list(plans.spacing_mm)
    if len(wanted) < 3:  # networks of planes: the distance between them stays
        wanted = own[: 3 - len(wanted)] + wanted
    size = tuple(round(a / b * n) for a, b, n in zip(own, wanted, cut.shape[1:], strict=True))
    seen = resampled(normalised(plans, cut, inside), size, own, wanted, plans.resampling[0])
    scores = _scores(plans, run, seen.astype(np.float32), mirror, progress)
    found = _called(plans, scores, cut.shape[1:], wanted, own)
    whole = np.zeros(turned.shape[1:], found.dtype)
    whole[box] = found
    return np.ascontiguousarray(whole.transpose(np.argsort(order)))


def _not_zero(volume: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes((volume != 0).any(axis=0)))


def _around(inside: np.ndarray) -> tuple[slice, ...]:
    """The box around what is inside; everything where nothing is."""
    made = []
    for axis in range(inside.ndim):
        held = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        made.append(slice(int(held[0]), int(held[-1]) + 1) if len(held) else slice(None))
    return tuple(made)


def _scores(
    plans: Plans, run: Any, seen: np.ndarray, mirror: Sequence[int], progress: Progress | None
) -> np.ndarray:
    """(heads, ...) of the resampled image, in overlapping windows; a network of planes sees one by one."""
    settings: dict[str, Any] = {
        "roi": plans.patch,
        "overlap": 0.5,
        "blend": importance(plans.patch),
        "evenly": True,
        "mirror": tuple(mirror),
        "gives": "scores",
    }
    if len(plans.patch) == 3:
        return windows.slide(run, seen, progress=progress, **settings)
    made = []
    for number in range(seen.shape[1]):
        made.append(windows.slide(run, seen[:, number], **settings))
        if progress is not None:
            progress(number + 1, seen.shape[1])
    return np.stack(made, axis=1)


def importance(side: Sequence[int]) -> np.ndarray:
    """What a window's voxels weigh, float32: a Gaussian of an eighth of its side around its middle voxel."""
    from scipy.ndimage import gaussian_filter

    made = np.zeros(tuple(side))
    made[tuple(n // 2 for n in side)] = 1
    made = gaussian_filter(made, [n / 8 for n in side], mode="constant")
    made *= WEIGHT_AT_MIDDLE / made.max()
    made[made == 0] = made[made > 0].min()
    return made.astype(np.float32)


def _called(
    plans: Plans, scores: np.ndarray, size: tuple[int, ...], wanted: Sequence[float], own: Sequence[float]
) -> np.ndarray:
    """Labels on the image's own grid: of the highest score, or of each region whose score is above 0."""
    values = plans.region_order or _values(plans)
    kind = np.uint8 if max(values) < 256 else np.uint16
    made = np.zeros(size, kind)
    best = np.full(size, -np.inf, np.float32)
    for value, score in zip(values, scores, strict=True):
        back = resampled(score[None], size, wanted, own, plans.resampling[1])[0]
        if plans.region_order:
            made[back > 0] = value
            continue
        higher = back > best
        made[higher] = value
        best[higher] = back[higher]
    return made


def _values(plans: Plans) -> tuple[int, ...]:
    flat = {v[0] if isinstance(v, tuple) else v for k, v in plans.labels.items() if k != "ignore"}
    return tuple(sorted(flat))


def resampled(
    volume: np.ndarray,
    size: Sequence[int],
    spacing_mm: Sequence[float],
    wanted_mm: Sequence[float],
    how: Resampling,
) -> np.ndarray:
    """(channels, ...) on a grid of that size over the same extent, cut to each channel's own range.

    Where slices lie more than three times as far apart as their pixels, before or after, each is resampled
    on its own and the nearest one is taken across.
    """
    size = tuple(int(n) for n in size)
    if volume.shape[1:] == size:
        return volume
    axis = _across(spacing_mm, wanted_mm, how.separate)
    made = np.empty((len(volume), *size), np.float32)
    for channel, out in zip(volume, made, strict=True):
        if axis is None:
            out[:] = _enlarged(channel, size, how.order)
            continue
        flat = tuple(n for a, n in enumerate(size) if a != axis)
        slices = [_enlarged(one, flat, how.order) for one in np.moveaxis(channel, axis, 0)]
        out[:] = _between(np.stack(slices, axis), size, axis, how.order_z)
    return made


def _across(spacing_mm: Sequence[float], wanted_mm: Sequence[float], separate: bool | None) -> int | None:
    """The axis along which slices are resampled on their own, if there is exactly one."""
    given = (spacing_mm,) if separate else () if separate is False else (spacing_mm, wanted_mm)
    for spacing in given:
        widest = max(spacing)
        if separate or widest / min(spacing) > APART:
            axes = [a for a, v in enumerate(spacing) if v == widest]
            return axes[0] if len(axes) == 1 else None
    return None


def _enlarged(part: np.ndarray, size: tuple[int, ...], order: int) -> np.ndarray:
    from scipy.ndimage import zoom

    if part.shape == size:
        return part
    given = part.astype(np.float64)
    factors = [new / old for new, old in zip(size, part.shape, strict=True)]
    made: Any = zoom(given, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(made, given.min(), given.max()) if order > 1 else made


def _between(slices: np.ndarray, size: tuple[int, ...], axis: int, order: int) -> np.ndarray:
    """Slices at new places across."""
    from scipy.ndimage import map_coordinates

    if slices.shape == size:
        return slices
    places = (np.arange(size[axis]) + 0.5) * slices.shape[axis] / size[axis] - 0.5
    lines = np.moveaxis(slices, axis, 0)
    if order == 0:
        nearest = np.clip(np.floor(places + 0.5).astype(int), 0, len(lines) - 1)
        return np.moveaxis(lines[nearest], 0, axis)
    grid = np.meshgrid(places, *(np.arange(n) for n in lines.shape[1:]), indexing="ij")
    return np.moveaxis(map_coordinates(lines, grid, order=order, mode="nearest"), 0, axis)

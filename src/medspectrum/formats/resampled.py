"""A volume straight from its file onto the wanted grid: one pass, and only over the part that is wanted.

Turning axes, changing the spacing, scaling the intensity and cropping are usually steps that each make
a whole new volume. On grids at right angles they are one product of three interpolations along single
axes, which can be done as the planes come out of the file: two neighbouring planes, cut to what the crop
needs, are all that is held of it. Values equal those of MONAI's LoadImage, EnsureChannelFirst, Orientation,
Spacing (bilinear, border), ScaleIntensityRange and CenterSpatialCrop to float32 rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import formats
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats import nifti_planes
from medspectrum.formats.safety import finite
from medspectrum.formats.target_grid import TargetGrid, target_grid
from medspectrum.image import Image

Planes = Iterable[tuple[int, int, np.ndarray]]


def load_resampled(
    source: str | os.PathLike[str] | Image,
    *,
    spacing_mm: float | Sequence[float] | None = None,
    orientation: str | None = "RAS",
    window: tuple[float, float] | None = None,
    to: tuple[float, float] = (0.0, 1.0),
    clip: bool = True,
    crop: Sequence[int] | None = None,
    start: Sequence[int] | None = None,
    nearest: bool = False,
) -> Image:
    """Read a volume turned, resampled, scaled and cropped: float32 (C, Z, Y, X) with its new affine.

    source: any understood file, or an image in memory. NIfTI, plain or gzipped, is never held whole.
    spacing_mm: (Z, Y, X) wanted, one number for all, None to keep it. orientation: where x, y and z are to
    grow, ``RAS``, ``LPS``...; None keeps the file's axes, as does a file that tells no position.
    window, to: the values (low, high) become these two, straight in between, and are cut off outside unless
    ``clip`` is off. crop: at most so many voxels (Z, Y, X) of the wanted grid, from its voxel ``start``, else
    from its middle. nearest: take the nearest voxel, as label maps need; without a window or a slope in the
    file, values then keep their type. Beyond the outermost voxels the nearest of them counts.

    A sheared volume (tilted gantry) is straightened. NaN and infinities become the lowest value.
    Raises UnreadableFile or UserError with one sentence.
    """
    scale, shift = 1.0, 0.0
    if window is not None:
        if not window[1] > window[0]:
            raise UserError(f"a window goes from a lower to a higher value; got {window}")
        scale = (to[1] - to[0]) / (window[1] - window[0])
        shift = to[0] - window[0] * scale
    ends = (min(to), max(to)) if window is not None and clip else None
    name = "the image" if isinstance(source, Image) else str(source)

    def made(there: _There) -> Image:
        if spacing_mm is not None and not there.known:
            raise UnreadableFile(name, "tells no voxel size, so it cannot be brought to a spacing in mm")
        grid = target_grid(
            there.size, there.affine, spacing_mm=spacing_mm, orientation=orientation if there.known else None
        ).part(crop, start)
        values = _values(there, grid, scale * there.scale, scale * there.shift + shift, nearest=nearest)
        if ends is not None:
            np.clip(values, *ends, out=values)
        return Image(values, grid.affine, there.modality, there.known)

    if not isinstance(source, Image):
        path = Path(source)
        streamed = _from_nifti(path) if formats.kind(path) == "nifti" else None
        try:
            if streamed is not None:
                return made(streamed)
        except _ReadWhole:
            pass
        source = formats.read(path)
    return made(_from_image(source, name))


class _ReadWhole(Exception):
    """The volume cannot be made plane by plane: it is sheared, or holds NaN."""


@dataclass(frozen=True)
class _There:
    """A volume that is there. size: (X, Y, Z). planes: of Z from a first to before an end. array: if held."""

    size: tuple[int, ...]
    affine: np.ndarray
    known: bool
    modality: str
    channels: int
    kind: np.dtype[Any]
    scale: float
    shift: float
    planes: Callable[[int, int], Planes]
    array: np.ndarray | None = None


def _from_nifti(path: Path) -> _There | None:
    """The volume as a stream of planes; None where it has to be read whole."""
    if path.suffix.lower() in (".hdr", ".img"):
        return None
    file = nifti_planes.opened(path)
    if not file.plain:
        return None
    return _There(
        size=file.shape[:3],
        affine=file.affine,
        known=file.known,
        modality="",
        channels=file.shape[3],
        kind=file.kind,
        scale=file.scale,
        shift=file.shift,
        planes=lambda first, end: nifti_planes.planes(file, first, end),
    )


def _from_image(image: Image, name: str) -> _There:
    array = finite(image.array, name)

    def planes(first: int, end: int) -> Iterator[tuple[int, int, np.ndarray]]:
        for channel, volume in enumerate(array):
            for number in range(first, end):
                yield channel, number, volume[number]

    return _There(
        size=array.shape[:0:-1],
        affine=image.affine,
        known=image.spacing_known,
        modality=image.modality,
        channels=len(array),
        kind=array.dtype,
        scale=1.0,
        shift=0.0,
        planes=planes,
        array=array,
    )


def _values(there: _There, grid: TargetGrid, scale: float, shift: float, *, nearest: bool) -> np.ndarray:
    """(C, Z, Y, X) on the wanted grid, scaled and shifted."""
    axes = grid.axes()
    plain = nearest and (scale, shift) == (1.0, 0.0)
    if axes is None:
        if there.array is None:
            raise _ReadWhole
        made = _sheared(there.array, grid, nearest=nearest)
    else:
        taps = [_taps(grid.places(axis), there.size[axis], nearest=nearest) for axis in range(3)]
        shape = (there.channels, *(len(t.low) for t in reversed(taps)))
        if nearest:
            made = np.empty(shape, there.kind.newbyteorder("="))
            _pick(there, taps, made)
        else:
            made = np.empty(shape, np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                _blend(there, taps, made, scale, shift)
        # the file's axes (channel, k, j, i) to the wanted (channel, Z, Y, X)
        wanted = [axes.index(axis) for axis in (2, 1, 0)]
        made = np.ascontiguousarray(made.transpose(0, *(3 - axis for axis in wanted)))
    if plain or (axes is not None and not nearest):
        return made
    made = made.astype(np.float32)
    made *= np.float32(scale)
    made += np.float32(shift)
    return made


@dataclass(frozen=True)
class _Taps:
    """For each wanted place: the two voxels around it, and how much of the upper one; same: none of it."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    same: bool

    @property
    def reach(self) -> tuple[int, int]:
        """The voxels needed, from the first to before the end."""
        return int(self.low.min()), int(self.high.max()) + 1


def _taps(places: np.ndarray, size: int, *, nearest: bool) -> _Taps:
    inside = np.clip(places, 0, size - 1)
    if nearest:
        inside = np.rint(inside)
    low = np.floor(inside).astype(np.intp)
    weight = (inside - low).astype(np.float32)
    # rounding of the affine must not make a whole copy an interpolation
    up = weight > 1 - 1e-5
    low, weight = low + up, np.where(up | (weight < 1e-5), np.float32(0), weight)
    high = np.where(weight > 0, low + 1, low)
    return _Taps(low, high, weight, not weight.any())


def _blend(there: _There, taps: list[_Taps], made: np.ndarray, scale: float, shift: float) -> None:
    """Fill (C, K, J, I) with values between voxels, times scale plus shift."""
    i, j, k = taps
    first, end = i.reach
    low_i, high_i = i.low - first, i.high - first
    upper_j = (scale * j.weight)[:, None].astype(np.float32)
    lower_j = (scale * (1 - j.weight))[:, None].astype(np.float32)
    lower_i = 1 - i.weight
    rows = np.empty((len(j.low), end - first), np.float32)
    more_rows = np.empty_like(rows)
    columns = np.empty((len(j.low), len(i.low)), np.float32)
    other = np.empty_like(columns)
    waiting: dict[int, list[int]] = {}
    for number, last in enumerate(k.high.tolist()):
        waiting.setdefault(last, []).append(number)
    needed = set(k.low.tolist()) | set(k.high.tolist())
    held: dict[int, np.ndarray] = {}
    for channel, number, plane in there.planes(*k.reach):
        if number == k.reach[0]:
            held.clear()
        if number not in needed:
            continue
        part = plane[:, first:end]
        np.multiply(part[j.low], lower_j, out=rows, dtype=np.float32, casting="unsafe")
        if not j.same:
            np.multiply(part[j.high], upper_j, out=more_rows, dtype=np.float32, casting="unsafe")
            rows += more_rows
        now = np.take(rows, low_i, axis=1)
        if not i.same:
            now *= lower_i
            np.take(rows, high_i, axis=1, out=columns, mode="clip")
            columns *= i.weight
            now += columns
        if shift:
            now += np.float32(shift)
        if there.kind.kind == "f" and not np.isfinite(now).all():
            raise _ReadWhole
        held[number] = now
        for wanted in waiting.get(number, ()):
            weight = k.weight[wanted]
            if weight == 0:
                made[channel, wanted] = now
                continue
            into = made[channel, wanted]
            np.multiply(held[int(k.low[wanted])], np.float32(1) - weight, out=into)
            np.multiply(now, weight, out=other)
            into += other
        for past in [n for n in held if n < number]:
            del held[past]


def _pick(there: _There, taps: list[_Taps], made: np.ndarray) -> None:
    """Fill (C, K, J, I) with the values of voxels as they are."""
    i, j, k = taps
    wanted: dict[int, list[int]] = {}
    for place, number in enumerate(k.low.tolist()):
        wanted.setdefault(number, []).append(place)
    for channel, number, plane in there.planes(*k.reach):
        if number not in wanted:
            continue
        found = plane[j.low][:, i.low]
        if there.kind.kind == "f" and not np.isfinite(found).all():
            raise _ReadWhole
        for place in wanted[number]:
            made[channel, place] = found


def _sheared(array: np.ndarray, grid: TargetGrid, *, nearest: bool) -> np.ndarray:
    """(C, Z, Y, X) on a grid whose axes are mixtures of the array's."""
    from scipy.ndimage import affine_transform

    return np.stack(
        [
            affine_transform(
                volume,
                grid.source[::-1, 2::-1],
                grid.source[::-1, 3],  # type: ignore[arg-type] - one offset per axis, as documented
                output_shape=grid.size[::-1],
                output=array.dtype if nearest else np.float32,
                order=0 if nearest else 1,
                mode="nearest",
            )
            for volume in (array if nearest else array.astype(np.float32))
        ]
    )

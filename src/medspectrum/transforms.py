"""From an ``Image`` to what a network takes: plain functions, no randomness, no state.

The choices, and why:

* **Intensity.** 8-bit pictures are divided by 255: their range is a statement of whoever made them.
  CT is in Hounsfield units, which are absolute, so it is shown through three windows as three
  channels (lung, soft tissue, bone): one window would throw away what the other two show.
  Everything else (MR, 16-bit radiographs, float maps) has no absolute scale: the 0.5 and 99.5
  percentiles of the whole image become 0 and 1. Of a volume, the whole volume is used, so that
  its slices stay comparable.
* **Shape.** The longer side is brought to the asked size and the rest is padded with the card's
  mean (zero after normalising). Stretching would change the ratio of heart to chest or of nucleus
  to cell; cropping would cut findings off at the border. The filter is antialiased bicubic, the one
  that the encoders' own training used.
* **NaN and infinity** count as the lowest value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.errors import UserError
from medspectrum.image import Image

VERSION = 1
"""Part of every model's key: raise it whenever a function here gives other numbers."""

CT_WINDOWS_HU = ((-1000.0, 400.0), (-160.0, 240.0), (-500.0, 1300.0))
PERCENTILES = (0.5, 99.5)
MOST_SLICES = 24
_MOST_COUNTED = 1_000_000
_ANISOTROPIC = 1.2


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of the finite values; their ends where those two agree.

    Percentiles of more than a million values are taken on an evenly spread million of them.
    Raises UserError where no value is finite.
    """
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _MOST_COUNTED)]
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    if flat.size == 0:
        raise UserError("the image holds no finite value; there is nothing to look at")
    low, high = (float(v) for v in np.percentile(flat, PERCENTILES))
    if high <= low:
        low, high = float(flat.min()), float(flat.max())
    return low, high


def window(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as float32 with low at 0 and high at 1, cut off outside; a flat range gives zeros."""
    if high <= low:
        return np.zeros(values.shape, np.float32)
    scaled = values.astype(np.float32)
    if scaled.dtype.kind == "f":
        scaled = np.nan_to_num(scaled, copy=False, nan=low, posinf=high, neginf=low)
    scaled -= np.float32(low)
    scaled *= np.float32(1.0 / (high - low))
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def to_unit(image: Image) -> np.ndarray:
    """The image's array on a 0-1 scale, or untouched where it is 8-bit (see ``finish``).

    (C, Z, Y, X): uint8 as it came, else float32; CT of one channel gets three (its windows).
    """
    array = image.array
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if image.modality == "CT" and array.shape[0] == 1 and float(np.nanmin(array)) < 0:
        return np.concatenate([window(array, low, high) for low, high in CT_WINDOWS_HU])
    return window(array, *finite_range(array))


def with_channels(array: np.ndarray, count: int) -> np.ndarray:
    """(C, ...) with the asked number of channels, 1 or 3.

    Grey is repeated. Colour becomes grey by ITU-R BT.601 luma. Two channels, or more than four,
    are averaged to grey first; the fourth of four is taken for opacity and dropped.
    """
    have = array.shape[0]
    if have == count:
        return array
    if have == 4:
        return with_channels(array[:3], count)
    if have == 1:
        return np.repeat(array, count, axis=0)
    if have == 3:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        grey = np.tensordot(weights, array.astype(np.float32), axes=1)[None]
    else:
        grey = array.astype(np.float32).mean(axis=0, keepdims=True)
    if array.dtype == np.uint8:
        grey = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return grey if count == 1 else np.repeat(grey, count, axis=0)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) with the longer side at ``side`` and the same aspect, each at least 1."""
    longest = max(size)
    height, width = (max(1, round(v * side / longest)) for v in size)
    return height, width


def resize(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, Y, X) at (height, width) by antialiased bicubic; dtype kept, float stays within 0-1."""
    from PIL import Image as Picture

    height, width = size
    if plane.shape[1:] == size:
        return plane
    cubic = Picture.Resampling.BICUBIC
    if plane.dtype == np.uint8 and plane.shape[0] == 3:
        rows = np.ascontiguousarray(np.moveaxis(plane, 0, -1))
        made = Picture.fromarray(rows).resize((width, height), cubic, reducing_gap=3.0)
        return np.ascontiguousarray(np.moveaxis(np.asarray(made), -1, 0))
    out = np.stack(
        [
            np.asarray(
                Picture.fromarray(np.ascontiguousarray(c)).resize((width, height), cubic, reducing_gap=3.0)
            )
            for c in plane
        ]
    )
    return out if out.dtype == np.uint8 else np.clip(out, 0.0, 1.0)


def finish(plane: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(C, Y, X) on a 0-1 or 8-bit scale -> (C, side, side) float32, fitted, normalised, padded with 0."""
    channels = len(mean)
    one_grey = plane.shape[0] == 1
    plane = plane if one_grey else with_channels(plane, channels)
    plane = resize(plane, fitted(plane.shape[1:], side))  # type: ignore[arg-type]
    plane = with_channels(plane, channels)
    unit = 255.0 if plane.dtype == np.uint8 else 1.0
    shift = np.asarray(mean, np.float32)[:, None, None]
    scale = np.asarray(std, np.float32)[:, None, None]
    made = (plane.astype(np.float32) / np.float32(unit) - shift) / scale
    height, width = made.shape[1:]
    if (height, width) == (side, side):
        return np.ascontiguousarray(made)
    whole = np.zeros((channels, side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    whole[:, top : top + height, left : left + width] = made
    return whole


def through_plane_axis(image: Image) -> int:
    """The array axis (1, 2 or 3) along which a volume was cut.

    The axis with clearly (1.2 times) the widest spacing, else the first one.
    """
    if not image.spacing_known:
        return 1
    spacing = image.spacing_mm
    widest = int(np.argmax(spacing))
    second = sorted(spacing)[1]
    return widest + 1 if second > 0 and spacing[widest] > _ANISOTROPIC * second else 1


def slice_places(depth: int, most: int = MOST_SLICES) -> np.ndarray:
    """Indices of at most ``most`` slices: the middles of as many equal parts of the depth."""
    count = min(depth, most)
    return np.floor((np.arange(count) + 0.5) * depth / count).astype(int)


def planes(image: Image, most_slices: int = MOST_SLICES) -> np.ndarray:
    """The pictures a 2-D encoder is to see: (S, C, Y, X); S is 1 unless the image is a volume."""
    unit = to_unit(image)
    if not image.is_volume:
        return np.moveaxis(unit, 1, 0)
    axis = through_plane_axis(image)
    moved = np.moveaxis(unit, axis, 0)
    return moved[slice_places(moved.shape[0], most_slices)]


def flat_input(
    image: Image,
    *,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    most_slices: int = MOST_SLICES,
) -> np.ndarray:
    """What a 2-D encoder takes: (C, side, side) for a picture, (S, C, side, side) for a volume."""
    made = [finish(plane, side, mean, std) for plane in planes(image, most_slices)]
    return np.stack(made) if image.is_volume else made[0]


def input_side(
    median_side: float, *, stride: int, largest: int, smallest: int = 112, magnify: float = 4.0
) -> int:
    """Pixels per side worth computing for images of that median side.

    The multiple of the stride nearest to ``magnify`` times the image's side, kept within 112 and the
    card's own size. An encoder sees nothing in a 28-pixel image blown up to 224 that it does not
    see at 112, which costs a quarter; below 112 too few tokens are left to look at.
    """
    wanted = min(max(magnify * median_side, float(min(smallest, largest))), float(largest))
    steps = max(1, int(np.floor(wanted / stride + 0.5)))
    return min(steps * stride, max(stride, largest // stride * stride))


def oriented(image: Image) -> np.ndarray:
    """The array turned so that (Z, Y, X) grow towards Superior, Anterior, Right; (C, Z, Y, X)."""
    from nibabel.orientations import apply_orientation, io_orientation

    places = io_orientation(image.affine)
    if np.isnan(places).any():
        return image.array
    turned = [apply_orientation(np.moveaxis(c, (0, 1, 2), (2, 1, 0)), places) for c in image.array]
    return np.stack([np.moveaxis(t, (0, 1, 2), (2, 1, 0)) for t in turned])


def area_resize(volume: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """(Z, Y, X) at another size, each new voxel the mean of the old ones it covers; float32.

    Bins run from floor(i n / m) to ceil((i + 1) n / m), as in adaptive average pooling, so that
    enlarging repeats voxels. The axis that shrinks most goes first.
    """
    made = volume.astype(np.float32)
    for axis in sorted(range(3), key=lambda a: size[a] / made.shape[a]):
        old, new = made.shape[axis], size[axis]
        if old == new:
            continue
        start = np.arange(new) * old // new
        stop = -(-(np.arange(new) + 1) * old // new)
        bins = np.zeros((new, old), np.float32)
        for row, (a, b) in enumerate(zip(start, stop, strict=True)):
            bins[row, a:b] = 1.0 / (b - a)
        made = np.moveaxis(np.tensordot(bins, made, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(made)

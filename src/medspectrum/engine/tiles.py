"""A picture as square tiles of one scale: what small things are looked for in, and the way back.

A picture that is fitted into an encoder's input loses small things where it is large. Cut into tiles of the
same number of its own pixels, its cells look alike however large it is. Its intensities are brought to one
scale before it is cut, from the darkest to the brightest that it holds: fluorescence often fills a tenth of
what 8 bits could say. Every tile is an image with a content key of its own, so its features are cached.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.errors import UserError
from medspectrum.image import Image

if TYPE_CHECKING:
    import torch

DARKEST, BRIGHTEST = 1.0, 99.8  # percentiles
LEAST_RANGE = 8.0  # of 8-bit values: an empty field is not stretched until its noise fills the scale
OVERLAP = 0.125  # of a tile's side
_HELD = 4
_held: OrderedDict[str, np.ndarray] = OrderedDict()
_sizes: dict[str, tuple[int, int]] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Tiled:
    """A picture's tiles. size: (height, width). places: (top, left) of each; they may reach outside."""

    size: tuple[int, int]
    side: int
    places: tuple[tuple[int, int], ...]
    tiles: tuple[LazyImage, ...]

    def cut(self, whole: np.ndarray, *, outside: float) -> np.ndarray:
        """(C, height, width) -> (tiles, C, side, side)."""
        return np.stack([_window(whole, place, self.side, outside) for place in self.places])

    def joined(self, parts: torch.Tensor) -> np.ndarray:
        """(tiles, C, side, side) -> (C, height, width) float32; a tile's middle counts more than its rim."""
        found = np.zeros((parts.shape[1], *self.size), np.float32)
        weights = np.zeros(self.size, np.float32)
        own = _hill(self.side)
        for part, (top, left) in zip(parts.float().numpy(), self.places, strict=True):
            rows = slice(max(0, top), min(self.size[0], top + self.side))
            columns = slice(max(0, left), min(self.size[1], left + self.side))
            inner = (
                slice(rows.start - top, rows.stop - top),
                slice(columns.start - left, columns.stop - left),
            )
            found[:, rows, columns] += part[:, *inner] * own[inner]
            weights[rows, columns] += own[inner]
        return found / weights


def tiled(lazy: LazyImage, side: int) -> Tiled:
    """The tiles of a picture. Reads it once, to know its size. Raises UserError for a volume."""
    key = lazy.key()
    with _lock:
        size = _sizes.get(key)
    if size is None:
        image = lazy.load()
        if image.is_volume:
            raise UserError(f"{lazy.source}: is a volume; tiles are cut from pictures")
        size = image.size[1], image.size[2]
        with _lock:
            _sizes[key] = size
    places = tuple((top, left) for top in _begins(size[0], side) for left in _begins(size[1], side))
    tiles = tuple(
        LazyImage(
            f"{lazy.source}#{top},{left}+{side}",
            partial(_tile, lazy, top, left, side),
            partial(str, f"{key}-tile1-{top}-{left}-{side}"),
        )
        for top, left in places
    )
    return Tiled(size, side, places, tiles)


def enlarged(lazy: LazyImage, times: int) -> LazyImage:
    """A picture with so many times the pixels along each side, between which it is linear."""
    return LazyImage(
        f"{lazy.source}@{times}x", partial(_enlarge, lazy, times), partial(str, f"{lazy.key()}-x{times}")
    )


def _enlarge(lazy: LazyImage, times: int) -> Image:
    import torch

    image = lazy.load()
    planes = torch.from_numpy(np.ascontiguousarray(image.array[:, 0], np.float32))[None]
    size = [n * times for n in planes.shape[2:]]
    made = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)[0].numpy()
    whole = np.rint(made) if np.issubdtype(image.array.dtype, np.integer) else made
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ np.full(2, (1 / times - 1) / 2)
    affine[:3, :2] /= times
    return Image(whole.astype(image.array.dtype)[:, None], affine, image.modality, image.spacing_known)


def _begins(length: int, side: int) -> list[int]:
    """Where tiles begin along an axis: evenly spread, at least the overlap in common; one is centred."""
    if length <= side:
        return [(length - side) // 2]
    count = int(np.ceil((length - side) / (side * (1 - OVERLAP)))) + 1
    return [int(n) for n in np.linspace(0, length - side, count).round()]


def _tile(lazy: LazyImage, top: int, left: int, side: int) -> Image:
    key = lazy.key()
    with _lock:
        whole = _held.get(key)
    if whole is None:
        whole = stretched(lazy.load())
        with _lock:
            _held[key] = whole
            while len(_held) > _HELD:
                _held.popitem(last=False)
    return Image(_window(whole, (top, left), side, None)[:, None])


def stretched(image: Image) -> np.ndarray:
    """A picture's values between their darkest and brightest, (C, height, width) uint8."""
    values = np.nan_to_num(image.array[:, 0].astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = (float(v) for v in np.percentile(values, (DARKEST, BRIGHTEST)))
    least = LEAST_RANGE if image.array.dtype == np.uint8 else 1e-6
    unit = np.clip((values - low) / max(high - low, least), 0, 1)
    return np.rint(255 * unit).astype(np.uint8)


def _window(whole: np.ndarray, place: tuple[int, int], side: int, outside: float | None) -> np.ndarray:
    """(C, side, side) of (C, height, width); what lies outside is ``outside``, or mirrored for None."""
    top, left = place
    before = max(0, -top), max(0, -left)
    rows, columns = slice(max(0, top), top + side), slice(max(0, left), left + side)
    own = whole[:, rows, columns]
    margins = [
        (0, 0),
        (before[0], side - before[0] - own.shape[1]),
        (before[1], side - before[1] - own.shape[2]),
    ]
    if not any(sum(m) for m in margins):
        return np.ascontiguousarray(own)
    if outside is None:
        return np.pad(own, margins, mode="symmetric")
    return np.pad(own, margins, constant_values=outside)


def _hill(side: int) -> np.ndarray:
    """(side, side) weights that fall towards the rim, nowhere 0."""
    steps = 1 - np.abs(np.linspace(-1, 1, side, dtype=np.float32)) * 0.98
    return np.minimum.outer(steps, steps)

"""A case's image as the flat pictures that a 2-D encoder sees, and what it saw brought back in place.

A volume is cut along its through-plane axis (see ``transforms``); every plane becomes an image of its own,
with a content key of its own, so that its features are cached like any other's. The intensities of a volume
are brought to one scale before it is cut, so that its planes stay comparable.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medspectrum import transforms
from medspectrum.case import LazyImage
from medspectrum.image import Image

if TYPE_CHECKING:
    import torch

_VOLUMES_HELD = 3
_held: OrderedDict[str, np.ndarray] = OrderedDict()
_sizes: dict[str, tuple[tuple[int, int, int], int]] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Cut:
    """How an image is cut. size: (Z, Y, X). axis: of (Z, Y, X), along which the planes follow each other."""

    size: tuple[int, int, int]
    axis: int
    planes: tuple[LazyImage, ...]

    @property
    def plane(self) -> tuple[int, int]:
        """(height, width) of a plane."""
        height, width = (n for i, n in enumerate(self.size) if i != self.axis)
        return height, width

    def joined(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """Planes (height, width) as (Z, Y, X)."""
        return np.ascontiguousarray(np.moveaxis(np.stack(planes), 0, self.axis))

    def cut(self, whole: np.ndarray) -> np.ndarray:
        """(Z, Y, X) as (planes, height, width)."""
        return np.moveaxis(whole, self.axis, 0)


def cut(lazy: LazyImage) -> Cut:
    """The planes of an image; of a picture, itself. Reads it once, to know its size."""
    key = lazy.key()
    with _lock:
        known = _sizes.get(key)
    if known is None:
        image = lazy.load()
        axis = transforms.through_plane_axis(image) - 1 if image.is_volume else 0
        known = image.size, axis
        if image.is_volume:
            _keep(key, image)
        with _lock:
            _sizes[key] = known
    size, axis = known
    if size[0] == 1:
        return Cut(size, 0, (lazy,))
    planes = tuple(
        LazyImage(
            f"{lazy.source}#{axis}/{i}", partial(_plane, lazy, axis, i), partial(str, f"{key}-{axis}-{i}")
        )
        for i in range(size[axis])
    )
    return Cut(size, axis, planes)


def _plane(lazy: LazyImage, axis: int, place: int) -> Image:
    key = lazy.key()
    with _lock:
        unit = _held.get(key)
    if unit is None:
        unit = _keep(key, lazy.load())
    return Image(np.ascontiguousarray(unit.take(place, axis=axis + 1)[:, None]), spacing_known=False)


def _keep(key: str, image: Image) -> np.ndarray:
    """The volume on one 8-bit scale; the last few are kept, since its planes are asked for in turn."""
    unit = transforms.to_unit(image)
    if unit.dtype != np.uint8:
        unit = np.rint(unit * 255).astype(np.uint8)
    with _lock:
        _held[key] = unit
        while len(_held) > _VOLUMES_HELD:
            _held.popitem(last=False)
    return unit


def window_of(plane: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the plane in the network's square input (see ``transforms.finish``)."""
    height, width = transforms.fitted(plane, side)
    return (side - height) // 2, (side - width) // 2, height, width


def points(plane: tuple[int, int], side: int, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """(n, 2) places of pixels in the square input, as ``grid_sample`` takes them: x, y from -1 to 1."""
    import torch

    top, left, height, width = window_of(plane, side)
    y = (top + (rows + 0.5) * height / plane[0]) / side * 2 - 1
    x = (left + (columns + 0.5) * width / plane[1]) / side * 2 - 1
    return torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))


def to_plane(maps: torch.Tensor, plane: tuple[int, int], side: int) -> torch.Tensor:
    """(n, c, h, w) over the square input -> (n, c, height, width) at the plane's pixels, bilinear."""
    import torch
    import torch.nn.functional as F

    rows, columns = np.meshgrid(np.arange(plane[0]), np.arange(plane[1]), indexing="ij")
    grid = points(plane, side, rows, columns)
    many = grid.expand(len(maps), *plane, 2)
    with torch.no_grad():
        return F.grid_sample(maps, many, mode="bilinear", padding_mode="border", align_corners=False)


def at_points(maps: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(1, c, h, w) at (n, 2) places -> (n, c), bilinear."""
    import torch
    import torch.nn.functional as F

    with torch.no_grad():
        found = F.grid_sample(
            maps, where[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
    return found[0, :, 0].T


def onto_square(labels: np.ndarray, side: int, grid: int) -> np.ndarray:
    """Labels (height, width) of a plane on a (grid, grid) raster over the square input; padding is -1."""
    top, left, height, width = window_of(labels.shape, side)  # type: ignore[arg-type]
    centre = (np.arange(grid) + 0.5) * side / grid

    def nearest(begin: int, extent: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.floor((centre - begin) * count / extent).astype(int)
        return place, (place >= 0) & (place < count)

    rows, inside_rows = nearest(top, height, labels.shape[0])
    columns, inside_columns = nearest(left, width, labels.shape[1])
    made = np.full((grid, grid), -1, np.int64)
    made[np.ix_(inside_rows, inside_columns)] = labels[np.ix_(rows[inside_rows], columns[inside_columns])]
    return made

"""Where the points of a lattice lie, and reading images there.

Arrays are (C, Z, Y, X); points are (..., 3) in the order x, y, z; voxel (0, 0, 0) has its centre at the
affine's origin. Interpolation is linear between voxel centres, an image reaches half a voxel beyond its
outermost centres, where its edge values hold, and outside of that a fill value stands: the rules of
ITK's linear interpolator, so that both sides give the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.image import Image

_SLAB_POINTS = 2_000_000
_ROUNDING = 1e-6  # of single precision, so that a point on the edge stays inside


@dataclass(frozen=True)
class Grid:
    """A lattice in space. size: voxels along (Z, Y, X). affine: voxel (x, y, z) to RAS mm."""

    size: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (Z, Y, X), in mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(z), float(y), float(x)

    @property
    def centre_mm(self) -> np.ndarray:
        """The middle of the lattice, RAS mm."""
        middle = (np.array(self.size[::-1], float) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def corners_mm(self) -> np.ndarray:
        """(8, 3): the outer corners, half a voxel beyond the outermost centres, RAS mm."""
        x, y, z = self.size[::-1]
        ends = np.array(
            [(a, b, c) for a in (-0.5, x - 0.5) for b in (-0.5, y - 0.5) for c in (-0.5, z - 0.5)]
        )
        return ends @ self.affine[:3, :3].T + self.affine[:3, 3]

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Grid:
        """The same box cut into voxels of about that spacing; axes of one voxel stay."""
        size = tuple(
            1 if n == 1 else max(1, round(n * old / new))
            for n, old, new in zip(self.size, self.spacing_mm, spacing_mm, strict=True)
        )
        return self.with_size(size)  # type: ignore[arg-type]

    def with_size(self, size: tuple[int, int, int]) -> Grid:
        """The same box cut into that many voxels along (Z, Y, X)."""
        ratio = np.array(self.size[::-1], float) / np.array(size[::-1], float)
        affine = np.array(self.affine, float)
        affine[:3, 3] += affine[:3, :3] @ ((ratio - 1) / 2)
        affine[:3, :3] *= ratio
        return Grid(size, affine)


def grid_of(image: Image) -> Grid:
    """The lattice of an image."""
    return Grid(image.size, image.affine)


def plane_of(grid: Grid, axis: int, place: int) -> Grid:
    """One plane of a lattice, one voxel thick. axis: of Z, Y, X. place: along it."""
    affine = np.array(grid.affine, float)
    affine[:3, 3] += affine[:3, 2 - axis] * place
    size = tuple(1 if a == axis else n for a, n in enumerate(grid.size))
    return Grid(size, affine)  # type: ignore[arg-type]


def working_grid(fixed: Grid, most_voxels: int) -> Grid:
    """A lattice over the same box of at most about that many voxels, as even in spacing as can be."""
    spacing = np.array(fixed.spacing_mm)
    count = int(np.prod(fixed.size))
    if count <= most_voxels:
        return fixed
    low, high = float(spacing.min()), float((spacing * np.array(fixed.size)).max())
    for _ in range(40):
        middle = (low + high) / 2
        size = fixed.with_spacing(tuple(np.maximum(spacing, middle))).size  # type: ignore[arg-type]
        low, high = (middle, high) if np.prod(size) > most_voxels else (low, middle)
    return fixed.with_spacing(tuple(np.maximum(spacing, high)))  # type: ignore[arg-type]


def shrunk(image: Image, spacing_mm: tuple[float, float, float]) -> Image:
    """The image as float32 with voxels no finer than asked, by averaging; never enlarged.

    spacing_mm: along (Z, Y, X) of the image's own axes.
    """
    import torch

    grid = grid_of(image)
    wanted = tuple(max(a, b) for a, b in zip(spacing_mm, grid.spacing_mm, strict=True))
    smaller = grid.with_spacing(wanted)  # type: ignore[arg-type]
    array = torch.from_numpy(np.ascontiguousarray(image.array, np.float32))
    if smaller.size != grid.size:
        array = torch.nn.functional.adaptive_avg_pool3d(array[None], smaller.size)[0]
    return Image(array.numpy(), smaller.affine, image.modality, image.spacing_known)


def own_spacing(image: Image, grid: Grid) -> tuple[float, float, float]:
    """How fine an image need be along its own axes to be read on a lattice: that one's finest spacing."""
    finest = min(grid.spacing_mm)
    return tuple(max(finest, s) for s in image.spacing_mm)  # type: ignore[return-value]


def between(from_affine: np.ndarray, to_affine: np.ndarray, through: np.ndarray | None = None) -> np.ndarray:
    """(4, 4): voxels of one lattice to voxels of another, by way of a map of RAS mm (identity if None)."""
    middle = np.eye(4) if through is None else through
    return np.linalg.inv(to_affine) @ middle @ from_affine


def resampled(image: Image, grid: Grid, through: np.ndarray | None = None, *, fill: float = 0.0) -> Any:
    """A tensor (C, Z, Y, X), float32: the image at the grid's points, mapped by ``through`` (RAS mm)."""
    import torch

    voxel = between(grid.affine, image.affine, through)
    here, there = np.array(grid.size[::-1], float), np.array(image.size[::-1], float)  # x, y, z
    # grid_sample counts both lattices from -1 to 1, edge to edge
    theta = np.empty((3, 4))
    theta[:, :3] = voxel[:3, :3] * here / there[:, None]
    theta[:, 3] = (2 * (voxel[:3, 3] + voxel[:3, :3] @ ((here - 1) / 2)) + 1) / there - 1
    points = torch.nn.functional.affine_grid(
        torch.from_numpy(theta.astype(np.float32))[None], [1, 1, *grid.size], align_corners=False
    )
    source = torch.from_numpy(np.ascontiguousarray(image.array, np.float32))
    made = torch.nn.functional.grid_sample(
        source[None], points, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    return torch.where((points[0].abs() <= 1 + _ROUNDING).all(dim=-1), made, made.new_tensor(fill))


def inside(image: Grid, grid: Grid, through: np.ndarray | None = None) -> Any:
    """A torch tensor (Z, Y, X), bool: which of the grid's points lie within the image."""
    import torch

    made = torch.empty(grid.size, dtype=torch.bool)
    for part, points in _lattice(grid.size, between(grid.affine, image.affine, through)):
        made[part] = _within(points, image.size)
    return made


def within_points(image: Image, grid: Grid, through: np.ndarray, move_mm: Any = None) -> tuple[Any, Any]:
    """The image (C, Z, Y, X) read at the grid's points, and which of them (Z, Y, X) it covers.

    Points go through the affine (RAS mm) first, then by move_mm, a tensor (3, Z, Y, X) of RAS mm.
    """
    import torch

    voxel = between(grid.affine, image.affine, through)
    turn = torch.from_numpy(np.linalg.inv(image.affine)[:3, :3].T.copy())
    source = torch.from_numpy(np.ascontiguousarray(image.array, np.float32))
    values, covered = [], []
    for part, points in _lattice(grid.size, voxel):
        if move_mm is not None:
            points = points + move_mm[:, part].permute(1, 2, 3, 0).double() @ turn
        values.append(linear(source, points, fill=None))
        covered.append(_within(points, image.size))
    return torch.cat(values, dim=1), torch.cat(covered)


def linear(source: Any, points: Any, *, fill: float | None = 0.0) -> Any:
    """Values (C, ...) of a tensor (C, Z, Y, X) at voxel points (..., 3), float64 or float32.

    fill: what stands outside the image; None repeats its edge.
    """
    import torch

    flat = points.reshape(-1, 3)
    size = torch.tensor(source.shape[:0:-1])
    held = torch.minimum(flat.clamp(min=0), (size - 1).to(flat.dtype))
    low = held.floor().to(torch.int64)
    share = (held - low).to(source.dtype)
    high = torch.minimum(low + 1, size - 1)
    x, y, z = ((1 - share[:, i], share[:, i]) for i in range(3))
    ends = ((low[:, i], high[:, i]) for i in range(3))
    at_x, at_y, at_z = ends
    width, plane = source.shape[3], source.shape[2] * source.shape[3]
    values = source.reshape(source.shape[0], -1)
    made = torch.zeros((source.shape[0], len(flat)), dtype=source.dtype)
    for k in range(2):
        for j in range(2):
            row = at_z[k] * plane + at_y[j] * width
            weight = z[k] * y[j]
            for i in range(2):
                made += values[:, row + at_x[i]] * (weight * x[i])
    if fill is not None:
        made[:, ~_within(flat, source.shape[1:])] = fill
    return made.reshape(source.shape[0], *points.shape[:-1])


def nearest(source: Any, points: Any, *, fill: float = 0.0) -> Any:
    """Values (C, ...) of the nearest voxels; any type, which is kept."""
    import torch

    flat = points.reshape(-1, 3)
    size = torch.tensor(source.shape[:0:-1])
    x, y, z = torch.minimum((flat + 0.5).floor().to(torch.int64).clamp(min=0), size - 1).unbind(1)
    made = source[:, z, y, x]
    made[:, ~_within(flat, source.shape[1:])] = fill
    return made.reshape(source.shape[0], *points.shape[:-1])


def _within(points: Any, size: Any) -> Any:
    import torch

    ends = torch.tensor([float(n) - 0.5 for n in tuple(size)[::-1]], dtype=points.dtype)
    return ((points >= -0.5) & (points <= ends)).all(dim=-1)


def lattice_slabs(size: tuple[int, int, int]) -> Iterator[slice]:
    """Slices of Z that hold at most two million points each, so that memory stays bounded."""
    step = max(1, _SLAB_POINTS // (size[1] * size[2]))
    for first in range(0, size[0], step):
        yield slice(first, min(size[0], first + step))


def _lattice(size: tuple[int, int, int], affine: np.ndarray) -> Iterator[tuple[slice, Any]]:
    """Slabs of the lattice with their points (z, Y, X, 3) mapped by an affine, float64."""
    for part in lattice_slabs(size):
        yield part, lattice_points(part, size, affine)


def lattice_points(part: slice, size: tuple[int, int, int], affine: np.ndarray) -> Any:
    """A torch tensor (z, Y, X, 3), float64: that slab's voxels mapped by an affine."""
    import torch

    matrix = torch.from_numpy(np.asarray(affine, np.float64))
    z = torch.arange(part.start, part.stop, dtype=torch.float64)[:, None, None, None]
    y = torch.arange(size[1], dtype=torch.float64)[None, :, None, None]
    x = torch.arange(size[2], dtype=torch.float64)[None, None, :, None]
    columns = matrix[:3, :3].T
    return x * columns[0] + y * columns[1] + z * columns[2] + matrix[:3, 3]

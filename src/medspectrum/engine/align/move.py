"""Displacement fields on a working lattice: reading features through them, joining them, checking them.

A field here is a tensor (3, Z, Y, X), float32: components x, y, z in voxels of the lattice that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from medspectrum.engine.align.grid import Grid, lattice_points, lattice_slabs
from medspectrum.engine.align.smooth import gaussian


@lru_cache(maxsize=8)
def _rest(size: tuple[int, int, int]) -> Any:
    """(1, Z, Y, X, 3): the lattice's own points in the terms of ``grid_sample``."""
    import torch

    return torch.nn.functional.affine_grid(torch.eye(3, 4)[None], [1, 1, *size], align_corners=False)


def moved(values: Any, field: Any) -> Any:
    """Values (C, Z, Y, X) read at ``p + field(p)``; edges repeated.

    The field may lie on a coarser or finer lattice over the same box; the result lies on that one.
    """
    import torch

    scale = torch.tensor([2.0 / n for n in values.shape[:0:-1]])
    points = _rest(tuple(field.shape[1:])) + (field.permute(1, 2, 3, 0) * scale)[None]
    return torch.nn.functional.grid_sample(
        values[None], points, mode="bilinear", padding_mode="border", align_corners=False
    )[0]


def resized(field: Any, size: tuple[int, int, int]) -> Any:
    """The field on another lattice over the same box; components keep their units."""
    import torch

    if tuple(field.shape[1:]) == tuple(size):
        return field
    return torch.nn.functional.interpolate(field[None], size=size, mode="trilinear", align_corners=False)[0]


def coarsened(shape: Sequence[int], times: int) -> tuple[int, int, int]:
    """Voxels (Z, Y, X) of a lattice that many times as coarse over the same box."""
    z, y, x = (max(1, round(n / times)) for n in shape)
    return z, y, x


def pooled(values: Any, size: tuple[int, int, int]) -> Any:
    """Values (C, Z, Y, X) averaged onto a coarser lattice over the same box."""
    import torch

    if tuple(values.shape[1:]) == tuple(size):
        return values
    return torch.nn.functional.adaptive_avg_pool3d(values[None], size)[0]


def determinants(field: Any) -> Any:
    """Jacobian determinants (Z - 1, Y - 1, X - 1) of ``p + field(p)`` by forward differences.

    The field's components must be in voxels of its own lattice. Axes of one voxel count as unmoved.
    """
    import torch

    spans = [slice(0, n - 1) if n > 1 else slice(0, 1) for n in field.shape[1:]]
    here = field[:, spans[0], spans[1], spans[2]]
    columns = []
    for axis in (2, 1, 0):
        if field.shape[axis + 1] == 1:
            columns.append(torch.zeros_like(here))
            continue
        ahead = list(spans)
        ahead[axis] = slice(1, None)
        columns.append(field[:, ahead[0], ahead[1], ahead[2]] - here)
    (a, d, g), (b, e, h), (c, f, i) = columns
    a, e, i = a + 1, e + 1, i + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def unfolded(field: Any, *, most: float = 0.002, floor: float = 0.05) -> Any:
    """The field, smoothed around its folds until at most that share of its voxels folds.

    Where the determinant falls below ``floor`` the field gives way to a smoothed one, in a wider and
    wider neighbourhood; the rest stays. Components in voxels of its own lattice.
    """
    import torch

    made = field
    for turn in range(12):
        folded = determinants(made) < floor
        if float(folded.float().mean()) <= most:
            break
        mask = torch.zeros((1, *field.shape[1:]))
        mask[0, : folded.shape[0], : folded.shape[1], : folded.shape[2]] = folded.float()
        width = [1.0 + 0.25 * turn] * 3
        share = (gaussian(mask, width) * 4).clamp(max=1.0)
        made = made + share * (gaussian(made, width) - made)
    return made


def in_mm(field: Any, lattice: Grid, fixed: Grid, start: np.ndarray) -> np.ndarray:
    """(Z, Y, X, 3) float32 on the fixed grid, RAS mm: the whole move from fixed to moving points.

    field: in voxels of its working lattice, which lies over the fixed grid's box; read linearly there.
    start: the affine (RAS mm) that follows it. So the point ``start(p + field(p))`` of the moving image
    belongs to p.
    """
    import torch

    turn = torch.from_numpy((start[:3, :3] @ lattice.affine[:3, :3]).astype(np.float32))
    turned = (turn @ field.reshape(3, -1)).reshape(field.shape)
    made = np.ascontiguousarray(resized(turned, fixed.size).permute(1, 2, 3, 0).numpy())
    rest = np.asarray(start, float) - np.eye(4)
    if rest.any():
        for part in lattice_slabs(fixed.size):
            made[part] += lattice_points(part, fixed.size, rest @ fixed.affine).float().numpy()
    return made


def finished(field: Any, grid: Grid, fixed: Grid, first: np.ndarray) -> np.ndarray:
    """Folds smoothed away on the field's own lattice, then millimetres on the fixed grid."""
    import torch

    size = tuple(field.shape[1:])
    scale = torch.tensor([n / m for n, m in zip(grid.size[::-1], size[::-1], strict=True)])
    scale = scale[:, None, None, None]
    own = grid.with_size(size)  # type: ignore[arg-type]
    return in_mm(unfolded(field / scale), own, fixed, first)

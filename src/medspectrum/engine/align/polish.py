"""The last of a rigid or affine start: Gauss and Newton on all voxels, finer than blocks can step.

Descriptors of the moving image, read through the map so far, are followed along their slopes to those of the
fixed one; every step solves for the 6 or 12 numbers of a small further map (Lucas and Kanade, IJCAI 1981).
Voxels that differ much from the rest count less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.engine.align.grid import Grid, grid_of, inside, lattice_points, resampled
from medspectrum.engine.align.mind import mind
from medspectrum.image import Image

STEPS = 8
STILL_MM = 0.01


def polished(
    moving: Image, fixed: Image, grid: Grid, start: np.ndarray, *, rigid: bool, steps: int = STEPS
) -> np.ndarray:
    """(4, 4), RAS mm, fixed to moving, from ``start`` on: the best step by the descriptors' difference.

    moving, fixed: one channel, prepared by ``grey``. grid: the working lattice over the fixed image.
    """
    finest = min(grid.spacing_mm)
    aspect = [s / finest for s in grid.spacing_mm]
    target = mind(resampled(fixed, grid)[0], aspect=aspect)
    points = lattice_points(slice(0, grid.size[0]), grid.size, grid.affine).numpy() - grid.centre_mm
    points = points.reshape(-1, 3)
    scale = float(np.abs(points).max()) or 1.0
    points = np.column_stack([points / scale, np.ones(len(points))])
    axes = [axis for axis, n in enumerate(grid.size[::-1]) if n > 1]
    made, best, least = np.array(start, float), np.array(start, float), np.inf
    for step in range(steps + 1):
        seen = mind(resampled(moving, grid, made)[0], aspect=aspect)
        covered = inside(grid_of(moving), grid, made)
        difference = seen - target
        apart = difference.square().mean(dim=0)
        now = float(apart[covered].mean()) if bool(covered.any()) else np.inf
        if now < least:
            best, least = made, now
        elif step > 2:
            break
        if step == steps or not bool(covered.any()):
            break
        weight = covered / (1 + apart / apart[covered].median().clamp_min(1e-6))
        move = _step(seen, difference, weight, grid, points, scale, axes, rigid=rigid)
        made = made @ move
        if _longest(move, grid) < STILL_MM:
            break
    return best


def _step(
    seen: Any,
    difference: Any,
    weight: Any,
    grid: Grid,
    points: np.ndarray,
    scale: float,
    axes: Sequence[int],
    *,
    rigid: bool,
) -> np.ndarray:
    """(4, 4): the small map, about the lattice's middle, that takes the difference away to first order.

    points: (n, 4), x, y, z by their largest, ``scale`` in mm, and 1.
    """
    import torch

    slopes = [torch.gradient(seen, dim=3 - axis)[0] for axis in axes]  # per voxel, along x, y, z
    products = torch.stack([(a * b).sum(dim=0) for i, a in enumerate(slopes) for b in slopes[i:]])
    pulls = torch.stack([(a * difference).sum(dim=0) for a in slopes])
    # the normal equations of every map that is linear in the points need only these sums over voxels
    flat = torch.from_numpy(points)
    pairs = (flat[:, :, None] * flat[:, None]).reshape(-1, 16)
    squares = ((products * weight).reshape(len(products), -1).double() @ pairs).numpy()
    sides = ((pulls * weight).reshape(len(pulls), -1).double() @ flat).numpy()
    turn = np.linalg.inv(grid.affine[:3, :3])[list(axes)]  # slopes per voxel to slopes per mm
    whole = np.zeros((len(axes), len(axes), 16))
    place = 0
    for i in range(len(axes)):
        for j in range(i, len(axes)):
            whole[i, j] = whole[j, i] = squares[place]
            place += 1
    normal = np.einsum("ua,vb,uvij->abij", turn, turn, whole.reshape(len(axes), len(axes), 4, 4))
    right = np.einsum("ua,ui->ai", turn, sides)
    columns = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    bases = _bases([columns[:, axis] for axis in axes], rigid=rigid)
    ways = np.stack([b[:3] for b in bases])
    left = np.einsum("pai,abij,qbj->pq", ways, normal, ways)
    side = np.einsum("pai,ai->p", ways, right)
    left += 1e-3 * np.trace(left) / len(left) * np.eye(len(left))
    numbers = -np.linalg.solve(left, side)
    small = np.zeros((4, 4))
    for number, b in zip(numbers, bases, strict=True):
        small[:3, :3] += number * b[:3, :3] / scale
        small[:3, 3] += number * b[:3, 3]
    made = np.eye(4) + small
    if rigid:
        u, _, v = np.linalg.svd(made[:3, :3])
        made[:3, :3] = u @ v
    about = np.eye(4)
    about[:3, 3] = grid.centre_mm
    return about @ made @ np.linalg.inv(about)


def _bases(directions: Sequence[np.ndarray], *, rigid: bool) -> list[np.ndarray]:
    """The ways to change as (4, 4): shifts along the directions there are, turns, and for affine slopes."""
    found = []
    for one in directions:
        shift = np.zeros((4, 4))
        shift[:3, 3] = one
        found.append(shift)
    for a, one in enumerate(directions):
        for b, other in enumerate(directions):
            if rigid and b <= a:
                continue
            slope = np.zeros((4, 4))
            slope[:3, :3] = np.outer(one, other)
            if rigid:
                slope[:3, :3] -= np.outer(other, one)
            found.append(slope)
    return found


def _longest(move: np.ndarray, grid: Grid) -> float:
    """How far the map moves a corner of the lattice, mm."""
    corners = grid.corners_mm()
    return float(np.linalg.norm(corners @ move[:3, :3].T + move[:3, 3] - corners, axis=1).max())

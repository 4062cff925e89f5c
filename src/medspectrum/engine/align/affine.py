"""The start: a rigid or affine map in RAS mm that brings the fixed image's points onto the moving's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.engine.align.blocks import (
    block_centres,
    block_means,
    costs,
    coupled_convex,
    fit_affine,
    trust,
)
from medspectrum.engine.align.grid import Grid, grid_of, inside, resampled
from medspectrum.engine.align.mind import mind
from medspectrum.image import Image

ROUNDS = ((4, 3), (4, 2), (3, 2), (3, 2), (2, 2))
_FEWEST_BLOCKS = 12


def matched(
    moving: Image,
    fixed: Image,
    grid: Grid,
    start: np.ndarray,
    *,
    rigid: bool,
    rounds: Sequence[tuple[int, int]] = ROUNDS,
    kept: float = 0.7,
) -> np.ndarray:
    """(4, 4): maps a point of the fixed image to the moving one, both in RAS mm.

    moving, fixed: one channel, prepared by ``grey``. grid: the working lattice over the fixed image.
    start: the map to begin with. rounds: (side of blocks, in voxels of the finest axis; how many blocks
    they may move). In every round the blocks' displacements are made to agree with their neighbours
    (``coupled_convex``), a map is fitted to those, and the moving image is read anew through it.
    """
    made = np.array(start, float)
    finest = min(grid.spacing_mm)
    aspect = [s / finest for s in grid.spacing_mm]
    target = resampled(fixed, grid)[0]
    described = mind(target, aspect=aspect)
    turn, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    for side, reach in rounds:
        block = [max(1, round(side / a)) for a in aspect]
        source = resampled(moving, grid, made)[0]
        seen = block_means(inside(grid_of(moving), grid, made)[None].float(), block)[0]
        cost, steps = costs(described, mind(source, aspect=aspect), block=block, reach=reach)
        move = coupled_convex(cost, steps).reshape(3, -1).T.double().numpy() * np.array(block[::-1], float)
        weights = (trust(cost) * (seen > 0.5)).reshape(-1).double().numpy()
        if (weights > 0).sum() < _FEWEST_BLOCKS:
            break
        points = block_centres(grid.size, block).reshape(-1, 3).numpy() @ turn.T + origin
        made = made @ fit_affine(points, points + move @ turn.T, weights, rigid=rigid, kept=kept)
    return made

"""Demons on a coarse-to-fine ladder of lattices: fast, for images of one kind whose brightness agrees.

Every round reads the moving image through the field, pushes each voxel along the mean of both images'
slopes (Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
NeuroImage 45, 2009: the symmetric force of equation 12 there), adds the smoothed step to the field and
smooths the sum. Steps are added, not composed as there: they are small, one reading of the field less is a
third of a round, and folds are smoothed away at the end (``move.finished``). Large images are given at half
their resolution (``demons_field``): a smooth field says little more at the full one, and an eighth of the
voxels is an eighth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.engine.align.grid import grid_of, own_spacing, resampled, shrunk, working_grid
from medspectrum.engine.align.move import coarsened, finished, moved, pooled, resized
from medspectrum.engine.align.smooth import gaussian, slopes
from medspectrum.image import Image

MOST_VOXELS = 130_000
SMALL_VOXELS = 80_000
LARGE: dict[str, Any] = {"levels": ((2, 30), (1, 30)), "smooth": 0.7, "longest": 0.2}
SMALL: dict[str, Any] = {"levels": ((2, 12), (1, 4)), "smooth": 0.8, "longest": 1.0}
"""Small images are worked on as they are, in few long steps: an organ there is few voxels wide."""


def demons(
    fixed: Any,
    moving: Any,
    *,
    levels: Sequence[tuple[int, int]] = LARGE["levels"],
    smooth: float = LARGE["smooth"],
    smooth_step: float = 0.7,
    longest: float = LARGE["longest"],
) -> Any:
    """(3, Z, Y, X): the field, in voxels of the images, on a coarser lattice over their box.

    fixed, moving: (C, Z, Y, X), float32 on one lattice; squared differences add up over channels.
    levels: (how many times coarser, rounds). smooth, smooth_step: Gaussians on the field (elastic) and on
    each step (fluid), in voxels of the level. longest: bound on a step, in voxels of the level.
    """
    import torch

    shape = fixed.shape[1:]
    field = torch.zeros((3, 1, 1, 1))
    whole = torch.tensor(shape[::-1], dtype=torch.float32)
    for coarser, rounds in levels:
        size = coarsened(shape, coarser)
        a, b = pooled(fixed, size), pooled(moving, size)
        scale = (whole / torch.tensor(size[::-1], dtype=torch.float32))[:, None, None, None]
        field = resized(field / scale, size) if field.shape[1:] != (1, 1, 1) else torch.zeros((3, *size))
        still = slopes(a)
        for _ in range(rounds):
            seen = moved(b, field)
            missed = a - seen
            push = [0.5 * (s + o) for s, o in zip(still, slopes(seen), strict=True)]
            weight = sum(p.square().sum(dim=0) for p in push)
            weight = weight + missed.square().sum(dim=0) / (4 * longest**2)
            step = torch.stack([(missed * p).sum(dim=0) for p in push]) / weight.clamp(min=1e-9)
            step = gaussian(step, [smooth_step] * 3)
            field = gaussian(field + step, [smooth] * 3)
        field = field * scale
    return field


def demons_field(
    moving: Image, fixed: Image, first: np.ndarray, *, most_voxels: int = MOST_VOXELS
) -> np.ndarray:
    """(Z, Y, X, 3) on the fixed grid, RAS mm: the dense step of ``demons`` alone.

    moving, fixed: one channel, prepared by ``mind.grey``. first: (4, 4), where it begins. Images of more than
    ``SMALL_VOXELS`` are worked on at half their resolution, on ``most_voxels`` at most.
    """
    whole = grid_of(fixed)
    count = int(np.prod(whole.size))
    small = count <= min(SMALL_VOXELS, most_voxels)
    half = max(SMALL_VOXELS // 8, count // 2 ** sum(n > 1 for n in whole.size))
    grid = whole if small else working_grid(whole, min(most_voxels, half))
    there = resampled(shrunk(moving, own_spacing(moving, grid)), grid, first)
    here = resampled(shrunk(fixed, grid.spacing_mm), grid)
    return finished(demons(here, there, **(SMALL if small else LARGE)), grid, whole, first)

"""Demons on a coarse-to-fine ladder of lattices: fast, for images of one kind whose brightness agrees.

Every round reads the moving image through the field, pushes each voxel along the mean of both images'
slopes (Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
NeuroImage 45, 2009: the symmetric force of equation 12 there, its steps composed), and smooths. It ends
at half the resolution: a smooth field says no more at the full one, and an eighth of the voxels is an
eighth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medspectrum.engine.align.move import coarsened, moved, pooled, resized
from medspectrum.engine.align.smooth import gaussian, slopes


def demons(
    fixed: Any,
    moving: Any,
    *,
    levels: Sequence[tuple[int, int]] = ((4, 30), (2, 30)),
    smooth: float = 1.2,
    smooth_step: float = 0.7,
    longest: float = 0.6,
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
            field = gaussian(moved(field, step) + step, [smooth] * 3)
        field = field * scale
    return field

"""A dense field by coupled convex optimisation and Adam.

After Siebert, Hansen and Heinrich, "Fast 3D registration with accurate optimisation and little learning
for Learn2Reg 2021": block displacements that agree with their neighbours give the start, gradient descent
on the features' squared difference the rest. Two things are ours: the field is kept from folding by a
hinge on its Jacobian determinants inside the descent, which lets the smoothness weight be low where
anatomy differs much; and what still folds afterwards is smoothed in place (``move.unfolded``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medspectrum.engine.align.blocks import costs, coupled_convex
from medspectrum.engine.align.move import coarsened, determinants, moved, pooled, resized
from medspectrum.engine.align.smooth import gaussian

MOMENTA = 0.9, 0.999
"""Adam's (Kingma and Ba 2015, arXiv:1412.6980): how much of the mean slope and square is kept at a step."""


def convex_start(fixed: Any, moving: Any, *, block: Sequence[int], reach: int) -> Any:
    """(3, z, y, x): a smooth field in voxels, one vector per block.

    fixed, moving: features (C, Z, Y, X) on one lattice. block: sides (Z, Y, X) of the blocks in voxels.
    reach: how many blocks a displacement may reach.
    """
    import torch

    cost, steps = costs(fixed, moving, block=block, reach=reach)
    sides = torch.tensor([float(s) for s in block[::-1]])
    return coupled_convex(cost, steps) * sides[:, None, None, None]


def refine(
    fixed: Any,
    moving: Any,
    field: Any,
    *,
    coarser: int = 2,
    rounds: int = 40,
    rate: float = 0.5,
    stiffness: float = 0.3,
    no_fold: float = 10.0,
    least: float = 0.3,
    smooth: float = 1.1,
    covered: Any = None,
    aspect: Sequence[float] = (1.0, 1.0, 1.0),
) -> Any:
    """(3, z, y, x): the field refined on a lattice ``coarser`` times as coarse, in voxels of the images.

    field: where to begin, in voxels, on any lattice over the same box. rate: Adam's, in voxels of the
    lattice. stiffness: weight of the squared slopes of the field (diffusion). no_fold, least: weight and
    threshold of the hinge on determinants. smooth: Gaussian in voxels of the lattice through which the
    field is always seen. covered: (Z, Y, X), where the moving image has values; elsewhere it does not
    count. aspect: spacing (Z, Y, X) relative to the finest.
    """
    import torch

    size = coarsened(fixed.shape[1:], coarser)
    target = pooled(fixed, size)
    trusted = torch.ones((1, *size)) if covered is None else pooled(covered[None].float(), size)
    trusted = trusted / trusted.mean().clamp(min=1e-6) / fixed.shape[0]
    scale = torch.tensor([n / m for n, m in zip(fixed.shape[:0:-1], size[::-1], strict=True)])
    scale = scale[:, None, None, None]
    sides = [1.0 / a for a in aspect]
    width = [smooth * s for s in sides]
    lengths = torch.tensor([float(a) for a in aspect[::-1]])[:, None, None, None]
    free = (resized(field, size) / scale).clone().requires_grad_(True)
    first, second = torch.zeros_like(free), torch.zeros_like(free)
    for step in range(1, rounds + 1):
        now = gaussian(free, width)
        missed = moved(moving, now * scale) - target
        lost = (missed.square() * trusted).mean() * fixed.shape[0]
        bent = sum(
            (now.diff(dim=axis) * (lengths / a)).square().mean()
            for axis, a in enumerate(aspect, start=1)
            if size[axis - 1] > 1
        )
        folded = torch.relu(least - determinants(now)).square().mean()
        whole = fixed.shape[0] * lost + stiffness * bent + no_fold * folded
        (slope,) = torch.autograd.grad(whole, free)
        with torch.no_grad():  # torch's own Adam loads its compiler, which takes longer than all of this
            first.lerp_(slope, 1 - MOMENTA[0])
            second.lerp_(slope.square(), 1 - MOMENTA[1])
            width_of_step = (second / (1 - MOMENTA[1] ** step)).sqrt_().add_(1e-8)
            free.addcdiv_(first, width_of_step, value=-rate / (1 - MOMENTA[0] ** step))
    with torch.no_grad():
        return gaussian(free, width) * scale

"""Matching blocks: what each block of the fixed features costs at each of many displacements.

The costs serve two ends: an affine map fitted to the best displacements, the worst ones trimmed
(Ourselin et al., "Reconstructing a 3D structure from serial histological sections", Image and Vision
Computing 19, 2001), and a smooth field found by the coupled convex optimisation of Siebert, Hansen and
Heinrich, "Fast 3D registration with accurate optimisation and little learning for Learn2Reg 2021".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.engine.align.mind import box

COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def costs(fixed: Any, moving: Any, *, block: Sequence[int], reach: int) -> tuple[Any, Any]:
    """(P, z, y, x) mean squared differences of block means, and the P displacements (P, 3) as x, y, z.

    fixed, moving: (C, Z, Y, X) features on one lattice. block: sides (Z, Y, X) in voxels, which are also
    the steps of the displacements; displacements count in blocks. reach: this many blocks to either side;
    axes of one voxel stay.
    """
    import torch

    far = [reach if n > 1 else 0 for n in fixed.shape[1:]]
    here, there = block_means(fixed, block), block_means(moving, block)
    z, y, x = far
    wide = torch.nn.functional.pad(there[None], (x, x, y, y, z, z), mode="replicate")[0]
    d, h, w = here.shape[1:]
    rows, steps = [], []
    for k in range(2 * z + 1):
        for j in range(2 * y + 1):
            for i in range(2 * x + 1):
                difference = wide[:, k : k + d, j : j + h, i : i + w] - here
                rows.append(difference.square_().mean(dim=0))
                steps.append((float(i - x), float(j - y), float(k - z)))
    return torch.stack(rows), torch.tensor(steps)


def block_means(values: Any, block: Sequence[int]) -> Any:
    """(C, z, y, x): means over blocks; the last of a row may be smaller."""
    import torch

    sides = [min(b, n) for b, n in zip(block, values.shape[1:], strict=True)]
    return torch.nn.functional.avg_pool3d(values[None], sides, ceil_mode=True, count_include_pad=False)[0]


def block_centres(size: Sequence[int], block: Sequence[int]) -> Any:
    """(z, y, x, 3): the middles of the blocks as points x, y, z in voxels."""
    import torch

    along = []
    for n, b in zip(size, block, strict=True):
        first = torch.arange(0, n, min(b, n), dtype=torch.float64)
        along.append((first + torch.clamp(first + min(b, n), max=n) - 1) / 2)
    z, y, x = torch.meshgrid(*along, indexing="ij")
    return torch.stack((x, y, z), dim=-1)


def fit_affine(
    points: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, rigid: bool, kept: float = 0.6
) -> np.ndarray:
    """(4, 4) that brings points (n, 3) onto targets (n, 3), by least trimmed squares.

    weights: how much each pair is trusted. rigid: only turns and shifts. kept: share of pairs that the
    fit is finally made on, those it agrees with best. Axes along which the points do not spread (a
    picture's third one) are left as they are.
    """
    chosen = weights > 0
    made = np.eye(4)
    for _ in range(8):
        made = (_fit_rigid if rigid else _fit_affine)(points[chosen], targets[chosen], weights[chosen])
        missed = ((points @ made[:3, :3].T + made[:3, 3] - targets) ** 2).sum(axis=1)
        missed[weights <= 0] = np.inf
        trimmed = missed <= np.quantile(missed[weights > 0], kept)
        if (trimmed == chosen).all():
            break
        chosen = trimmed
    return made


def _fit_rigid(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kabsch, Acta Crystallographica A 32, 1976."""
    w = (weights / weights.sum())[:, None]
    a, b = (w * points).sum(axis=0), (w * targets).sum(axis=0)
    u, _, v = np.linalg.svd((w * (points - a)).T @ (targets - b))
    turn = v.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(v.T @ u.T)) or 1.0]) @ u.T
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turn, b - turn @ a
    return made


def _fit_affine(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares of the move, drawn slightly to none so that flat sets have an answer."""
    w = (weights / weights.sum())[:, None]
    a = (w * points).sum(axis=0)
    move = targets - points
    b = (w * move).sum(axis=0)
    spread = (w * (points - a)).T @ (points - a)
    spread += 1e-3 * np.trace(spread) / 3 * np.eye(3)
    slope = np.linalg.solve(spread, (w * (points - a)).T @ (move - b)).T
    made = np.eye(4)
    made[:3, :3] += slope
    made[:3, 3] = b - slope @ a
    return made


def coupled_convex(cost: Any, steps: Any, *, couplings: Sequence[float] = COUPLINGS) -> Any:
    """(3, z, y, x): the smooth displacement field that the costs (P, z, y, x) ask for, in blocks.

    In turns, every block takes its cheapest displacement, where keeping to the smooth field costs more
    and more, and the field is smoothed anew. Couplings are relative to the mean cost.
    """
    import torch

    shape = cost.shape[1:]
    radii = [1 if n > 1 else 0 for n in shape]
    flat = (cost / cost.mean().clamp(min=1e-12)).reshape(len(steps), -1).T.contiguous()
    field = box(steps[flat.argmin(dim=1)].T.reshape(3, *shape), radii)
    for coupling in couplings:
        now = field.reshape(3, -1).T.contiguous()
        # |s - f|^2 = |s|^2 - 2 s f + |f|^2, whose last part is the same for every step
        apart = torch.addmm(steps.square().sum(dim=1)[None], now, steps.T, alpha=-2.0)
        best = torch.add(flat, apart, alpha=coupling).argmin(dim=1)
        field = box(steps[best].T.reshape(3, *shape), radii)
    return field


def trust(cost: Any) -> Any:
    """(z, y, x): how far the best displacement of a block stands out from the mean of all, relative."""
    return (cost.mean(dim=0) - cost.amin(dim=0)) / cost.mean().clamp(min=1e-12)

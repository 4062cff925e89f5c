"""How alike two images are in one place: what is reported before and after, and what decides on features."""

from __future__ import annotations

from typing import Any

import numpy as np

from medspectrum.engine.align.grid import Grid, own_spacing, resampled, shrunk, within_points
from medspectrum.engine.align.mind import mind
from medspectrum.image import Image


def mind_distance(moving: Image, fixed: Image, grid: Grid, through: np.ndarray, move_mm: Any = None) -> float:
    """Mean squared difference of MIND descriptors where both images have values; 0 is alike.

    moving, fixed: one channel. grid: where they are compared. through: (4, 4) affine in RAS mm, or
    move_mm: a tensor (3, Z, Y, X) on the grid, RAS mm. NaN where they share nothing.
    """
    import torch

    here = resampled(shrunk(fixed, grid.spacing_mm), grid)[0]
    small = shrunk(moving, own_spacing(moving, grid))
    there, covered = within_points(small, grid, through, move_mm)
    if not bool(covered.any()):
        return float("nan")
    finest = min(grid.spacing_mm)
    aspect = [s / finest for s in grid.spacing_mm]
    difference = (mind(there[0], aspect=aspect) - mind(here, aspect=aspect)).square().mean(dim=0)
    return float(torch.where(covered, difference, 0.0).sum() / covered.sum())


def local_correlation(a: Any, b: Any, covered: Any) -> float:
    """Correlation of two locally normalised images (1, Z, Y, X) where both have values; 0 if one is flat."""
    x, y = a[0][covered].double(), b[0][covered].double()
    if x.numel() < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / spread if spread > 0 else 0.0

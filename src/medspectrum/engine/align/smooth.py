"""Smoothing by one small matrix product per axis, edges repeated: as exact as a kernel, and faster here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

_REACH = 3.5  # standard deviations after which a Gaussian is cut


@lru_cache(maxsize=256)
def _gaussian(n: int, sigma: float) -> Any:
    """(n, n): row i holds the weights of a Gaussian around i; what would lie outside falls on the edge."""
    import torch

    reach = max(1, int(_REACH * sigma + 0.5))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return torch.from_numpy(_banded(n, kernel / kernel.sum()))


@lru_cache(maxsize=256)
def box_matrix(n: int, radius: int) -> Any:
    """(n, n): means over ``2 radius + 1`` neighbours, edges repeated."""
    import torch

    return torch.from_numpy(_banded(n, np.full(2 * radius + 1, 1 / (2 * radius + 1))))


@lru_cache(maxsize=256)
def _slope(n: int) -> Any:
    """(n, n): central differences, edges repeated."""
    import torch

    return torch.from_numpy(_banded(n, np.array([-0.5, 0.0, 0.5])))


def _banded(n: int, kernel: np.ndarray) -> np.ndarray:
    made = np.zeros((n, n))
    reach = len(kernel) // 2
    for offset, weight in zip(range(-reach, reach + 1), kernel, strict=True):
        np.add.at(made, (np.arange(n), np.clip(np.arange(n) + offset, 0, n - 1)), weight)
    return made.astype(np.float32)


def along(values: Any, matrix: Any, axis: int) -> Any:
    """A tensor (C, Z, Y, X) with a matrix applied along axis 1, 2 or 3."""
    if axis == 3:
        return values @ matrix.T
    if axis == 2:
        return matrix @ values
    c, z, y, x = values.shape
    return (matrix @ values.reshape(c, z, y * x)).reshape(c, len(matrix), y, x)


def gaussian(values: Any, sigmas: Sequence[float]) -> Any:
    """A tensor (C, Z, Y, X) smoothed by Gaussians of those standard deviations in voxels (Z, Y, X)."""
    made = values
    for axis, (n, sigma) in enumerate(zip(values.shape[1:], sigmas, strict=True), start=1):
        if n > 1 and sigma > 0:
            made = along(made, _gaussian(n, float(sigma)), axis)
    return made


def slopes(values: Any) -> tuple[Any, Any, Any]:
    """Central differences of a tensor (C, Z, Y, X) along x, y and z, per voxel."""
    x, y, z = (
        along(values, _slope(values.shape[a]), a) if values.shape[a] > 1 else values.new_zeros(values.shape)
        for a in (3, 2, 1)
    )
    return x, y, z

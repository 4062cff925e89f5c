"""How far an outline would overlap with the truth if its own probabilities were right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LEAST = 0.1
"""Probability of being something, below which a voxel counts as nothing: far background would add up else."""


def sums(probabilities: torch.Tensor) -> np.ndarray:
    """(3,) of probabilities (n, labels, ...), background first: those of the labels called where something is
    called, voxels called something, and the probabilities of being something. Sums of parts add up.
    """
    sure, called = probabilities.max(dim=1)
    something = 1 - probabilities[:, 0]
    outlined = called > 0
    counted = something[(something >= LEAST) | outlined]
    told = [sure[outlined].double().sum(), outlined.sum().double(), counted.double().sum()]
    return np.array([float(value) for value in told])


def overlap(parts: np.ndarray) -> float:
    """The expected Dice of all that is outlined, label by label, 1 where nothing is."""
    agreed, outlined, expected = parts
    return float(2 * agreed / (outlined + expected)) if outlined + expected > 0 else 1.0

"""A network that knows nothing: the same parts, every weight shuffled.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays the same when the weights
are random says nothing of what was learned. Shuffling each tensor keeps its scale, so that the network still
answers differently to different pictures.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


def randomised(module: Any, seed: int) -> Any:
    """A copy of the module with the entries of every parameter in another order; buffers stay."""
    import torch

    other = copy.deepcopy(module).eval()
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in other.parameters():
            order = torch.randperm(part.numel(), generator=drawn)
            part.copy_(part.flatten()[order].reshape(part.shape).clone())
    return other


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """How alike two maps order the places: Spearman's rank correlation, 0 where one of them is flat."""
    from scipy.stats import rankdata

    a, b = (rankdata(m.reshape(-1)) for m in (first, second))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / length) if length > 0 else 0.0

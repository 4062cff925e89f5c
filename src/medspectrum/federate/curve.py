"""A log loss as a function of the temperature, told by a few numbers so exactly that sums can be searched.

The loss is analytic in the logarithm of the factor, its nearest singularities half a turn off the real line;
so its values at Chebyshev nodes give it everywhere in between to rounding (Trefethen, "Approximation Theory
and Approximation Practice", 2013, chapters 5 and 8).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medspectrum.methods._probabilities import LOG_FACTORS, log_loss

NODES = 97


def _nodes() -> np.ndarray:
    low, high = LOG_FACTORS
    return (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * np.arange(NODES) / (NODES - 1))


def at_nodes(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(NODES,) weighted log losses of held-out logits (n, c); zeros where there is no case."""
    if not len(labels):
        return np.zeros(NODES)
    return np.array([log_loss(float(x), logits, labels, weights) for x in _nodes()])


def through_nodes(losses: np.ndarray) -> Callable[[float], float]:
    """The function whose values at the nodes these are, by the barycentric formula."""
    nodes = _nodes()
    sign = np.where(np.arange(NODES) % 2, -1.0, 1.0)
    sign[[0, -1]] /= 2

    def loss(log_factor: float) -> float:
        apart = log_factor - nodes
        if (apart == 0).any():
            return float(losses[np.argmin(np.abs(apart))])
        share = sign / apart
        return float(share @ losses / share.sum())

    return loss

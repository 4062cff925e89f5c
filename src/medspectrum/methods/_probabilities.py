"""From scores to probabilities: softmax, temperature, and classes nobody has labelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., k) probabilities; (..., 1) is taken for the logit of the second of two classes."""
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """The factor on logits (n, c) with the least weighted log loss of held-out cases, ``drawn_to_one``.

    labels: (n,) indices, or probabilities (n, k).
    """
    return drawn_to_one(lambda log_factor: log_loss(log_factor, logits, labels, weights))


def log_loss(log_factor: float, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Weighted log loss of logits (n, c) times a factor, given by its logarithm."""
    return float((weights * surprise(np.exp(log_factor) * logits, labels)).sum())


def surprise(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) log loss of logits (n, c), by labels (n,) or, as their cross-entropy, by probabilities (n, k)."""
    found = softmax(logits)
    if labels.ndim == 2:
        return -(labels * np.log(np.maximum(found, 1e-300))).sum(axis=1)
    return -np.log(np.maximum(np.take_along_axis(found, labels[:, None], axis=1)[:, 0], 1e-300))


LOG_FACTORS = (-float(np.log(20)), float(np.log(20)))


def drawn_to_one(loss: Callable[[float], float]) -> float:
    """The factor whose logarithm has the least loss.

    Few cases say little: the factor is drawn to 1 as by ten cases more, and stays within 1/20 and 20.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_factor: loss(log_factor) + log_factor**2,
        bounds=LOG_FACTORS,
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def spread_to_all(probabilities: np.ndarray, present: np.ndarray, k: int, labelled: int) -> np.ndarray:
    """(n, k) from the probabilities (n, len(present)) of the classes that were labelled.

    A class without labelled cases may exist all the same: it gets what the rule of succession gives
    an event not seen in as many tries, 1 / (labelled + k), so that no true class is called impossible.
    """
    if len(present) == k:
        return probabilities
    unseen = 1.0 / (labelled + k)
    full = np.full((len(probabilities), k), unseen)
    full[:, present] = probabilities * (1.0 - unseen * (k - len(present)))
    return full

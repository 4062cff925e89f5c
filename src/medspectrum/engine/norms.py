"""A network's norms adapted to images without labels: new statistics, and a descent of entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

RUN_AT_ONCE = 32
Stacks = Sequence[np.ndarray]
"""Prepared inputs, one an image: its slices (S, C, H, W), or (C, H, W)."""


def batch_norms(network: Any) -> list[Any]:
    """The batch norms that keep statistics, timm's fused ones among them."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def renew_statistics(network: Any, stacks: Stacks, *, prior: float) -> bool:
    """Mix the statistics of these images into those learned, which count as ``prior`` images.

    Layer by layer the statistics are those that come about once the layers before have theirs: the pictures
    go through once with batch statistics in use. Gives False, changing nothing, where there is no batch norm.
    """
    import torch

    found = batch_norms(network)
    if not found or not stacks:
        return False
    before = [(m.running_mean.clone(), m.running_var.clone(), m.momentum) for m in found]
    weight = len(stacks) / (len(stacks) + prior)
    network.eval()
    for m in found:
        m.train()
        m.momentum = None  # a plain mean over batches
        m.reset_running_stats()
    try:
        with torch.inference_mode():
            for batch in _batches(stacks):
                network(batch)
    finally:
        network.eval()
    with torch.no_grad():
        for m, (mean, variance, momentum) in zip(found, before, strict=True):
            shift = (m.running_mean - mean) ** 2
            m.running_var.copy_(
                weight * m.running_var + (1 - weight) * variance + weight * (1 - weight) * shift
            )
            m.running_mean.copy_(weight * m.running_mean + (1 - weight) * mean)
            m.momentum = momentum
    return True


def carry_statistics(network: Any, stacks: Stacks, learned: Stacks, *, prior: float) -> bool:
    """Move statistics by as much as these images' differ from those of images learned from.

    For a network whose statistics are of other images than its head was trained on. What comes into a norm is
    brought from mean and deviation here (m_h, s_h) to those learned from (m_l, s_l) before it is normed:
    with r = s_h / s_l the deviation becomes r times itself, the mean m_h - r (m_l - mean). Layer after layer,
    each once those before it have theirs; drawn to no change as by ``prior`` images. Gives False, changing
    nothing, where there is no batch norm or nothing to compare with.
    """
    import torch

    found = batch_norms(network)
    if not found or not stacks or not learned:
        return False
    weight = len(stacks) / (len(stacks) + prior)
    network.eval()
    before: dict[int, tuple[Any, Any]] = {}

    def measured(given: torch.Tensor) -> tuple[Any, Any]:
        axes = [i for i in range(given.ndim) if i != 1]
        return given.mean(dim=axes), given.var(dim=axes)

    def note(norm: Any, given: tuple[Any, ...]) -> None:
        before[id(norm)] = measured(given[0])

    def move(norm: Any, given: tuple[Any, ...]) -> None:
        mean, variance = measured(given[0])
        old_mean, old_variance = before[id(norm)]
        ratio = ((variance + norm.eps) / (old_variance + norm.eps)) ** (weight / 2)
        aim = old_mean + weight * (mean - old_mean)
        norm.running_mean.copy_(aim - ratio * (old_mean - norm.running_mean))
        norm.running_var *= ratio**2

    for images, hook in ((learned, note), (stacks, move)):
        handles = [norm.register_forward_pre_hook(hook) for norm in found]
        try:
            with torch.inference_mode():
                network(_joined(images))
        finally:
            for handle in handles:
                handle.remove()
    return True


def descend_entropy(
    network: Any, stacks: Stacks, head: Callable[[Any], Any] | None, *, rate: float, batch: int, seed: int
) -> int:
    """One pass of Adam over scale and shift of all norms, against the mean entropy of the answers.

    head: pooled features (n, d) -> logits; None where the network gives logits. Gives the steps taken.
    """
    import torch

    kinds = (torch.nn.LayerNorm, torch.nn.GroupNorm)
    found = [*batch_norms(network), *(m for m in network.modules() if isinstance(m, kinds))]
    learned = [p for m in found for p in (m.weight, m.bias) if p is not None]
    if not learned or not stacks:
        return 0
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(learned, lr=rate)
    order = np.random.default_rng([seed, 13]).permutation(len(stacks))
    steps = 0
    for first in range(0, len(order), batch):
        chosen = [stacks[i] for i in order[first : first + batch]]
        given = network(_joined(chosen))
        if head is not None:
            given = head(_per_stack(given, chosen))
        logs = torch.log_softmax(given, dim=1)
        loss = -(logs.exp() * logs).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    for parameter in learned:
        parameter.requires_grad_(False)
    return steps


def linear_head(predictor: Any) -> Callable[[Any], Any] | None:
    """The logits of a linear head as a function of torch features; None for other heads, or one class."""
    import torch

    weights, intercepts = (getattr(predictor, n, None) for n in ("weights", "intercepts"))
    if weights is None or intercepts is None or not weights.shape[1]:
        return None
    matrix, shift = (torch.from_numpy(np.array(a, np.float32)) for a in (weights, intercepts))

    def logits(features: torch.Tensor) -> torch.Tensor:
        found = features.float() @ matrix + shift
        return torch.cat([torch.zeros_like(found), found], dim=1) if found.shape[1] == 1 else found

    return logits


def pooled(network: Any, stacks: Stacks) -> np.ndarray:
    """(n, d) float32 features, the mean over each image's slices."""
    import torch

    rows = []
    with torch.inference_mode():
        for first in range(0, len(stacks), RUN_AT_ONCE):
            some = stacks[first : first + RUN_AT_ONCE]
            rows.append(_per_stack(network(_joined(some)), some).numpy())
    return np.concatenate(rows)


def probabilities_by(module: Any, inputs: Stacks, present: Sequence[int], classes: int) -> np.ndarray:
    """(n, classes) float64 answers of a network that gives logits of the classes ``present``."""
    import torch

    found = np.zeros((len(inputs), classes))
    with torch.inference_mode():
        for first in range(0, len(inputs), RUN_AT_ONCE):
            batch = torch.from_numpy(np.stack(inputs[first : first + RUN_AT_ONCE]))
            found[first : first + RUN_AT_ONCE, present] = module(batch).double().softmax(dim=1).numpy()
    return found


def _joined(stacks: Stacks) -> torch.Tensor:
    """Images, with all their slices, as one batch."""
    import torch

    plain = stacks[0].ndim == 3
    return torch.from_numpy(np.stack(list(stacks)) if plain else np.concatenate(list(stacks)))


def _per_stack(rows: torch.Tensor, stacks: Stacks) -> torch.Tensor:
    import torch

    if stacks[0].ndim == 3 or all(len(s) == 1 for s in stacks):
        return rows
    return torch.stack([part.mean(dim=0) for part in torch.split(rows, [len(s) for s in stacks])])


def _batches(stacks: Stacks) -> list[torch.Tensor]:
    """Batches of about equal size, so that their plain mean is that over the images."""
    count = -(-len(stacks) // RUN_AT_ONCE)
    parts = np.array_split(np.arange(len(stacks)), count)
    return [_joined([stacks[i] for i in part]) for part in parts]

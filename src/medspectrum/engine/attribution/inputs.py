"""Maps of the input's own places: integrated gradients, and covering part by part (both by Captum)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PARTS = 7  # windows along a side, each a third overlapping the next
PARTS_OF_VOLUMES = 4
STEPS = 16
SMOOTHED = 1 / 40  # of the side: gradients by the pixel are grainy


def integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    baseline: torch.Tensor,
    *,
    channels: int,
    steps: int = STEPS,
) -> torch.Tensor:
    """The batch's shape less its channels (axis ``channels``): how much each place adds to the score.

    score: (n, ...) -> (n,). Gradients are averaged on the way from the baseline (Sundararajan et al., ICML
    2017), added up over channels, smoothed by a Gaussian of a fortieth of the side, and cut at zero.
    """
    import torch
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found = IntegratedGradients(score).attribute(
            batch,
            baselines=baseline,
            n_steps=steps,
            internal_batch_size=max(1, 32 // max(1, batch[0].shape[0])),
        )
    axes = batch.ndim - channels - 1
    return smoothed(found.detach().float().sum(channels), batch.shape[-1] * SMOOTHED, axes=axes).clamp_min(0)


def occlusion(
    score: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    baseline: torch.Tensor,
    *,
    channels: int,
    parts: int | None = None,
    at_once: int = 16,
) -> torch.Tensor:
    """As above: how much the score falls when a window is covered by the baseline (Zeiler and Fergus, 2014).

    Windows are a seventh of each side long and lie two thirds of that apart (of volumes a quarter); of
    several pictures, one is covered at a time.
    """
    import torch
    from captum.attr import Occlusion

    axes = batch.ndim - channels - 1
    parts = parts or (PARTS if axes == 2 else PARTS_OF_VOLUMES)
    window, stride = [], []
    for axis, length in enumerate(batch.shape[1:], start=1):
        if axis == channels:
            window.append(length)
            stride.append(length)
        elif axis < channels:  # pictures of one case
            window.append(1)
            stride.append(1)
        else:
            wide = max(1, math.ceil(length / parts))
            window.append(wide)
            stride.append(max(1, round(wide * 2 / 3)))
    with torch.inference_mode():
        found = Occlusion(score).attribute(
            batch,
            sliding_window_shapes=tuple(window),
            strides=tuple(stride),
            baselines=baseline,
            perturbations_per_eval=at_once,
        )
    flat = found.float().mean(channels).clone()
    return smoothed(flat, max(batch.shape[-1] / parts / 4, 0.5), axes=axes).clamp_min(0)


def smoothed(maps: torch.Tensor, sigma: float, *, axes: int = 2) -> torch.Tensor:
    """Each plane or volume (the last two or three axes) under a Gaussian of that many places."""
    import torch
    from scipy.ndimage import gaussian_filter

    sides = [0.0] * (maps.ndim - axes) + [sigma] * axes
    return torch.from_numpy(gaussian_filter(maps.numpy(), sides))


def blurred(batch: torch.Tensor, *, axes: int = 2) -> torch.Tensor:
    """The batch without detail: under a Gaussian of an eighth of the side, so that cuts leave no edge."""
    return smoothed(batch, batch.shape[-1] / 8, axes=axes)

"""Class activation maps: where in the last maps of a network its score comes from.

Of one stage, with values A and the score's gradient G, both (n, c, ...):

* Grad-CAM: sum over channels of A times the mean of G over places (Selvaraju et al., ICCV 2017).
* HiResCAM: sum over channels of A times G, which is exact where the score is linear in A (Draelos and
  Carin, arXiv:2011.08891).
* LayerCAM: as HiResCAM with only what is positive in G, which holds in earlier, finer stages too; those are
  brought to one size and averaged (Jiang et al., IEEE TIP 2021).

What speaks against the score is left out: maps are cut at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.attribution.layers import Stage


def grad_cam(stage: Stage) -> torch.Tensor:
    """(n, ...) over the stage's grid, not negative."""
    values, gradient = stage.on_grid()
    weights = gradient.flatten(2).mean(2).reshape(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
    return (values * weights).sum(1).clamp_min(0)


def hires_cam(stage: Stage) -> torch.Tensor:
    """(n, ...) over the stage's grid, not negative."""
    values, gradient = stage.on_grid()
    return (values * gradient).sum(1).clamp_min(0)


def layer_cam(stages: Sequence[Stage]) -> torch.Tensor:
    """(n, ...) over the finest stage's grid, not negative: the mean of the stages' maps, each up to 1."""
    import torch
    import torch.nn.functional as F

    made: list[torch.Tensor] = []
    for stage in stages:
        values, gradient = stage.on_grid()
        made.append((values * gradient.clamp_min(0)).sum(1).clamp_min(0))
    finest = max((tuple(m.shape[1:]) for m in made), key=lambda shape: torch.Size(shape).numel())
    mode = "bilinear" if len(finest) == 2 else "trilinear"
    whole = torch.zeros(len(made[0]), *finest)
    for one in made:
        top = one.amax().clamp_min(1e-12)
        whole += F.interpolate((one / top)[:, None], finest, mode=mode, align_corners=False)[:, 0]
    return whole / len(made)

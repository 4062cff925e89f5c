"""A small U-Net (Ronneberger et al., MICCAI 2015) that two processor cores train in minutes.

Batch normalisation, not the statistics of each picture: where a picture shows few bright things on much dark
ground, the latter would be normalised by the ground alone and things would seem to be everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WIDTHS = (16, 32, 64, 128, 192)


def small_unet(
    channels: int, outputs: int, *, widths: Sequence[int] = WIDTHS, seed: int = 0
) -> torch.nn.Module:
    """(n, channels, height, width), sides multiples of ``multiple(widths)`` -> (n, outputs, ...)."""
    import torch
    from torch import nn

    def block(before: int, after: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a in (before, after):
            layers += [nn.Conv2d(a, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers)

    class SmallUNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(block(a, b) for a, b in itertools.pairwise((channels, *widths)))
            self.up = nn.ModuleList(
                block(deep + fine, fine) for fine, deep in reversed(list(itertools.pairwise(widths)))
            )
            self.shrink = nn.MaxPool2d(2)
            self.grow = nn.Upsample(scale_factor=2)
            self.last = nn.Conv2d(widths[0], outputs, 1)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            kept: list[torch.Tensor] = []
            for level, own in enumerate(self.down):
                batch = own(self.shrink(batch) if level else batch)
                kept.append(batch)
            for own, beside in zip(self.up, kept[-2::-1], strict=True):
                batch = own(torch.cat([self.grow(batch), beside], dim=1))
            return self.last(batch)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallUNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def multiple(widths: Sequence[int] = WIDTHS) -> int:
    """What the sides of its input have to be a multiple of."""
    return 2 ** (len(widths) - 1)

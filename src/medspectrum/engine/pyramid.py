"""A light decoder: from an encoder's maps, coarse to fine, and the picture itself, to a score per pixel.

The way up is a feature pyramid (Lin et al., "Feature pyramid networks for object detection", CVPR 2017): each
map is brought to a common width and added to what came from below. Maps of networks that see in patches end
far from the pixels, so a short branch looks at the picture and joins at half its resolution, where the scores
are given; what lies between is bilinear.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WIDTHS = ((8, 96), (4, 64), (2, 32))  # side divided by the map's side, at least; channels there
IMAGE_WIDTH = 16
LAST_WIDTH = 32
DROPPED = 0.1


def sizes(shapes: Sequence[tuple[int, int, int]], side: int) -> list[int]:
    """The sides of the way up: from the coarsest map to half the input, at most twice the last each."""
    there = sorted({h for _, h, _ in shapes})
    path = [there[0]]
    while path[-1] < side // 2:
        reach = min(2 * path[-1], side // 2)
        between = [s for s in there if path[-1] < s <= reach]
        path.append(between[0] if between else reach)
    return path


def pyramid(
    shapes: Sequence[tuple[int, int, int]],
    side: int,
    labels: int,
    *,
    image_channels: int,
    seed: int,
    batch_norm: bool = False,
) -> torch.nn.Module:
    """The decoder for maps of those shapes (C, h, w): (maps, picture) -> (n, labels, side / 2, side / 2).

    Its buffers ``means`` and ``scales`` standardise the maps' channels; set them from the labelled cases.
    batch_norm: normalise by the statistics of all pictures, not of each: for few things on much ground.
    """
    import torch
    from torch import nn

    path = sizes(shapes, side)
    widths = [next((w for least, w in WIDTHS if side / s >= least), WIDTHS[-1][1]) for s in path]

    def block(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after) if batch_norm else nn.GroupNorm(8, after),
            nn.GELU(),
        )

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.joins = [min(range(len(path)), key=lambda i: abs(path[i] - h)) for _, h, _ in shapes]
            self.lateral = nn.ModuleList(
                nn.Conv2d(c, widths[at], 1) for (c, _, _), at in zip(shapes, self.joins, strict=True)
            )
            self.means = nn.ParameterList(
                [nn.Parameter(torch.zeros(c, 1, 1), requires_grad=False) for c, _, _ in shapes]
            )
            self.scales = nn.ParameterList(
                [nn.Parameter(torch.ones(c, 1, 1), requires_grad=False) for c, _, _ in shapes]
            )
            self.dropped = nn.Dropout2d(DROPPED)
            self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths))
            self.mix = nn.ModuleList(block(w, w) for w in widths)
            self.look = nn.Sequential(
                block(image_channels, IMAGE_WIDTH, stride=2), block(IMAGE_WIDTH, IMAGE_WIDTH)
            )
            self.last = block(widths[-1] + IMAGE_WIDTH, LAST_WIDTH)
            self.scores = nn.Conv2d(LAST_WIDTH, labels, 1)

        def forward(self, maps: Any, picture: torch.Tensor) -> torch.Tensor:
            """Scores at half the picture's resolution."""
            found: Any = None
            for level, side_here in enumerate(path):
                if found is not None:
                    found = _resized(self.up[level - 1](found), side_here)
                for index, at in enumerate(self.joins):
                    if at == level:
                        own = (maps[index] - self.means[index]) * self.scales[index]
                        own = _resized(self.lateral[index](self.dropped(own)), side_here)
                        found = own if found is None else found + own
                found = self.mix[level](found)
            return self.scores(self.last(torch.cat([found, self.look(picture)], dim=1)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pyramid()


def _resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    import torch.nn.functional as F

    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)


def standardise(decoder: Any, maps: Sequence[torch.Tensor]) -> None:
    """Set the decoder's means and scales from some maps, each (n, C, h, w)."""
    import torch

    with torch.no_grad():
        for index, part in enumerate(maps):
            part = part.float()
            decoder.means[index].copy_(part.mean(dim=(0, 2, 3))[:, None, None])
            spread = part.std(dim=(0, 2, 3)).clamp_min(1e-6)
            decoder.scales[index].copy_((1 / spread)[:, None, None])

"""A light detector on an encoder's maps: at every place of three scales, what is there and how far it goes.

No anchors: each place says the distances to the four sides of its box (Tian et al., "FCOS", ICCV 2019). The
maps meet in a feature pyramid, down and up again (Liu et al., "Path aggregation network", CVPR 2018); one
head serves all scales. Networks that see in coarse patches get a short look at the picture for the finest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

STRIDES = (8, 16, 32)
WIDTH = 96
PRIOR = 0.01  # how likely a place holds something, before anything was learned
FARTHEST = 5.0  # of the logarithm of a distance in strides
DROPPED = 0.1


class Answers(NamedTuple):
    """What the network says of every place, over the square input.

    boxes: (n, p, 4) x0, y0, x1, y1. logits: (n, p, classes). places: (p, 2) x, y. strides: (p,).
    All in pixels of the input.
    """

    boxes: torch.Tensor
    logits: torch.Tensor
    places: torch.Tensor
    strides: torch.Tensor


def chosen_maps(shapes: Sequence[tuple[int, int, int]], side: int) -> list[int]:
    """Which maps are looked at: those no finer than the finest scale, or the coarsest one."""
    least = 0.75 * STRIDES[0]
    kept = [i for i, (_, h, _) in enumerate(shapes) if side / h >= least]
    return kept or [min(range(len(shapes)), key=lambda i: shapes[i][1])]


def detector(
    shapes: Sequence[tuple[int, int, int]], side: int, classes: int, *, image_channels: int, seed: int
) -> torch.nn.Module:
    """The network for chosen maps of those shapes (C, h, w): (maps, pictures) -> ``Answers`` as a tuple.

    Its parameters ``means`` and ``scales`` standardise the maps' channels; set them by ``standardise``.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    ratios = [side / h for _, h, _ in shapes]
    joins = [_nearest(ratio) for ratio in ratios]
    lent = {
        level: min(range(len(shapes)), key=lambda i: abs(math.log(ratios[i] / STRIDES[level])))
        for level in range(len(STRIDES))
        if level not in joins
    }
    looks = min(ratios) > 1.5 * STRIDES[0]

    def block(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(8, after),
            nn.SiLU(),
        )

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lateral = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c, _, _ in shapes)
            self.means = nn.ParameterList(
                [nn.Parameter(torch.zeros(c, 1, 1), requires_grad=False) for c, _, _ in shapes]
            )
            self.scales = nn.ParameterList(
                [nn.Parameter(torch.ones(c, 1, 1), requires_grad=False) for c, _, _ in shapes]
            )
            self.dropped = nn.Dropout2d(DROPPED)
            self.look = (
                nn.Sequential(
                    block(image_channels, 16, stride=2), block(16, 32, stride=2), block(32, WIDTH, stride=2)
                )
                if looks
                else None
            )
            self.down = nn.ModuleList(block(WIDTH, WIDTH) for _ in STRIDES)
            self.shrink = nn.ModuleList(block(WIDTH, WIDTH, stride=2) for _ in STRIDES[1:])
            self.up = nn.ModuleList(block(WIDTH, WIDTH) for _ in STRIDES[1:])
            self.what = nn.Sequential(block(WIDTH, WIDTH), block(WIDTH, WIDTH))
            self.where = nn.Sequential(block(WIDTH, WIDTH), block(WIDTH, WIDTH))
            self.logits = nn.Conv2d(WIDTH, classes, 3, padding=1)
            self.reach = nn.Conv2d(WIDTH, 4, 3, padding=1)
            self.size = nn.Parameter(torch.full((len(STRIDES),), 0.7))
            for part, bias in ((self.logits, math.log(PRIOR / (1 - PRIOR))), (self.reach, 0.0)):
                nn.init.normal_(part.weight, std=0.01)
                if part.bias is not None:
                    nn.init.constant_(part.bias, bias)

        def forward(self, maps: Any, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
            height, width = picture.shape[-2:]
            grids = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
            own = [
                lateral(self.dropped((part - mean) * scale))
                for lateral, part, mean, scale in zip(
                    self.lateral, maps, self.means, self.scales, strict=True
                )
            ]
            levels: list[Any] = []
            for level in range(len(STRIDES)):
                parts = [own[i] for i, join in enumerate(joins) if join == level] or [own[lent[level]]]
                whole = _resized(parts[0], grids[level])
                for part in parts[1:]:
                    whole = whole + _resized(part, grids[level])
                levels.append(whole)
            if self.look is not None:
                levels[0] = levels[0] + _resized(self.look(picture), grids[0])
            for level in reversed(range(len(STRIDES))):
                if level + 1 < len(STRIDES):
                    levels[level] = levels[level] + _resized(levels[level + 1], grids[level])
                levels[level] = self.down[level](levels[level])
            for level in range(1, len(STRIDES)):
                carried = _resized(self.shrink[level - 1](levels[level - 1]), grids[level])
                levels[level] = self.up[level - 1](levels[level] + carried)
            boxes, logits, places, strides = [], [], [], []
            for level, found in enumerate(levels):
                step = STRIDES[level]
                reach = self.reach(self.where(found)).float() + self.size[level]
                away = reach.clamp(max=FARTHEST).exp().flatten(2).transpose(1, 2) * step
                rows, columns = grids[level]
                y, x = torch.meshgrid(
                    (torch.arange(rows) + 0.5) * step, (torch.arange(columns) + 0.5) * step, indexing="ij"
                )
                place = torch.stack([x, y], dim=-1).reshape(-1, 2)
                boxes.append(torch.cat([place - away[..., :2], place + away[..., 2:]], dim=-1))
                logits.append(self.logits(self.what(found)).float().flatten(2).transpose(1, 2))
                places.append(place)
                strides.append(torch.full((len(place),), float(step)))
            return (
                torch.cat(boxes, dim=1),
                torch.cat(logits, dim=1),
                torch.cat(places),
                torch.cat(strides),
            )

    def _resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(maps.shape[-2:]) == size:
            return maps
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector()


def _nearest(ratio: float) -> int:
    """The scale whose stride is nearest to the map's, by its logarithm."""
    return min(range(len(STRIDES)), key=lambda level: abs(math.log(ratio / STRIDES[level])))


def best(
    boxes: torch.Tensor,
    logits: torch.Tensor,
    size: tuple[float, float],
    *,
    least: float = 0.01,
    overlap: float = 0.6,
    most: int = 100,
    looked_at: int = 1000,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes (m, 4), scores (m,) and labels (m,) of one picture, after suppressing doubles label by label.

    boxes: (p, 4). logits: (p, classes). size: (height, width) that boxes are cut to. least: score. overlap:
    IoU above which the less sure of two boxes of a label goes. most: boxes of each label.
    """
    import torch
    from torchvision.ops import batched_nms, clip_boxes_to_image

    scores = logits.float().sigmoid()
    place, label = torch.nonzero(scores > least, as_tuple=True)
    score = scores[place, label]
    if len(score) > looked_at:
        kept = score.topk(looked_at).indices
        place, label, score = place[kept], label[kept], score[kept]
    cut = clip_boxes_to_image(boxes[place].float(), size)  # type: ignore[arg-type]
    wide = ((cut[:, 2:] - cut[:, :2]) > 1e-3).all(dim=1)
    cut, score, label = cut[wide], score[wide], label[wide]
    kept = batched_nms(cut, score, label, overlap)
    few = torch.zeros(len(kept), dtype=torch.bool)
    for one in label.unique():
        few[torch.nonzero(label[kept] == one)[:most, 0]] = True
    kept = kept[few]
    return cut[kept], score[kept], label[kept]


def standardise(network: Any, maps: Sequence[torch.Tensor]) -> None:
    """Set the network's means and scales from some maps, each (n, C, h, w)."""
    import torch

    with torch.no_grad():
        for index, part in enumerate(maps):
            part = part.float()
            network.means[index].copy_(part.mean(dim=(0, 2, 3))[:, None, None])
            network.scales[index].copy_((1 / part.std(dim=(0, 2, 3)).clamp_min(1e-6))[:, None, None])

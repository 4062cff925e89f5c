"""Networks that answer place by place, asked for one number: of an outlined region, or of one box.

Each gives a ``torch.nn.Module`` of one form, as ``engine.heads`` does: pictures (n, 1, C, side, side) ->
(n, c) logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def with_maps(encoder: Any, answer: Callable[[list[torch.Tensor], torch.Tensor], Any], own: int) -> Any:
    """A frozen encoder with what reads its maps: (n, C, side, side) -> what ``answer`` gives.

    encoder: picture of ``own`` channels -> maps. Several pictures stand along C; their maps are joined.
    answer: (maps fine to coarse, pictures) -> scores; a module, or a function.
    """
    import torch

    class WithMaps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.answer = answer

        def forward(self, batch: torch.Tensor) -> Any:
            by_role = []
            for first in range(0, batch.shape[1], own):
                found = self.encoder(batch[:, first : first + own])
                by_role.append(found if isinstance(found, tuple | list) else (found,))
            return self.answer([torch.cat(parts, 1) for parts in zip(*by_role, strict=True)], batch)

    return WithMaps().eval()


def of_region(module: Any, region: np.ndarray) -> Any:
    """The mean score of each label over a region.

    module: (n, C, side, side) -> (n, labels, h, w). region: (side, side) bool, not empty; it is brought to
    (h, w) by the share of each place that it covers.
    """
    import torch

    class OfRegion(torch.nn.Module):
        covered: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.register_buffer("covered", torch.from_numpy(region.astype(np.float32))[None, None])

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            scores = self.module(batch[:, 0])
            weight = torch.nn.functional.adaptive_avg_pool2d(self.covered, scores.shape[-2:])
            return (scores * weight).sum((2, 3)) / weight.sum()

    return OfRegion().eval()


def of_box(module: Any, place: int, label: int) -> Any:
    """The score of one box, as logits of (nothing, the label).

    module: (n, C, side, side) -> (boxes, logits (n, p, labels), ...). place: which of the p.
    """
    import torch

    class OfBox(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            found: Sequence[Any] = self.module(batch[:, 0])
            logit = found[1][:, place, label]
            return torch.stack([torch.zeros_like(logit), logit], dim=1)

    return OfBox().eval()


def of_chosen_maps(network: Any, which: Sequence[int]) -> Any:
    """A detector that looks at some of the maps, as a module of (maps, pictures)."""
    import torch

    class OfChosen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, maps: list[torch.Tensor], pictures: torch.Tensor) -> Any:
            return self.network([maps[i] for i in which], pictures)

    return OfChosen().eval()

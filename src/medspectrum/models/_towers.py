"""Image towers of networks that also read text, and what turns them into encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medspectrum.engine.readout import read
from medspectrum.models._published import Tensors

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def only(*prefixes: str, without: tuple[str, ...] = ()) -> Callable[[Tensors], Tensors]:
    """Tensors under the first prefix that any key has, taken off. without: beginnings that are left out."""

    def renamed(state: Tensors) -> Tensors:
        for prefix in prefixes:
            kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if kept:
                return {k: v for k, v in kept.items() if not k.startswith(without)}
        return state

    return renamed


def tower(pooled: Callable[[Any], Any], trunk: Any, whole: Any) -> Any:
    """A module that gives ``pooled`` of pictures, tokens and maps of its timm trunk; a part of ``whole``."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, pictures: Any) -> Any:
            return pooled(pictures)

        def read_level(self, pictures: Any, level: str) -> tuple[Any, ...]:
            return (pooled(pictures),) if level == "pooled" else read(trunk, pictures, level)

    return Tower().eval()


def resized(network: Any, side: int, *, patch: int) -> None:
    """Positions of a plain CLIP tower, (1 + n, d), brought to another side."""
    from timm.layers.pos_embed import resample_abs_pos_embed
    from torch import nn

    count = side // patch
    if tuple(network.grid_size) == (count, count):
        return
    moved = resample_abs_pos_embed(network.positional_embedding[None], [count, count], num_prefix_tokens=1)
    network.positional_embedding = nn.Parameter(moved[0].detach())
    network.grid_size = (count, count)
    network.image_size = (side, side)


def saved(state: Mapping[str, Any], path: Path) -> Path:
    """A small file of drawn weights."""
    import torch

    torch.save(dict(state), path)
    return path

"""Endo-FM's transformer of short videos: each place looks along time, then each frame over its places.

Wang et al., MICCAI 2023 (arXiv:2306.16741), after TimeSformer (Bertasius et al., arXiv:2102.05095), with the
names of parameters of the published checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

MAPS = 4


def network(*, width: int, depth: int, heads: int, side: int = 14, frames: int = 8, patch: int = 16) -> Any:
    """The network, random: videos (n, 3, T, H, W) -> (n, width), the class token.

    side, frames: places and times that have a position of their own; others get the nearest one's.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count, places, _ = x.shape
            queries, keys, values = self.qkv(x).reshape(count, places, 3, heads, -1).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(queries, keys, values)
            return self.proj(seen.transpose(1, 2).reshape(count, places, width))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(F.gelu(self.fc1(x)))

    class Block(nn.Module):
        """Divided attention: along time, then over each frame with the class token, then the perceptron."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2, self.temporal_norm1 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
            self.attn, self.temporal_attn = Attention(), Attention()
            self.temporal_fc = nn.Linear(width, width)
            self.mlp = Mlp()

        def forward(self, token: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Class token (n, 1, width) and places (n, T, places, width)."""
            count, times, places, _ = x.shape
            along = x.transpose(1, 2).flatten(0, 1)
            along = self.temporal_fc(self.temporal_attn(self.temporal_norm1(along)))
            x = x + along.unflatten(0, (count, places)).transpose(1, 2)
            shown = torch.cat([token[:, None].expand(-1, times, -1, -1), x], dim=2).flatten(0, 1)
            over = self.attn(self.norm1(shown)).unflatten(0, (count, times))
            token, x = token + over[:, :, :1].mean(dim=1), x + over[:, :, 1:]
            return token + self.mlp(self.norm2(token)), x + self.mlp(self.norm2(x))

    class PatchEmbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2d(3, width, patch, stride=patch)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(x)

    class VideoTransformer(nn.Module):
        """The vector is the class token's; tokens and maps are (n, width, T, H / patch, W / patch)."""

        def __init__(self) -> None:
            super().__init__()
            self.num_features = width
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width))
            self.time_embed = nn.Parameter(torch.zeros(1, frames, width))
            self.patch_embed = PatchEmbed()
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            for value in (self.cls_token, self.pos_embed):
                nn.init.trunc_normal_(value, std=0.02)

        def states(self, video: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
            """Class token and places, (n, T, places, width), after each block."""
            count, _, times = video.shape[:3]
            x = self.patch_embed(video.transpose(1, 2).flatten(0, 1))
            grid = (x.shape[-2], x.shape[-1])
            own = self.pos_embed[:, 1:].transpose(1, 2).unflatten(-1, (side, side))
            if grid != (side, side):
                own = F.interpolate(own, size=grid, mode="nearest")
            when = self.time_embed.transpose(1, 2)
            if times != frames:
                when = F.interpolate(when, size=times, mode="nearest")
            x = (x + own).flatten(2).transpose(1, 2).unflatten(0, (count, times))
            x = x + when.transpose(1, 2)[:, :, None]
            token = (self.cls_token + self.pos_embed[:, :1]).expand(count, -1, -1)
            made = []
            for block in self.blocks:
                token, x = block(token, x)
                made.append((token, x))
            return made

        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return self.norm(self.states(video)[-1][0])[:, 0]

        def read_level(self, video: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            made = self.states(video)
            if level == "pooled":
                return (self.norm(made[-1][0])[:, 0],)
            rows, columns = video.shape[-2] // patch, video.shape[-1] // patch

            def on_grid(x: torch.Tensor) -> torch.Tensor:
                return x.permute(0, 3, 1, 2).unflatten(-1, (rows, columns))

            if level == "tokens":
                return (on_grid(self.norm(made[-1][1])),)
            places = [math.ceil(depth * (i + 1) / MAPS) - 1 for i in range(MAPS)]
            return tuple(on_grid(made[i][1]) for i in places)

    return VideoTransformer().eval()

"""HIPT's two transformers: one reads patches of 256 pixels, the next reads a grid of what the first gave.

Chen et al., CVPR 2022 (arXiv:2206.02647), with the names of parameters of the published DINO checkpoints.
"""

from __future__ import annotations

import math
from typing import Any

PATCH = 256
"""Pixels per side of what the first level sees at once."""
AT_ONCE = 256
"""Patches that go through the first level together."""
MAPS = 4


def network(*, width: int, depth: int, heads: int, inside: int = 0, side: int = 14, patch: int = 16) -> Any:
    """One level, random: pictures (n, 3, H, W), or grids (n, inside, H, W) of features -> (n, width).

    inside: channels of the grid, 0 for pictures. side: places per side that have a position of their own;
    other grids get positions between them, as the original does. patch: pixels per place of a picture.
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
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
            self.attn, self.mlp = Attention(), Mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class PatchEmbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2d(3, width, patch, stride=patch)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(x).flatten(2).transpose(1, 2)

    class VisionTransformer(nn.Module):
        """The vector is the class token's; tokens and maps are those of the places."""

        def __init__(self) -> None:
            super().__init__()
            self.num_features = width
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width))
            if inside:
                self.phi = nn.Sequential(nn.Linear(inside, width), nn.GELU())
            else:
                self.patch_embed = PatchEmbed()
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            for value in (self.cls_token, self.pos_embed):
                nn.init.trunc_normal_(value, std=0.02)

        def grid(self, x: torch.Tensor) -> tuple[int, int]:
            """Places in height and width."""
            step = 1 if inside else patch
            return x.shape[-2] // step, x.shape[-1] // step

        def positions(self, grid: tuple[int, int]) -> torch.Tensor:
            """(1, 1 + places, width). The tenth of a place in the scale is the original's own."""
            if grid == (side, side):
                return self.pos_embed
            own = self.pos_embed[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
            scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
            own = F.interpolate(own, scale_factor=scale, mode="bicubic")
            return torch.cat([self.pos_embed[:, :1], own.flatten(2).transpose(1, 2)], dim=1)

        def states(self, x: torch.Tensor) -> list[torch.Tensor]:
            """What each block gave, (n, 1 + places, width)."""
            grid = self.grid(x)
            tokens = self.phi(x.flatten(2).transpose(1, 2)) if inside else self.patch_embed(x)
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
            made = [tokens + self.positions(grid)]
            for block in self.blocks:
                made.append(block(made[-1]))
            return made[1:]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.states(x)[-1])[:, 0]

        def read_level(self, x: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            made = self.states(x)
            if level == "pooled":
                return (self.norm(made[-1])[:, 0],)

            def on_grid(tokens: torch.Tensor) -> torch.Tensor:
                return tokens[:, 1:].transpose(1, 2).reshape(len(x), width, *self.grid(x))

            if level == "tokens":
                return (on_grid(self.norm(made[-1])),)
            places = [math.ceil(depth * (i + 1) / MAPS) - 1 for i in range(MAPS)]
            return tuple(on_grid(made[i]) for i in places)

    return VisionTransformer().eval()


def two_levels(first: Any, second: Any) -> Any:
    """Both levels as one network: regions (n, 3, H, W) -> (n, width of the second).

    A region is cut to whole patches about its middle; each patch becomes the first level's vector, and the
    second level reads their grid.
    """
    import torch
    from torch import nn

    class HIPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second
            self.num_features = second.num_features

        def grid(self, region: torch.Tensor) -> torch.Tensor:
            """The first level's vectors, (n, width, H / 256, W / 256)."""
            count, _, height, width = region.shape
            rows, columns = height // PATCH, width // PATCH
            top, left = round((height - rows * PATCH) / 2), round((width - columns * PATCH) / 2)
            region = region[..., top : top + rows * PATCH, left : left + columns * PATCH]
            patches = region.reshape(count, 3, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
            made = [self.first(some) for some in patches.flatten(0, 2).split(AT_ONCE)]
            return torch.cat(made).reshape(count, rows, columns, -1).permute(0, 3, 1, 2)

        def forward(self, region: torch.Tensor) -> torch.Tensor:
            return self.second(self.grid(region))

        def read_level(self, region: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            return self.second.read_level(self.grid(region), level)

    return HIPT().eval()

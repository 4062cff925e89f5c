"""RadFM's eye: a three-dimensional ViT whose patches a perceiver sums up in a few vectors.

Wu et al. 2023 (arXiv:2308.02463), section on architecture: patches of 32 x 32 x 4 voxels of three channels,
positions learned per axis, and a perceiver (Jaegle et al. 2021, arXiv:2103.03206, in the form of Alayrac et
al. 2022) whose 32 latents a linear map brings to the width of the language model. Names are those of the
published weights, ``embedding_layer.*`` without that word. Volumes are (n, 3, height, width, depth) in 0-1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medspectrum.errors import UserError


class PreNorm(nn.Module):
    """A norm before what it feeds."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Any) -> Any:
        """The norm, then that."""
        return self.fn(self.norm(x))


class FeedForward(nn.Module):
    """Two linear maps, GELU between."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, inside), nn.GELU(), nn.Identity(), nn.Linear(inside, width), nn.Identity()
        )

    def forward(self, x: Any) -> Any:
        """(..., width) -> the same shape."""
        return self.net(x)


def in_heads(x: Any, heads: int) -> Any:
    """(..., words, heads * width) -> (..., heads, words, width)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def attended(q: Any, k: Any, v: Any, heads: int) -> Any:
    """Softmax attention of all heads, joined again: (..., words, heads * width)."""
    found = functional.scaled_dot_product_attention(*(in_heads(x, heads) for x in (q, k, v)))
    return found.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """Self-attention of patches."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Identity())

    def forward(self, x: Any) -> Any:
        """(batch, patches, width) -> the same shape."""
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        return self.to_out(attended(q, k, v, self.heads))


class Transformer(nn.Module):
    """Blocks of attention and feed-forward, each with what came before added."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int, inside: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, Attention(width, heads, head_width)),
                    PreNorm(width, FeedForward(width, inside)),
                ]
            )
            for _ in range(depth)
        )

    def states(self, x: Any) -> list[Any]:
        """What each block gives, of the same shape."""
        found = []
        for attention, feed in self.layers:  # type: ignore[misc] - a list of two
            x = attention(x) + x
            x = feed(x) + x
            found.append(x)
        return found


class PositionEmbeddingLearned3d(nn.Module):
    """A vector per row, column and slice of patches, side by side; fewer patches take every so many-th."""

    def __init__(self, width: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.row_embed = nn.Embedding(grid[0], width)
        self.col_embed = nn.Embedding(grid[1], width)
        self.dep_embed = nn.Embedding(grid[2], width)

    def forward(self, shape: tuple[int, int, int]) -> Any:
        """(rows * columns * slices, 3 * width)."""
        if any(n < 1 or n > most for n, most in zip(shape, self.grid, strict=True)):
            raise UserError(f"RadFM has positions for up to {self.grid} patches; these are {shape}")
        parts = []
        for axis, table in enumerate((self.row_embed, self.col_embed, self.dep_embed)):
            n = shape[axis]
            chosen = (torch.arange(n, device=table.weight.device) + 1) * (self.grid[axis] // n) - 1
            places = [1, 1, 1, -1]
            places[axis] = n
            parts.append(table(chosen).reshape(places).expand(*shape, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2)


class ViT(nn.Module):
    """Patches of volumes, each seen with all others."""

    def __init__(
        self,
        *,
        image_size: int,
        frames: int,
        patch: int,
        frame_patch: int,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
        inside: int,
    ) -> None:
        super().__init__()
        self.patch = (patch, patch, frame_patch)
        voxels = 3 * patch * patch * frame_patch
        self.to_patch_embedding = nn.Sequential(
            nn.Identity(), nn.LayerNorm(voxels), nn.Linear(voxels, width), nn.LayerNorm(width)
        )
        side = image_size // patch
        self.pos_embedding = PositionEmbeddingLearned3d(width // 3, (side, side, frames // frame_patch))
        self.transformer = Transformer(width, depth, heads, head_width, inside)

    def states(self, x: Any) -> list[Any]:
        """(batch, 3, H, W, D) -> after each block (batch, rows, columns, slices, width)."""
        shape = tuple(n // p for n, p in zip(x.shape[2:], self.patch, strict=True))
        for axis in range(3):
            x = x.unflatten(2 + 2 * axis, (shape[axis], self.patch[axis]))
        x = x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)
        x = self.to_patch_embedding(x) + self.pos_embedding(shape)  # type: ignore[arg-type]
        return [made.unflatten(1, shape) for made in self.transformer.states(x)]

    def forward(self, x: Any) -> Any:
        """(batch, 3, H, W, D) -> (batch, patches, width)."""
        return self.states(x)[-1].flatten(1, 3)


class PerceiverAttention(nn.Module):
    """Latents look at patches and at themselves."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inside = heads * head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inside, bias=False)
        self.to_kv = nn.Linear(width, 2 * inside, bias=False)
        self.to_out = nn.Linear(inside, width, bias=False)

    def forward(self, x: Any, latents: Any) -> Any:
        """(batch, patches, width) and (batch, latents, width) -> the latter's shape."""
        latents = self.norm_latents(latents)
        k, v = self.to_kv(torch.cat([self.norm_media(x), latents], dim=-2)).chunk(2, dim=-1)
        return self.to_out(attended(self.to_q(latents), k, v, self.heads))


class PerceiverResampler(nn.Module):
    """As many vectors as there are latents, of any number of patches."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int, latents: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, heads, head_width),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        """(batch, patches, width) -> (batch, latents, width)."""
        latents = self.latents.expand(len(x), -1, -1)
        for attention, feed in self.layers:  # type: ignore[misc] - a list of two
            latents = attention(x, latents) + latents
            latents = feed(latents) + latents
        return self.norm(latents)


class Eye(nn.Module):
    """What of RadFM looks at volumes: patches, the vectors that sum them up, and those as words of LLaMA."""

    def __init__(self, vision: ViT, perceiver: PerceiverResampler, width: int, words: int) -> None:
        super().__init__()
        self.vision_encoder = vision
        self.perceiver = perceiver
        self.fc = nn.Linear(width, words)

    def forward(self, x: Any) -> Any:
        """(batch, 3, H, W, D) -> (batch, latents, width), before the language model's width."""
        return self.perceiver(self.vision_encoder(x))

    def words(self, x: Any) -> Any:
        """(batch, 3, H, W, D) -> (batch, latents, width of the language model)."""
        return self.fc(self(x))


def network(
    *,
    image_size: int = 512,
    frames: int = 512,
    patch: int = 32,
    frame_patch: int = 4,
    width: int = 768,
    depth: int = 12,
    heads: int = 8,
    head_width: int = 64,
    inside: int = 2048,
    perceiver_depth: int = 6,
    latents: int = 32,
    words: int = 5120,
) -> Eye:
    """RadFM's eye with random weights, eval mode. words: the width of its language model."""
    vision = ViT(
        image_size=image_size,
        frames=frames,
        patch=patch,
        frame_patch=frame_patch,
        width=width,
        depth=depth,
        heads=heads,
        head_width=head_width,
        inside=inside,
    )
    perceiver = PerceiverResampler(width, perceiver_depth, 8, 64, latents)
    return Eye(vision, perceiver, width, words).eval()

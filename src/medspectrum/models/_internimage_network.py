"""InternImage: stages of deformable convolutions (DCNv3), which look where the picture tells them to.

Wang et al., CVPR 2023 (arXiv:2211.05778), with the names of parameters of the published checkpoints. The
sampling is torch's own, so no compiled operator is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

KERNEL = 3
POINTS = KERNEL * KERNEL


def deformed(x: Any, offset: Any, mask: Any, *, groups: int, scale: float) -> Any:
    """DCNv3's core: (n, H, W, C) sampled at nine moved points about each place, and summed by the mask.

    offset: (n, H, W, groups * 9 * 2), x before y, in places. mask: (n, H, W, groups * 9). scale: of the nine
    points and their offsets alike. Points run down the columns. Beyond the picture everything is zero.
    """
    import torch
    import torch.nn.functional as F

    count, height, width, channels = x.shape
    reach = torch.arange(KERNEL, dtype=x.dtype, device=x.device) - KERNEL // 2
    across, down = torch.meshgrid(reach, reach, indexing="ij")
    points = torch.stack([across, down], dim=-1).reshape(1, 1, 1, 1, POINTS, 2)
    rows = torch.arange(height, dtype=x.dtype, device=x.device)
    columns = torch.arange(width, dtype=x.dtype, device=x.device)
    own_down, own_across = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([own_across, own_down], dim=-1).reshape(1, height, width, 1, 1, 2)
    moved = places + scale * (points + offset.reshape(count, height, width, groups, POINTS, 2))
    size = torch.tensor([width, height], dtype=x.dtype, device=x.device)
    where = (2 * moved + 1) / size - 1
    where = where.permute(0, 3, 1, 2, 4, 5).reshape(count * groups, height * width, POINTS, 2)
    images = x.permute(0, 3, 1, 2).reshape(count * groups, channels // groups, height, width)
    seen = F.grid_sample(images, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    share = mask.reshape(count, height, width, groups, POINTS).permute(0, 3, 1, 2, 4)
    made = (seen * share.reshape(count * groups, 1, height * width, POINTS)).sum(dim=-1)
    return made.reshape(count, channels, height, width).permute(0, 2, 3, 1)


def network(
    *,
    channels: int,
    depths: Sequence[int],
    groups: Sequence[int],
    post_norm: bool = False,
    layer_scale: bool = False,
    offset_scale: float = 1.0,
    depthwise: int = 3,
    res_post_norm: bool = False,
    post_norm_after: Sequence[int] = (),
    center_scale: bool = False,
    clip: tuple[int, int, int] | None = None,
    classes: int = 1000,
) -> Any:
    """The network, random: (n, 3, H, W) -> (n, features), what its classifier reads.

    post_norm, res_post_norm: where a block normalises. post_norm_after: blocks of the third stage that are
    normalised once more. center_scale: mix the unmoved place in. clip: width, heads and output of the head by
    which the two largest sizes pool; None for the convolution and mean of the others.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class First(nn.Module):
        """Channels to the second place; the last ones are in the second place."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 3, 1, 2)

    class Last(nn.Module):
        """Channels to the last place."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    def norm(width: int, *around: nn.Module | None) -> nn.Sequential:
        """Layer norm of the last place; ``around``: what turns the channels before and after, None for it."""
        parts = around or (None,)
        return nn.Sequential(*(nn.LayerNorm(width, eps=1e-6) if p is None else p for p in parts))

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
            self.norm1 = norm(channels // 2, Last(), None, First())
            self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
            self.norm2 = norm(channels, Last(), None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))

    class Downsample(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
            self.norm = norm(2 * width, Last(), None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x.permute(0, 3, 1, 2)))

    class DCNv3(nn.Module):
        """A depth-wise convolution says where to look and how much of each point to take."""

        def __init__(self, width: int, parts: int) -> None:
            super().__init__()
            self.parts = parts
            alone = nn.Conv2d(width, width, depthwise, padding=depthwise // 2, groups=width)
            self.dw_conv = nn.Sequential(alone, norm(width, Last(), None), nn.GELU())
            self.offset = nn.Linear(width, parts * POINTS * 2)
            self.mask = nn.Linear(width, parts * POINTS)
            self.input_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)
            if center_scale:
                self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(parts, width))
                self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(parts))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = self.input_proj(x)
            guide = self.dw_conv(x.permute(0, 3, 1, 2))
            mask = self.mask(guide).unflatten(-1, (self.parts, POINTS)).softmax(dim=-1).flatten(-2)
            made = deformed(seen, self.offset(guide), mask, groups=self.parts, scale=offset_scale)
            if center_scale:
                weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
                share = F.linear(guide, weight, bias).sigmoid()
                share = share.repeat_interleave(x.shape[-1] // self.parts, dim=-1)
                made = made * (1 - share) + seen * share
            return self.output_proj(made)

    class Mlp(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(F.gelu(self.fc1(x)))

    class Layer(nn.Module):
        """DCNv3, then the perceptron, each beside its input."""

        def __init__(self, width: int, parts: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = norm(width), norm(width)
            self.dcn, self.mlp = DCNv3(width, parts), Mlp(width)
            if layer_scale:
                self.gamma1, self.gamma2 = (nn.Parameter(1e-5 * torch.ones(width)) for _ in range(2))
            if res_post_norm:
                self.res_post_norm1, self.res_post_norm2 = norm(width), norm(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for place, inner in ((1, self.dcn), (2, self.mlp)):
                own = getattr(self, f"norm{place}")
                made = own(inner(x)) if post_norm else inner(own(x))
                if res_post_norm:
                    made = getattr(self, f"res_post_norm{place}")(made)
                x = x + (getattr(self, f"gamma{place}") * made if layer_scale else made)
            return x

    class Level(nn.Module):
        def __init__(self, stage: int) -> None:
            super().__init__()
            width = channels * 2**stage
            self.blocks = nn.ModuleList(Layer(width, groups[stage]) for _ in range(depths[stage]))
            if not post_norm or center_scale:
                self.norm = norm(width)
            self.after = tuple(post_norm_after) if stage == 2 else ()
            if self.after:
                self.post_norms = nn.ModuleList(norm(width) for _ in self.after)
            self.downsample = Downsample(width) if stage < len(depths) - 1 else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for place, block in enumerate(self.blocks):
                x = block(x)
                if place in self.after:
                    x = self.post_norms[self.after.index(place)](x)
            return self.norm(x) if hasattr(self, "norm") else x

    class CrossAttention(nn.Module):
        def __init__(self, width: int, heads: int, outside: int) -> None:
            super().__init__()
            self.heads = heads
            for name in "qkv":
                setattr(self, name, nn.Linear(width, width, bias=False))
                setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(width)))
            self.proj = nn.Linear(width, outside)

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            split = []
            for name, x in zip("qkv", given, strict=True):
                made = F.linear(x, getattr(self, name).weight, getattr(self, f"{name}_bias"))
                split.append(made.unflatten(-1, (self.heads, -1)).transpose(1, 2))
            return self.proj(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))

    class AttentionPooling(nn.Module):
        """The mean asks all places."""

        def __init__(self, width: int, heads: int, outside: int) -> None:
            super().__init__()
            self.norm1_q, self.norm1_k, self.norm1_v = norm(width), norm(width), norm(width)
            self.cross_dcn = CrossAttention(width, heads, outside)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(dim=1, keepdim=True)
            return self.cross_dcn(self.norm1_q(mean), self.norm1_k(x), self.norm1_v(x))[:, 0]

    class InternImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            last = channels * 2 ** (len(depths) - 1)
            self.patch_embed = Stem()
            self.levels = nn.ModuleList(Level(stage) for stage in range(len(depths)))
            if clip is None:
                self.num_features = int(1.5 * last)
                pointwise = nn.Conv2d(last, self.num_features, 1, bias=False)
                batch_norm = nn.Sequential(nn.BatchNorm2d(self.num_features))
                self.conv_head = nn.Sequential(pointwise, batch_norm, nn.GELU())
            else:
                width, heads, self.num_features = clip
                self.dcnv3_head_x4 = nn.Sequential(nn.Conv2d(last, 4 * width, 1), nn.PixelShuffle(2))
                self.dcnv3_head_x3 = nn.Conv2d(last // 2, width, 1)
                self.clip_projector = AttentionPooling(width, heads, self.num_features)
                self.fc_norm = norm(self.num_features)
            self.head = nn.Linear(self.num_features, classes)

        def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
            """What each stage gave, (n, c, h, w), fine to coarse."""
            x, made = self.patch_embed(x), []
            for level in self.levels:
                x = level(x)
                made.append(x.permute(0, 3, 1, 2))
                if isinstance(level.downsample, nn.Module):
                    x = level.downsample(x)
            return made

        def pooled(self, maps: list[torch.Tensor]) -> torch.Tensor:
            if clip is None:
                return self.conv_head(maps[-1]).mean(dim=(2, 3))
            joined = self.dcnv3_head_x4(maps[-1]) + self.dcnv3_head_x3(maps[-2])
            return self.fc_norm(self.clip_projector(joined.flatten(2).transpose(1, 2)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pooled(self.maps(x))

        def read_level(self, x: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            maps = self.maps(x)
            if level == "pooled":
                return (self.pooled(maps),)
            return (maps[-1],) if level == "tokens" else tuple(maps)

    return InternImage().eval()

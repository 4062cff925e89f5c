"""PCT-Net: convolutions beside windowed attention at every scale, down and up again.

Wang et al. 2023 (MIS-FM, arXiv:2306.16925), with the names of parameters of the published checkpoints. Its
attention is Swin's (Liu et al., arXiv:2103.14030) in three dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FLAT = ((False, False), (True, False), (True, True))
"""Of each way of embedding: whether the first and the second scale are convolved in-plane alone."""
SCALES = ((4, 4, 4), (2, 4, 4), (1, 4, 4))
"""By how much each of them shrinks a volume."""
BETWEEN = -100.0
"""Added where two voxels were brought into one window from opposite sides."""


def network(
    *,
    channels: Sequence[int] = (24, 48, 128, 256, 512),
    size: Sequence[int] = (64, 128, 128),
    heads: Sequence[int] = (4, 8, 16),
    windows: Sequence[int] = (6, 6, 6),
    blocks: Sequence[int] = (2, 2, 2),
    mode: int = 1,
) -> Any:
    """The network, random: volumes (n, 1, Z, Y, X) -> (n, last channels) means of the coarsest scale.

    channels: of the five scales. size: voxels it was made for, which decide where windows are as large as
    everything; others may be shown. heads, windows, blocks: of attention at the three coarser scales. mode:
    the way of embedding that is used, 1 for slices about twice as thick as pixels are wide.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    def convolution(inside: int, outside: int, *, flat: bool) -> nn.Conv3d:
        reach = (0, 1, 1) if flat else (1, 1, 1)
        return nn.Conv3d(inside, outside, (1, 3, 3) if flat else 3, padding=reach)

    def before(inside: int, inner: nn.Module) -> nn.Sequential:
        """Batch norm and PReLU, then the layer."""
        return nn.Sequential(nn.BatchNorm3d(inside), nn.PReLU(), inner)

    class ConvBlock(nn.Module):
        def __init__(self, width: int, *, flat: bool) -> None:
            super().__init__()
            first = before(width, convolution(width, width, flat=flat))
            after = before(width, convolution(width, width, flat=flat))
            drop = nn.Identity()  # where it was trained with dropout
            self.conv_conv = nn.Sequential(*first, after[0], after[1], drop, after[2])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv_conv(x)

    class DownSample(nn.Module):
        def __init__(self, inside: int, outside: int, *, flat: bool, convolved_flat: bool) -> None:
            super().__init__()
            self.pool = nn.MaxPool3d((1, 2, 2) if flat else 2)
            self.conv = before(inside, convolution(inside, outside, flat=convolved_flat))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.pool(x))

    class UpCatBlock(nn.Module):
        """The coarser scale enlarged, beside the finer one, convolved."""

        def __init__(self, fine: int, coarse: int, *, flat: bool, convolved_flat: bool) -> None:
            super().__init__()
            step: Any = (1, 2, 2) if flat else 2
            self.up = before(coarse, nn.ConvTranspose3d(coarse, fine, step, stride=step))
            self.conv = before(2 * fine, convolution(2 * fine, fine, flat=convolved_flat))

        def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.cat([fine, self.up(coarse)], dim=1))

    class Embedding(nn.Module):
        """The two finest scales, by convolutions alone, and what enters the third."""

        def __init__(self, first: bool, second: bool) -> None:
            super().__init__()
            fine, middle, coarse = channels[:3]
            self.proj = convolution(1, fine, flat=first)
            self.conv0, self.conv1 = ConvBlock(fine, flat=first), ConvBlock(middle, flat=second)
            self.down1 = DownSample(fine, middle, flat=first, convolved_flat=second)
            self.down2 = DownSample(middle, coarse, flat=second, convolved_flat=False)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            first = self.conv0(self.proj(x))
            second = self.conv1(self.down1(first))
            return [first, second, self.down2(second)]

    class Head(nn.Module):
        """Up to the finest scale."""

        def __init__(self, first: bool, second: bool) -> None:
            super().__init__()
            fine, middle, coarse = channels[:3]
            self.up1 = UpCatBlock(fine, middle, flat=first, convolved_flat=first)
            self.up2 = UpCatBlock(middle, coarse, flat=second, convolved_flat=second)
            self.conv0, self.conv1 = ConvBlock(fine, flat=first), ConvBlock(middle, flat=second)

        def forward(self, first: torch.Tensor, second: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self.conv0(self.up1(first, self.conv1(self.up2(second, x))))

    class WindowAttention(nn.Module):
        """Attention inside a cube of voxels, with a bias for each step from one voxel to another."""

        relative_position_index: torch.Tensor

        def __init__(self, width: int, window: int, count: int) -> None:
            super().__init__()
            self.count = count
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 3, count))
            reach = torch.arange(window)
            places = torch.cartesian_prod(reach, reach, reach)
            steps = places[:, None] - places[None] + window - 1
            # the factor of the first axis is the makers' own: some steps share a bias
            index = (steps * torch.tensor([3 * window - 1, 2 * window - 1, 1])).sum(dim=-1)
            self.register_buffer("relative_position_index", index)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: torch.Tensor, apart: torch.Tensor | None) -> torch.Tensor:
            number, places, width = x.shape
            split = self.qkv(x).reshape(number, places, 3, self.count, -1).permute(2, 0, 3, 1, 4)
            bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
            if apart is not None:
                bias = (bias + apart[:, None]).repeat(number // len(apart), 1, 1, 1)
            seen = F.scaled_dot_product_attention(*split, attn_mask=bias)
            return self.proj(seen.transpose(1, 2).reshape(number, places, width))

    class Mlp(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc2(F.gelu(self.fc1(x)))

    def cut(x: torch.Tensor, window: int) -> torch.Tensor:
        """(n, Z, Y, X, C) -> (windows, places, C)."""
        n, z, y, w, c = x.shape
        x = x.reshape(n, z // window, window, y // window, window, w // window, window, c)
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window**3, c)

    def joined(x: torch.Tensor, window: int, shape: Sequence[int]) -> torch.Tensor:
        n, z, y, w = shape
        x = x.reshape(n, z // window, y // window, w // window, window, window, window, -1)
        return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(n, z, y, w, -1)

    def apart(shape: Sequence[int], window: int, shift: int, like: torch.Tensor) -> torch.Tensor:
        """(windows, places, places): what is added between voxels that the shift made neighbours."""
        whole = torch.zeros(1, *shape, 1, dtype=like.dtype, device=like.device)
        for axis, length in enumerate(shape):
            number = torch.zeros(length, dtype=like.dtype, device=like.device)
            number[length - window : length - shift], number[length - shift :] = 1, 2
            sides = [1, 1, 1, 1, 1]
            sides[axis + 1] = length
            whole = whole + 3**axis * number.reshape(sides)
        part = cut(whole, window)[..., 0]
        return (part[:, None] != part[:, :, None]).to(like.dtype) * BETWEEN

    class SwinBlock(nn.Module):
        def __init__(self, width: int, count: int, window: int, shift: int) -> None:
            super().__init__()
            self.window, self.shift = window, shift
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn, self.mlp = WindowAttention(width, window, count), Mlp(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept, (_, z, y, w, _) = x, x.shape
            x = self.norm1(x)
            rest = [-length % self.window for length in (z, y, w)]
            x = F.pad(x, (0, 0, 0, rest[2], 0, rest[1], 0, rest[0]))
            shape, mask = x.shape[:4], None
            if self.shift:
                x = torch.roll(x, (-self.shift,) * 3, dims=(1, 2, 3))
                mask = apart(shape[1:], self.window, self.shift, x)
            x = joined(self.attn(cut(x, self.window), mask), self.window, shape)
            if self.shift:
                x = torch.roll(x, (self.shift,) * 3, dims=(1, 2, 3))
            x = kept + x[:, :z, :y, :w]
            return x + self.mlp(self.norm2(x))

    class Layers(nn.Module):
        def __init__(self, width: int, scale: int) -> None:
            super().__init__()
            least = min(n // s // 2**scale for n, s in zip(size, SCALES[mode], strict=True))
            window = min(windows[scale], least)
            shift = windows[scale] // 2 if least > windows[scale] else 0
            self.blocks = nn.ModuleList(
                SwinBlock(width, heads[scale], window, shift if i % 2 else 0) for i in range(blocks[scale])
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.permute(0, 2, 3, 4, 1)
            for block in self.blocks:
                x = block(x)
            return x.permute(0, 4, 1, 2, 3)

    class ConvTrans(nn.Module):
        """The sum of what convolutions and attention see."""

        def __init__(self, scale: int) -> None:
            super().__init__()
            width = channels[2 + scale]
            self.conv, self.trans = ConvBlock(width, flat=False), Layers(width, scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.trans(x)

    class Pyramid(nn.Module):
        """The three coarser scales, down and up."""

        def __init__(self) -> None:
            super().__init__()
            deep = {"flat": False, "convolved_flat": False}
            self.down3, self.down4 = (DownSample(*channels[i : i + 2], **deep) for i in (2, 3))
            self.up3, self.up4 = (UpCatBlock(*channels[i : i + 2], **deep) for i in (2, 3))
            self.convtrans_e2, self.convtrans_e3, self.convtrans_e4 = (ConvTrans(i) for i in range(3))
            self.convtrans_d2, self.convtrans_d3 = (ConvTrans(i) for i in range(2))

        def down(self, x: torch.Tensor) -> list[torch.Tensor]:
            second = self.convtrans_e2(x)
            third = self.convtrans_e3(self.down3(second))
            return [second, third, self.convtrans_e4(self.down4(third))]

        def up(self, second: torch.Tensor, third: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            third = self.convtrans_d3(self.up4(third, x))
            return self.convtrans_d2(self.up3(second, third))

    class PCTNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList(Embedding(*flat) for flat in FLAT)
            self.pyramid_ct = Pyramid()
            self.pred_heads = nn.ModuleList(Head(*flat) for flat in FLAT)
            self.num_features = channels[-1]

        def scales(self, volume: torch.Tensor) -> list[torch.Tensor]:
            """The five scales on the way down, fine to coarse."""
            *fine, third = self.embeddings[mode](volume)
            return [*fine, *self.pyramid_ct.down(third)]

        def decoded(self, scales: Sequence[torch.Tensor]) -> torch.Tensor:
            """(n, first channels, Z, Y, X), from which a convolution makes labels."""
            return self.pred_heads[mode](*scales[:2], self.pyramid_ct.up(*scales[2:]))

        def forward(self, volume: torch.Tensor) -> torch.Tensor:
            return self.scales(volume)[-1].mean(dim=(2, 3, 4))

        def read_level(self, volume: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            made = self.scales(volume)
            if level == "pooled":
                return (made[-1].mean(dim=(2, 3, 4)),)
            return (made[-1],) if level == "tokens" else tuple(made[1:])

    return PCTNet().eval()

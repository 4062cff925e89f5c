"""The 3-D ResNets of Med3D, dilated instead of shrunk in their last two stages.

Chen, Ma and Zheng 2019 (arXiv:1904.00625), with the names of parameters of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

STAGES = ((1, 1), (2, 1), (1, 2), (1, 4))
"""Stride and dilation of each stage."""


def network(blocks: Sequence[int], *, bottleneck: bool, projected: bool, width: int = 64) -> Any:
    """The network, random: volumes (n, 1, Z, Y, X) -> (n, channels) means over all places.

    blocks: of each of the four stages. bottleneck: blocks of three convolutions, which widen four times.
    projected: where a block changes its shape the shortcut is a convolution ("B"), else the input thinned out
    and padded with channels of zeros ("A").
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    def convolution(inside: int, outside: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
        reach = dilation * (kernel // 2)
        return nn.Conv3d(inside, outside, kernel, stride, reach, dilation, bias=False)

    class PaddedShortcut(nn.Module):
        """Every stride-th voxel, and channels of zeros behind; it has no weights."""

        def __init__(self, outside: int, stride: int) -> None:
            super().__init__()
            self.outside, self.stride = outside, stride

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            step = self.stride
            x = x[:, :, ::step, ::step, ::step]
            return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.outside - x.shape[1]))

    class Block(nn.Module):
        """Convolutions with batch norm around a shortcut; the stride sits on the first of size 3."""

        def __init__(self, inside: int, narrow: int, stride: int, dilation: int, *, first: bool) -> None:
            super().__init__()
            outside = narrow * (4 if bottleneck else 1)
            kernels = ((1, 1, 1), (3, stride, dilation), (1, 1, 1))
            if not bottleneck:
                kernels = ((3, stride, dilation), (3, 1, dilation))
            channels = [inside] + [narrow] * (len(kernels) - 1) + [outside]
            self.count = len(kernels)
            for place, (kernel, step, reach) in enumerate(kernels):
                made = convolution(channels[place], channels[place + 1], kernel, step, reach)
                setattr(self, f"conv{place + 1}", made)
                setattr(self, f"bn{place + 1}", nn.BatchNorm3d(channels[place + 1]))
            self.downsample: nn.Module | None = None
            if first and (stride != 1 or inside != outside):
                own = nn.Sequential(convolution(inside, outside, 1, stride), nn.BatchNorm3d(outside))
                self.downsample = own if projected else PaddedShortcut(outside, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x if self.downsample is None else self.downsample(x)
            for place in range(1, self.count + 1):
                x = getattr(self, f"bn{place}")(getattr(self, f"conv{place}")(x))
                if place < self.count:
                    x = torch.relu(x)
            return torch.relu(x + kept)

    class ResNet(nn.Module):
        """The trunk; tokens are its last map and maps its four stages, as (n, c, z, y, x)."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv3d(1, width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm3d(width)
            self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
            inside = width
            for stage, (stride, dilation) in enumerate(STAGES):
                narrow = width * 2**stage
                made = []
                for place in range(blocks[stage]):
                    step, first = (stride, True) if place == 0 else (1, False)
                    made.append(Block(inside, narrow, step, dilation, first=first))
                    inside = narrow * (4 if bottleneck else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
            self.num_features = inside

        def stages(self, volume: torch.Tensor) -> list[torch.Tensor]:
            x = self.maxpool(torch.relu(self.bn1(self.conv1(volume))))
            made = []
            for stage in range(1, len(STAGES) + 1):
                x = getattr(self, f"layer{stage}")(x)
                made.append(x)
            return made

        def forward(self, volume: torch.Tensor) -> torch.Tensor:
            return self.stages(volume)[-1].mean(dim=(2, 3, 4))

        def read_level(self, volume: torch.Tensor, level: str) -> tuple[torch.Tensor, ...]:
            if level == "pooled":
                return (self(volume),)
            made = self.stages(volume)
            return (made[-1],) if level == "tokens" else tuple(made)

    return ResNet().eval()

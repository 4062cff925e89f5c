"""STU-Net: nnU-Net's network of residual blocks, made larger in depth and width together.

Huang et al. 2023 (arXiv:2304.06716). Four sizes outline the 104 structures of TotalSegmentator in CT; the
names of parameters are those of the published files, which are checkpoints of nnU-Net's first version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medspectrum.card import Card
from medspectrum.models._network_row import network_row
from medspectrum.models._published import Published

POOLS = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))
"""Steps between the stages, of the published plans."""
OUTPUTS = 105
"""The structures and the background."""
SIZES = {
    # depth of each stage, width of the first, parameters, 10^9 operations on 128^3, MB of the file
    "s": (1, 16, 14_596_941, 257.8, 117),
    "b": (1, 32, 58_262_669, 1013.3, 467),
    "l": (2, 64, 440_302_605, 7641.6, 3520),
    "h": (3, 96, 1_457_326_221, 25_320.4, 11_700),
}
FILES = {"s": "small", "b": "base", "l": "large", "h": "huge"}


def widths(first: int) -> tuple[int, ...]:
    """Channels of the six stages."""
    return tuple(first * factor for factor in (1, 2, 4, 8, 16, 16))


def network(
    *,
    depth: int,
    dims: Sequence[int],
    outputs: int = OUTPUTS,
    channels: int = 1,
    pools: Sequence[Sequence[int]] = POOLS,
) -> Any:
    """The network, random: volumes (n, channels, Z, Y, X) -> logits (n, outputs, Z, Y, X).

    depth: residual blocks per stage. dims: channels of each stage. pools: steps between them; each side of
    the input is a multiple of the product of its axis.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class BasicResBlock(nn.Module):
        """Twice a 3 x 3 x 3 convolution and instance norm, around them the input or its projection."""

        def __init__(
            self, inside: int, outside: int, stride: Sequence[int] = (1, 1, 1), *, first: bool
        ) -> None:
            super().__init__()
            step: Any = tuple(stride)
            self.conv1 = nn.Conv3d(inside, outside, 3, stride=step, padding=1)
            self.norm1 = nn.InstanceNorm3d(outside, affine=True)
            self.conv2 = nn.Conv3d(outside, outside, 3, padding=1)
            self.norm2 = nn.InstanceNorm3d(outside, affine=True)
            self.conv3 = nn.Conv3d(inside, outside, 1, stride=step) if first else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x if self.conv3 is None else self.conv3(x)
            x = F.leaky_relu(self.norm1(self.conv1(x)))
            return F.leaky_relu(self.norm2(self.conv2(x)) + kept)

    class NearestUpsampling(nn.Module):
        """Voxels repeated, then mixed to fewer channels."""

        def __init__(self, inside: int, outside: int, factor: Sequence[int]) -> None:
            super().__init__()
            self.conv = nn.Conv3d(inside, outside, 1)
            self.factor = tuple(float(f) for f in factor)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(F.interpolate(x, scale_factor=self.factor, mode="nearest"))

    def stage(inside: int, outside: int, stride: Sequence[int] = (1, 1, 1)) -> nn.Sequential:
        after = (BasicResBlock(outside, outside, first=False) for _ in range(depth - 1))
        return nn.Sequential(BasicResBlock(inside, outside, stride, first=True), *after)

    class STUNet(nn.Module):
        """Down through the context blocks, up through the localisation blocks, logits at every scale."""

        def __init__(self) -> None:
            super().__init__()
            down = [stage(channels, dims[0])]
            down += [stage(dims[i], dims[i + 1], pool) for i, pool in enumerate(pools)]
            up = range(len(pools) - 1, -1, -1)
            self.conv_blocks_context = nn.ModuleList(down)
            self.upsample_layers = nn.ModuleList(
                NearestUpsampling(dims[i + 1], dims[i], pools[i]) for i in up
            )
            self.conv_blocks_localization = nn.ModuleList(stage(2 * dims[i], dims[i]) for i in up)
            self.seg_outputs = nn.ModuleList(nn.Conv3d(dims[i], outputs, 1) for i in up)

        def scales(self, x: torch.Tensor) -> list[torch.Tensor]:
            """What the decoder sees at each scale, coarse to fine."""
            passed, made = [], []
            for block in self.conv_blocks_context[:-1]:
                x = block(x)
                passed.append(x)
            x = self.conv_blocks_context[-1](x)
            for enlarge, block in zip(self.upsample_layers, self.conv_blocks_localization, strict=True):
                x = block(torch.cat([enlarge(x), passed.pop()], dim=1))
                made.append(x)
            return made

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.seg_outputs[-1](self.scales(x)[-1])

    return STUNet().eval()


for _size, (_depth, _first, _parameters, _gflops, _megabytes) in SIZES.items():
    _file = f"{FILES[_size]}_ep4k.model"
    network_row(
        Card(
            name=f"stu-net-{_size}",
            level="modality",
            modality="CT",
            organ="any",
            dims=3,
            tasks=("segment",),
            licence="Apache-2.0",
            commercial_use=True,
            source=f"https://huggingface.co/ziyanhuang/STU-Net, file {_file}",
            status="conforms",
            parameters=_parameters,
            width=0,
            input_size=(128, 128, 128),
            mean=(0.0,),
            std=(1.0,),
            stride=32,
            citation="Huang et al. 2023, arXiv:2304.06716",
            notes="voxels of 1.5 mm; each volume less its mean, over its standard deviation",
            weights=f"hf:ziyanhuang/STU-Net/{_file}",
            download_mb=_megabytes,
            file_format="nnunet",
            gflops=_gflops,
            code_licence="Apache-2.0",
            training_data="TotalSegmentator, 1204 CT with 104 structures",
            overlaps=("TotalSegmentator",),
        ),
        Published(build=network, settings={"depth": _depth, "dims": widths(_first)}),
        f"104 structures of the body outlined in CT, size {_size.upper()}.",
    )

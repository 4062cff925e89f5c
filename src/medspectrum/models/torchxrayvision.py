"""TorchXRayVision's DenseNet-121s: chest X-rays of one collection or of many (Cohen et al., MIDL 2022).

Its makers saved the networks whole, as pickles of their classes; the tensors are read without building them.
Pictures are grey and go from -1024 to 1024, as theirs do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.weights_file import UnsafeFile, tensors_of
from medspectrum.models import _placed
from medspectrum.models._published import Published, Tensors

_ADDRESS = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_ENDING = "-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"

ALL = Card(
    name="xrv-densenet121-all",
    level="modality",
    modality="DX",
    organ="chest",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0 for the code and its release of weights; some training sets are not for commerce",
    commercial_use=False,
    source="release v1 of github.com/mlmed/torchxrayvision",
    status="conforms",
    parameters=6_966_034,
    width=1024,
    input_size=(224, 224),
    mean=(0.5,),
    std=(0.5 / 1024,),
    stride=32,
    citation="Cohen et al. 2022, arXiv:2111.00595",
    weights=_ADDRESS + "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121" + _ENDING,
    file_format="pytorch",
    gflops=5.5,
    code_licence="Apache-2.0",
    training_data="NIH ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, Google's NIH labels, OpenI, RSNA",
    overlaps=("NIH ChestX-ray14", "PadChest", "CheXpert", "MIMIC-CXR", "OpenI", "RSNA pneumonia"),
)
_SETS = {
    "nih": ("nih", "NIH ChestX-ray14"),
    "pc": ("pc", "PadChest"),
    "chex": ("chex", "CheXpert"),
    "rsna": ("kaggle", "RSNA pneumonia"),
    "mimic-nb": ("mimic_nb", "MIMIC-CXR"),
    "mimic-ch": ("mimic_ch", "MIMIC-CXR"),
}
CARDS = [
    ALL,
    *(
        replace(
            ALL,
            name=f"xrv-densenet121-{short}",
            weights=f"{_ADDRESS}{file}-densenet121{_ENDING}",
            training_data=named,
            overlaps=(named,),
        )
        for short, (file, named) in _SETS.items()
    ),
]


def network(*, growth: int = 32, blocks: Sequence[int] = (6, 12, 24, 16), labels: int = 18) -> Any:
    """The network with its classifier, random: grey pictures (n, 1, h, w) -> (n, labels) logits."""
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=growth, block_config=tuple(blocks), num_classes=labels, in_chans=1).eval()


def read(path: Path) -> Tensors:
    """The tensors: of a state dict, or of a network that its makers saved whole."""
    from medspectrum.engine.module_file import module_tensors

    try:
        return tensors_of(path)
    except UnsafeFile:
        return module_tensors(path, packages=("torchxrayvision",))


def renamed(state: Tensors) -> Tensors:
    """The makers' names are timm's; the thresholds of their scale are left out."""
    return {k: v for k, v in state.items() if k != "op_threshs"}


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the classifier sees, and its logits."""
    maps = made.forward_features(given["pictures"])
    return {"pooled": made.forward_head(maps, pre_logits=True), "logits": made.forward_head(maps)}


def reader(made: Any, size: tuple[int, ...]) -> Any:  # noqa: ARG001 - convolutions take any
    """The network without its classifier; tokens are its last map, maps those of the four blocks."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = made.features

        def stages(self, pictures: Any) -> list[Any]:
            found = []
            for name, part in self.features.named_children():
                pictures = part(pictures)
                if name.startswith("denseblock"):
                    found.append(pictures)
            return [*found[:-1], pictures]

        def forward(self, pictures: Any) -> Any:
            return self.stages(pictures)[-1].mean(dim=(2, 3))

        def read_level(self, pictures: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(pictures),)
            maps = self.stages(pictures)
            return (maps[-1],) if level == "tokens" else tuple(maps)

    return Features().eval()


def _fake(folder: Path, settings: Mapping[str, Any]) -> Path:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(network(**settings).state_dict(), folder / "small.pt")
    return folder / "small.pt"


SMALL = {"growth": 8, "blocks": (1, 1, 1, 1), "labels": 3}
for _card in CARDS:
    _placed.enter(
        _card,
        Published(
            build=network,
            renamed=renamed,
            answer=answer,
            read=read,
            fake=partial(_fake, settings=SMALL),
            small=SMALL,
            library="timm",
        ),
        summary=f"Chest X-rays ({_card.training_data.split(',')[0]}{' and others' if _card is ALL else ''}): "
        "7 million parameters, 1024 features.",
        module=__name__,
        reader=reader,
        small_width=17,
        small_size=(64, 64),
    )

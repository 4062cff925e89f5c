"""CT-FM: CT of the whole body by contrast within volumes (Pai et al. 2025), MONAI's SegResNet encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._published import Published
from medspectrum.models._towers import only
from medspectrum.models._volumes import stages, taking

CARD = Card(
    name="ct-fm",
    level="modality",
    modality="CT",
    organ="any",
    dims=3,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="Hugging Face project-lighter/ct_fm_feature_extractor",
    status="loads",
    parameters=77_760_992,
    width=512,
    input_size=(96, 128, 128),
    mean=(0.0,),
    std=(1.0,),
    stride=16,
    extra="segment",
    citation="Pai et al. 2025, arXiv:2501.09001",
    notes="window -1024 to 2048 HU; axes go to superior, posterior, left",
    weights="hf:project-lighter/ct_fm_feature_extractor/model.safetensors",
    file_format="safetensors",
    code_licence="MIT",
    training_data="148,000 CT scans of the Imaging Data Commons, without labels",
)
SMALL = {"width": 8, "blocks": (1, 1, 1)}


def network(*, width: int = 32, blocks: Sequence[int] = (1, 2, 2, 4, 4)) -> Any:
    """MONAI's encoder, random. blocks: of each stage."""
    from monai.networks.nets.segresnet_ds import SegResEncoder

    return SegResEncoder(
        spatial_dims=3, init_filters=width, in_channels=1, blocks_down=tuple(blocks), head_module=None
    ).eval()


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The last map of volumes."""
    return {"last": made(given["volumes"])[-1]}


def reader(made: Any, size: tuple[int, ...]) -> Any:  # noqa: ARG001 - any size will do
    """The encoder, shown volumes as it learned them."""

    def turned(volume: Any) -> Any:
        return volume.flip((-2, -1))

    module = stages(lambda volume: list(made(volume)), turned, turned)
    module.encoder = made
    return module.eval()


def _fake(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(network(**SMALL).state_dict(), folder / "small.safetensors")  # type: ignore[arg-type]
    return folder / "small.safetensors"


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=only("encoder."),
        answer=answer,
        fake=_fake,
        small=SMALL,
        library="monai",
    ),
    summary="CT volumes of the whole body, convolutional: 78 million parameters, 512 features.",
    module=__name__,
    reader=reader,
    small_width=32,
    small_size=(32, 32, 32),
    own_input=taking("ct-fm", (-1024.0, 2048.0)),
)

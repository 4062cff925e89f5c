"""SwinUNETR after self-supervision: MONAI's own (Tang et al., CVPR 2022), VoCo (Wu et al., CVPR 2024).

The first file holds the encoder alone, under older names; VoCo's holds the whole network, trained with and
without labels (VoComni). Both saw cubes of 96 voxels at 1.5 mm; here a whole volume is fitted into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._published import Published, Tensors
from medspectrum.models._towers import saved
from medspectrum.models._volumes import stages, taking

SSL = Card(
    name="swinunetr-ssl",
    level="modality",
    modality="CT",
    organ="any",
    dims=3,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="MONAI's release model_swinvit.pt",
    status="loads",
    parameters=8_062_002,
    width=768,
    input_size=(96, 96, 96),
    mean=(0.0,),
    std=(1.0,),
    stride=32,
    extra="segment",
    citation="Tang et al. 2022, arXiv:2111.14791",
    notes="window -1000 to 1000 HU",
    weights="https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt",
    file_format="pytorch",
    code_licence="Apache-2.0",
    training_data="5,050 CT volumes of five public collections, without labels",
    overlaps=("LUNA16", "TCIA CT Colonography", "TCIA LIDC", "HNSCC", "TCIA COVID-19"),
)
VOCO = replace(
    SSL,
    name="voco-b",
    licence="that of its page on the Hub; read it there",
    commercial_use=False,
    source="Hugging Face Luffy503/VoCo",
    parameters=72_762_999,
    citation="Wu et al. 2024, arXiv:2402.17300 and arXiv:2410.09890",
    notes="VoComni_B: window -175 to 250 HU; its decoder for 21 classes is loaded too",
    weights="hf:Luffy503/VoCo/VoComni_B.pt",
    download_mb=299.0,
    code_licence="Apache-2.0",
    training_data="PreCT-160K: 160,000 CT volumes of public collections, a part of them with labels",
    overlaps=("BTCV", "AMOS", "WORD", "FLARE", "TotalSegmentator", "MSD"),
)


def network(
    *,
    width: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    labels: int = 21,
    residual: bool = True,
    encoder_alone: bool = False,
) -> Any:
    """MONAI's network, random. residual: with convolutions between the stages (its second version)."""
    import torch
    from monai.networks.nets.swin_unetr import SwinUNETR

    device = torch.get_default_device()
    with torch.device("cpu"):  # MONAI asks tensors for numbers, which those of the meta device have not
        made = SwinUNETR(
            in_channels=1,
            out_channels=labels,
            feature_size=width,
            depths=tuple(depths),
            num_heads=tuple(heads),
            use_v2=residual,
        )
    return (made.swinViT if encoder_alone else made).eval().to(device)


def encoder_renamed(state: Tensors) -> Tensors:
    """Older names of the encoder; what its pretext tasks used is left out."""
    kept = {k: v for k, v in state.items() if k.startswith(("patch_embed.", "layers"))}
    return {k.replace(".mlp.fc", ".mlp.linear"): v for k, v in kept.items()}


def whole_renamed(state: Tensors) -> Tensors:
    """VoCo's file under MONAI's names."""
    return {k.removeprefix("backbone.").replace("swin_vit", "swinViT"): v for k, v in state.items()}


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's last map of volumes (n, 1, X, Y, Z)."""
    return {"last": getattr(made, "swinViT", made)(given["volumes"])[-1]}


def reader(made: Any, size: tuple[int, ...]) -> Any:  # noqa: ARG001 - any size will do
    """The encoder; MONAI's volumes go X, Y, Z."""
    encoder = getattr(made, "swinViT", made)

    def turned(volume: Any) -> Any:
        return volume.permute(0, 1, 4, 3, 2)

    module = stages(lambda volume: list(encoder(volume)), turned, turned)
    module.encoder = encoder
    return module.eval()


def _fake(folder: Path, settings: Mapping[str, Any], older: bool) -> Path:
    """A file that MONAI's network saved, in the published layout."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = network(**settings).state_dict()
    if older:
        state = {"module." + k.replace("mlp.linear", "mlp.fc"): v for k, v in state.items()}
    return saved({"state_dict": state}, folder / "small.pt")


SMALL = {"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 2, 4, 8), "labels": 3}
_ALONE = {"residual": False, "encoder_alone": True}
for _card, _own, _renamed, _window in (
    (SSL, _ALONE, encoder_renamed, (-1000.0, 1000.0)),
    (VOCO, {}, whole_renamed, (-175.0, 250.0)),
):
    _placed.enter(
        _card,
        Published(
            build=network,
            settings=_own,
            renamed=_renamed,
            answer=answer,
            fake=partial(_fake, settings={**SMALL, **_own}, older=bool(_own)),
            small=SMALL,
            library="monai",
        ),
        summary=f"CT volumes, shifted windows: {_card.parameters // 10**6} million parameters, 768 features.",
        module=__name__,
        reader=reader,
        small_width=192,
        small_size=(32, 32, 32),
        own_input=taking(_card.name, _window),
    )

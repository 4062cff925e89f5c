"""BiomedCLIP: figures of articles and their captions, the image half (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed, _timm
from medspectrum.models._published import Published
from medspectrum.models._towers import CLIP_MEAN, CLIP_STD, only, saved, tower

SMALL = {"architecture": "test_vit", "embed": 16, "side": 64}

CARD = Card(
    name="biomedclip",
    level="modality",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="MIT",
    commercial_use=True,
    source="Hugging Face microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    status="loads",
    parameters=86_191_872,
    width=512,
    input_size=(224, 224),
    mean=CLIP_MEAN,
    std=CLIP_STD,
    stride=16,
    extra="clip",
    citation="Zhang et al. 2023, arXiv:2303.00915",
    notes="the image half; its text half (PubMedBERT) is left in the file",
    weights="hf:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224/open_clip_pytorch_model.bin",
    file_format="pytorch",
    gflops=35.1,
    training_data="PMC-15M: 15 million figures with captions of articles in PubMed Central",
    overlaps=("figures of open articles, of public test sets among them",),
)


def network(*, architecture: str = "vit_base_patch16_224", embed: int = 512, side: int = 224) -> Any:
    """open_clip's adapter of a timm transformer with a linear projection."""
    from open_clip.timm_model import TimmModel

    return TimmModel(architecture, embed, image_size=side, pool="", proj="linear").eval()


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings of pictures (n, 3, h, w)."""
    return {"pooled": made(given["pictures"])}


def reader(made: Any, size: tuple[int, ...]) -> Any:
    """The embedding, at that side."""
    made.trunk = _timm.at_size(made.trunk, size[0], native=made.image_size[0])
    return tower(made, made.trunk, made)


def _fake(folder: Path) -> Path:
    """As published: this half under ``visual.``, beside another that reads text."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = {f"visual.{k}": v for k, v in network(**SMALL).state_dict().items()}
    return saved(
        {**state, "text.proj.weight": torch.zeros(2, 2), "logit_scale": torch.ones(())}, folder / "s"
    )


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=only("visual."),
        answer=answer,
        fake=_fake,
        small=SMALL,
        library="open_clip",
    ),
    summary="Biomedical figures with text: 86 million parameters, 512 features.",
    module=__name__,
    reader=reader,
    small_width=16,
    small_size=(64, 64),
)

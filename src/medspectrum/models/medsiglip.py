"""MedSigLIP: medical pictures and their texts by SigLIP's network, the image half (Sellergren et al.)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._published import Published
from medspectrum.models._towers import only

CARD = Card(
    name="medsiglip",
    level="modality",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Health AI Developer Foundations terms of use",
    commercial_use=False,
    source="Hugging Face google/medsiglip-448, once its terms are agreed to",
    status="loads",
    parameters=428_565_440,
    width=1152,
    input_size=(448, 448),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stride=14,
    citation="Sellergren et al. 2025, arXiv:2507.05201",
    notes="the image half; its text half is left in the file. Its terms say what commerce may do",
    weights="hf:google/medsiglip-448/model.safetensors",
    file_format="safetensors",
    gated=True,
    gflops=979.2,
    training_data="635,000 medical pictures with texts and 32.6 million patches of histology, beside WebLI",
)
SMALL = {"width": 32, "inner": 64, "layers": 4, "heads": 2, "side": 28}


def network(
    *,
    width: int = 1152,
    inner: int = 4304,
    layers: int = 27,
    heads: int = 16,
    side: int = 448,
    patch: int = 14,
) -> Any:
    """Transformers' image half, random."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=side,
        patch_size=patch,
    )
    return SiglipVisionModel(config).eval()


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings of pictures (n, 3, h, w)."""
    return {"pooled": made(pixel_values=given["pictures"]).pooler_output}


def reader(made: Any, size: tuple[int, ...]) -> Any:
    """The embedding; tokens are the last states' grid, maps those of four layers."""
    import torch

    side, patch = size[0], made.config.patch_size
    other = {"interpolate_pos_encoding": True} if side != made.config.image_size else {}

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = made

        def forward(self, pictures: Any) -> Any:
            return self.inner(pixel_values=pictures, **other).pooler_output

        def read_level(self, pictures: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(pictures),)
            said = self.inner(pixel_values=pictures, output_hidden_states=level == "maps", **other)
            edge = side // patch
            if level == "tokens":
                return (said.last_hidden_state.transpose(1, 2).unflatten(2, (edge, edge)),)
            states = said.hidden_states
            depth = len(states) - 1
            places = sorted({max(1, round(depth * (i + 1) / 4)) for i in range(4)})
            return tuple(states[p].transpose(1, 2).unflatten(2, (edge, edge)) for p in places)

    return Seen().eval()


def _fake(folder: Path) -> Path:
    """The whole network, both halves, as the library saves it."""
    import torch
    from transformers import SiglipConfig, SiglipModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    made = network(**SMALL).config
    read = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "max_position_embeddings": 8,
        "projection_size": 32,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = SiglipModel(SiglipConfig(vision_config=made.to_dict(), text_config=read))
    whole.save_pretrained(str(folder / "saved"))
    return folder / "saved" / "model.safetensors"


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=only("vision_model."),
        answer=answer,
        fake=_fake,
        small=SMALL,
        library="transformers",
    ),
    summary="Medical images with text: 429 million parameters, 1152 features.",
    module=__name__,
    reader=reader,
    small_width=32,
    small_size=(28, 28),
)

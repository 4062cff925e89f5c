"""DETR: things found as a set by a transformer over a ResNet-50 (Carion et al., ECCV 2020), trained on COCO.

As a row of the spectrum it serves what its encoder saw: the mean of the tokens, their grid, and the maps of
the ResNet's stages. Learning to detect on one's own boxes is the method ``detr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._published import Published, Tensors

CARD = Card(
    name="detr-r50",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="Hugging Face facebook/detr-resnet-50",
    status="loads",
    parameters=41_524_768,
    width=256,
    input_size=(800, 800),
    stride=32,
    citation="Carion et al. 2020, arXiv:2005.12872",
    weights="hf:facebook/detr-resnet-50/model.safetensors",
    file_format="safetensors",
    code_licence="Apache-2.0",
    training_data="COCO 2017, from a ResNet-50 of ImageNet-1k",
    overlaps=("COCO",),
)
SMALL = {"backbone": "test_resnet", "width": 32, "layers": 1, "heads": 2, "inner": 64, "queries": 5}


def network(
    *,
    backbone: str = "resnet50",
    width: int = 256,
    layers: int = 6,
    heads: int = 8,
    inner: int = 2048,
    queries: int = 100,
    labels: int = 91,
) -> Any:
    """The library's network, random. layers: of encoder and decoder each; inner: width inside them."""
    from transformers import DetrConfig, DetrForObjectDetection, TimmBackboneConfig

    seen: dict[str, Any] = {
        "backbone": backbone,
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    told: dict[str, Any] = {"num_labels": labels}
    config = DetrConfig(
        backbone_config=TimmBackboneConfig(**seen),
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        num_queries=queries,
        **told,
    )
    return DetrForObjectDetection(config).eval()


def renamed(state: Tensors) -> Tensors:
    """Names of the published file -> those of today's library."""
    found = {}
    for name, tensor in state.items():
        name = name.replace("backbone.conv_encoder.model.", "backbone.model.")
        name = name.replace(".out_proj.", ".o_proj.")
        for layer in (".fc1.", ".fc2."):
            name = name.replace(layer, f".mlp{layer}")
        found[name] = tensor
    return found


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Logits of classes, and boxes (centre and size, shares of the picture), of each query."""
    said = made(pixel_values=given["pictures"])
    return {"logits": said.logits, "boxes": said.pred_boxes}


def reader(made: Any, size: tuple[int, ...]) -> Any:  # noqa: ARG001 - any size will do
    """What the encoder saw."""
    import torch

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = made.model

        def tokens(self, pictures: Any) -> Any:
            return self.inner(pixel_values=pictures).encoder_last_hidden_state

        def forward(self, pictures: Any) -> Any:
            return self.tokens(pictures).mean(dim=1)

        def read_level(self, pictures: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(pictures),)
            if level == "maps":
                return tuple(self.inner.backbone.model(pictures))
            made = self.tokens(pictures).transpose(1, 2)
            height, width = (-(-n // 32) for n in pictures.shape[-2:])
            return (made.unflatten(2, (height, width)),)

    return Seen().eval()


def _fake(folder: Path) -> Path:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network(**SMALL).save_pretrained(str(folder / "saved"))  # type: ignore[arg-type]
    return folder / "saved" / "model.safetensors"


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=renamed,
        answer=answer,
        fake=_fake,
        small=SMALL,
        library="transformers",
    ),
    summary="General images, a detector of COCO's things: 41 million parameters, 256 features.",
    module=__name__,
    reader=reader,
    small_width=32,
    small_size=(64, 64),
)

"""RAD-DINO: chest X-rays, DINOv2 trained on without any text (Perez-Garcia et al. 2025).

Published in the layout of the transformers library; the network is timm's, which takes any side.
"""

from __future__ import annotations

import re

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file
from medspectrum.models._published import Tensors

CARD = Card(
    name="rad-dino",
    level="modality",
    modality="DX",
    organ="chest",
    dims=2,
    tasks=("classify", "features"),
    licence="MIT",
    commercial_use=True,
    source="Hugging Face microsoft/rad-dino",
    status="conforms",
    parameters=86_579_712,
    width=768,
    input_size=(518, 518),
    mean=(0.5307, 0.5307, 0.5307),
    std=(0.2583, 0.2583, 0.2583),
    stride=14,
    gflops=303.1,
    citation="Perez-Garcia et al. 2025, doi:10.1038/s42256-024-00965-w",
    notes="its makers share it for research and not for clinical practice",
    weights="hf:microsoft/rad-dino/model.safetensors",
    file_format="safetensors",
    training_data="five public collections of chest X-rays and a private one, without labels, from DINOv2-B",
    overlaps=("MIMIC-CXR", "CheXpert", "NIH ChestX-ray14", "PadChest", "BRAX"),
)
_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
_ASKED = re.compile(r"(.*)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def renamed(state: Tensors) -> Tensors:
    """Transformers' DINOv2 -> timm's: question, key and value become one matrix."""
    import torch

    found: Tensors = {}
    parts: dict[str, dict[str, object]] = {}
    for name, tensor in state.items():
        if name == "embeddings.mask_token":
            continue
        if asked := _ASKED.fullmatch(name):
            stem = asked.group(1).replace("encoder.layer.", "blocks.")
            parts.setdefault(f"{stem}.attn.qkv.{asked.group(3)}", {})[asked.group(2)] = tensor
            continue
        for pattern, put in _NAMES:
            name = re.sub(pattern, put, name)
        found[name] = tensor
    for name, three in parts.items():
        found[name] = torch.cat([three[k] for k in ("query", "key", "value")])  # type: ignore[misc]
    return found


_placed.enter(
    CARD,
    _timm_file.published(
        "vit_base_patch14_dinov2",
        small={**_timm_file.SMALL, "embed_dim": 48, "img_size": 28},
        renamed=renamed,
        saved_as="",
    ),
    summary="Chest X-rays, transformer: 86 million parameters, 768 features.",
    module=__name__,
    reader=_timm_file.reader,
    small_width=48,
    small_size=(28, 28),
)

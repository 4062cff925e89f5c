"""Prov-GigaPath's tile encoder: the first of its two levels, a ViT-g of DINOv2 (Xu et al., Nature 2024)."""

from __future__ import annotations

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

CARD = Card(
    name="prov-gigapath",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="that of its makers' page, for research; read it there",
    commercial_use=False,
    source="Hugging Face prov-gigapath/prov-gigapath, once its makers have agreed",
    status="loads",
    parameters=1_134_953_984,
    width=1536,
    input_size=(224, 224),
    stride=16,
    citation="Xu et al. 2024, doi:10.1038/s41586-024-07441-w",
    notes="the tile encoder; the slide encoder (LongNet) is not loaded",
    weights="hf:prov-gigapath/prov-gigapath/pytorch_model.bin",
    file_format="pytorch",
    gated=True,
    gflops=456.2,
    training_data="1.3 billion tiles of 171,189 slides (H&E and IHC) of Providence, over 30,000 patients",
)

_placed.enter(
    CARD,
    _timm_file.published(
        "vit_giant_patch14_dinov2",
        small={**_timm_file.SMALL, "img_size": 64},
        img_size=224,
        patch_size=16,
        embed_dim=1536,
        depth=40,
        num_heads=24,
        init_values=1e-5,
        mlp_ratio=5.33334,
    ),
    summary="Histology tiles, transformer: 1.1 billion parameters, 1536 features.",
    module=__name__,
    reader=_timm_file.reader,
    small_width=32,
    small_size=(64, 64),
)

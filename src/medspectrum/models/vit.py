"""Vision transformers of ImageNet and LAION: the plain ones, and the giants of the scaling family.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; Zhai et al., "Scaling vision transformers",
CVPR 2022, whose own weights (ViT-G/14 of JFT-3B) were never published: the rows that load are of
that design and were trained on LAION-2B by others.
"""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

B16 = Card(
    name="vit-b-16",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="Hugging Face timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    status="loads",
    parameters=85_798_656,
    width=768,
    input_size=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stride=16,
    citation="Dosovitskiy et al. 2021, arXiv:2010.11929; Steiner et al. 2022, arXiv:2106.10270",
    weights="hf:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/model.safetensors",
    file_format="safetensors",
    gflops=35.1,
    code_licence="Apache-2.0",
    training_data="ImageNet-21k, then ImageNet-1k",
)
L16 = replace(
    B16,
    name="vit-l-16",
    source="Hugging Face timm/vit_large_patch16_224.augreg_in21k",
    parameters=303_301_632,
    width=1024,
    gflops=123.1,
    weights="hf:timm/vit_large_patch16_224.augreg_in21k/model.safetensors",
    training_data="ImageNet-21k",
)
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
G14 = replace(
    B16,
    name="vit-g-14",
    source="Hugging Face timm/vit_giant_patch14_clip_224.laion2b",
    parameters=1_011_203_840,
    width=1408,
    gflops=534.1,
    stride=14,
    citation="Zhai et al. 2022, arXiv:2106.04560; Cherti et al. 2023, arXiv:2212.07143",
    weights="hf:timm/vit_giant_patch14_clip_224.laion2b/model.safetensors",
    training_data="LAION-2B, pictures with their captions",
    notes="the scaling family's ViT-g; image half of a CLIP",
    **_CLIP,
)
BIG_G14 = replace(
    G14,
    name="vit-bigg-14",
    source="Hugging Face timm/vit_gigantic_patch14_clip_224.laion2b",
    parameters=1_842_777_344,
    width=1664,
    gflops=967.5,
    weights="hf:timm/vit_gigantic_patch14_clip_224.laion2b/model.safetensors",
    notes="the scaling family's ViT-G; image half of a CLIP",
)
JFT = replace(
    B16,
    name="vit-g-14-jft",
    licence="none: not published",
    commercial_use=False,
    source="not published by its makers",
    status="card",
    parameters=1_843_000_000,
    width=1664,
    gflops=0.0,
    stride=14,
    citation="Zhai et al. 2022, arXiv:2106.04560",
    weights="unpublished",
    file_format="",
    training_data="JFT-3B",
    why="the weights that were trained on JFT-3B are not published; vit-g-14 and vit-bigg-14 have its design",
)

for _card, _architecture, _side in (
    (B16, "vit_base_patch16_224", 64),
    (L16, "vit_large_patch16_224", 64),
    (G14, "vit_giant_patch14_clip_224", 56),
    (BIG_G14, "vit_gigantic_patch14_clip_224", 56),
):
    _placed.enter(
        _card,
        _timm_file.published(
            _architecture, small={**_timm_file.SMALL, "img_size": _side}, saved_as=".safetensors"
        ),
        summary=f"General images, transformer: {_card.parameters // 10**6} million parameters, "
        f"{_card.width} features.",
        module=__name__,
        reader=_timm_file.reader,
        small_width=32,
        small_size=(_side, _side),
    )
_placed.enter_card(JFT, summary="General images, the largest of the scaling family.", module=__name__)

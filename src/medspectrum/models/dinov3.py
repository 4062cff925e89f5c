"""DINOv3: general images, without labels, of 1.7 billion pictures (Simeoni et al. 2025), in timm's layout."""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

SMALL = Card(
    name="dinov3-vits16",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="DINOv3 licence",
    commercial_use=False,
    source="Hugging Face timm/vit_small_patch16_dinov3.lvd1689m",
    status="loads",
    parameters=21_586_944,
    width=384,
    input_size=(256, 256),
    stride=16,
    citation="Simeoni et al. 2025, arXiv:2508.10104",
    notes="its own licence has terms for commerce and for passing it on: read it first",
    weights="hf:timm/vit_small_patch16_dinov3.lvd1689m/model.safetensors",
    file_format="safetensors",
    training_data="LVD-1689M: 1.7 billion curated pictures of the web",
    overlaps=("ImageNet",),
)
_SIZES = {
    "vits16": ("vit_small_patch16_dinov3", 21_586_944, 384, 12.5),
    "vitb16": ("vit_base_patch16_dinov3", 85_641_216, 768, 47.1),
    "vitl16": ("vit_large_patch16_dinov3", 303_079_424, 1024, 164.7),
    "vith16plus": ("vit_huge_plus_patch16_dinov3", 840_509_440, 1280, 449.5),
    "vit7b16": ("vit_7b_patch16_dinov3", 6_716_030_976, 4096, 3549.3),
}

for _size, (_architecture, _parameters, _width, _gflops) in _SIZES.items():
    _card = replace(
        SMALL,
        name=f"dinov3-{_size}",
        source=f"Hugging Face timm/{_architecture}.lvd1689m",
        parameters=_parameters,
        width=_width,
        gflops=_gflops,
        weights=f"hf:timm/{_architecture}.lvd1689m/model.safetensors",
    )
    _placed.enter(
        _card,
        _timm_file.published(
            _architecture,
            small={**_timm_file.SMALL, "embed_dim": 64, "img_size": 64},
            saved_as=".safetensors",
        ),
        summary=f"General images, transformer: {_parameters // 10**6} million parameters, {_width} features.",
        module=__name__,
        reader=_timm_file.reader,
        small_width=64,
        small_size=(64, 64),
    )

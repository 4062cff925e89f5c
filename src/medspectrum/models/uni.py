"""UNI and UNI2-h: histology tiles, self-supervised by DINOv2 (Chen et al., Nature Medicine 2024)."""

from __future__ import annotations

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

_SMALL = {**_timm_file.SMALL, "img_size": 56}

UNI = Card(
    name="uni",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="CC-BY-NC-ND-4.0",
    commercial_use=False,
    source="Hugging Face MahmoodLab/UNI, once its makers have agreed",
    status="loads",
    parameters=303_350_784,
    width=1024,
    input_size=(224, 224),
    stride=16,
    citation="Chen et al. 2024, doi:10.1038/s41591-024-02857-3",
    weights="hf:MahmoodLab/UNI/pytorch_model.bin",
    file_format="pytorch",
    gated=True,
    gflops=123.1,
    code_licence="CC-BY-NC-ND-4.0",
    training_data="Mass-100K: 100 million tiles of 100,426 slides (Mass General Brigham, GTEx)",
)
UNI2_H = Card(
    name="uni2-h",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="CC-BY-NC-ND-4.0",
    commercial_use=False,
    source="Hugging Face MahmoodLab/UNI2-h, once its makers have agreed",
    status="loads",
    parameters=681_394_176,
    width=1536,
    input_size=(224, 224),
    stride=14,
    citation="Chen et al. 2024, doi:10.1038/s41591-024-02857-3 (its second release, January 2025)",
    weights="hf:MahmoodLab/UNI2-h/pytorch_model.bin",
    file_format="pytorch",
    gated=True,
    gflops=370.9,
    code_licence="CC-BY-NC-ND-4.0",
    training_data="over 200 million H&E and IHC tiles of more than 350,000 slides",
)

_placed.enter(
    UNI,
    _timm_file.published(
        "vit_large_patch16_224", small={**_SMALL, "img_size": 64}, init_values=1e-5, dynamic_img_size=True
    ),
    summary="Histology tiles, transformer: 303 million parameters, 1024 features.",
    module=__name__,
    reader=_timm_file.reader,
    small_width=32,
    small_size=(64, 64),
)
_placed.enter(
    UNI2_H,
    _timm_file.published(
        "vit_giant_patch14_224",
        small=_SMALL,
        img_size=224,
        patch_size=14,
        depth=24,
        num_heads=24,
        embed_dim=1536,
        init_values=1e-5,
        mlp_ratio=2.66667 * 2,
        no_embed_class=True,
        mlp_layer="swiglu",
        reg_tokens=8,
        dynamic_img_size=True,
    ),
    summary="Histology tiles, a larger transformer with registers: 681 million parameters, 1536 features.",
    module=__name__,
    reader=_timm_file.reader,
    small_width=32,
    small_size=(56, 56),
)

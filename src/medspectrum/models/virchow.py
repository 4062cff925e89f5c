"""Virchow and Virchow2: histology tiles, of 1.5 and 3.1 million slides.

Vorontsov et al., Nature Medicine 2024; Zimmermann et al. 2024.

The vector of a tile is its class token beside the mean of its patch tokens, as the makers advise.
"""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

VIRCHOW = Card(
    name="virchow",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="Hugging Face paige-ai/Virchow, once its makers have agreed",
    status="loads",
    parameters=631_229_184,
    width=2560,
    input_size=(224, 224),
    stride=14,
    citation="Vorontsov et al. 2024, doi:10.1038/s41591-024-03141-0",
    weights="hf:paige-ai/Virchow/pytorch_model.bin",
    file_format="pytorch",
    gated=True,
    gflops=334.8,
    training_data="1.5 million H&E slides of about 100,000 patients (Memorial Sloan Kettering)",
)
VIRCHOW2 = replace(
    VIRCHOW,
    name="virchow2",
    licence="CC-BY-NC-ND-4.0",
    commercial_use=False,
    source="Hugging Face paige-ai/Virchow2, once its makers have agreed",
    parameters=631_239_424,
    gflops=340.1,
    citation="Zimmermann et al. 2024, arXiv:2408.00738",
    weights="hf:paige-ai/Virchow2/pytorch_model.bin",
    training_data="3.1 million H&E and IHC slides at four magnifications",
)

_SETTINGS = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "mlp_layer": "swiglu",
    "dynamic_img_size": True,
}
for _card, _registers in ((VIRCHOW, 0), (VIRCHOW2, 4)):
    _placed.enter(
        _card,
        _timm_file.published(
            "vit_huge_patch14_224",
            small={**_timm_file.SMALL, "img_size": 56},
            reg_tokens=_registers,
            **_SETTINGS,
        ),
        summary="Histology tiles, transformer: 631 million parameters, 2560 features.",
        module=__name__,
        reader=_timm_file.token_and_mean,
        small_width=64,
        small_size=(56, 56),
    )

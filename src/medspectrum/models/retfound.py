"""RETFound: retinas, by masked autoencoders of photographs and of OCT slices (Zhou et al., Nature 2023)."""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

CFP = Card(
    name="retfound-cfp",
    level="organ-task",
    modality="OP",
    organ="retina",
    dims=2,
    tasks=("classify", "features"),
    licence="CC-BY-NC-4.0",
    commercial_use=False,
    source="Hugging Face YukunZhou/RETFound_mae_natureCFP, once its makers have agreed",
    status="conforms",
    parameters=303_301_632,
    width=1024,
    input_size=(224, 224),
    stride=16,
    citation="Zhou et al. 2023, doi:10.1038/s41586-023-06555-x",
    weights="hf:YukunZhou/RETFound_mae_natureCFP/RETFound_mae_natureCFP.pth",
    file_format="pytorch",
    gated=True,
    gflops=123.1,
    code_licence="CC-BY-NC-4.0",
    training_data="904,170 colour fundus photographs (MEH-MIDAS of Moorfields and the public Kaggle EyePACS)",
    overlaps=("EyePACS (Kaggle diabetic retinopathy)",),
    notes="colour fundus photographs",
)
OCT = replace(
    CFP,
    name="retfound-oct",
    modality="OPT",
    source="Hugging Face YukunZhou/RETFound_mae_natureOCT, once its makers have agreed",
    weights="hf:YukunZhou/RETFound_mae_natureOCT/RETFound_mae_natureOCT.pth",
    training_data="736,442 OCT slices (MEH-MIDAS of Moorfields and public ones)",
    overlaps=("OCT of Kermany et al. 2018",),
    notes="slices of optical coherence tomography",
)

for _card in (CFP, OCT):
    _placed.enter(
        _card,
        _timm_file.published(
            "vit_large_patch16_224",
            small={**_timm_file.SMALL, "img_size": 64},
            renamed=_timm_file.encoder_of_mae,
            saved_as="",
        ),
        summary="Retinas, transformer: 303 million parameters, 1024 features.",
        module=__name__,
        reader=_timm_file.reader,
        small_width=32,
        small_size=(64, 64),
    )

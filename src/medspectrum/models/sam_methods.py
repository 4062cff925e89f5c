"""Ways of adapting or using Segment Anything in medicine, as cards: methods on a SAM, not networks apart.

What there is for such networks here: prompts (``segment``), and the rows of SAM and MedSAM with their files.
"""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed

_NO_METHOD = (
    "a way of adapting SAM: the method {} on sam:PATH follows it{}; its own published weights, of one task "
    "each, are not read"
)
MSA = Card(
    name="medical-sam-adapter",
    level="modality",
    modality="any",
    organ="any",
    dims=2,
    tasks=("segment",),
    licence="that of SAM (Apache-2.0) for what is adapted",
    commercial_use=False,
    source="github.com/SuperMedIntel/Medical-SAM-Adapter",
    status="card",
    parameters=0,
    width=0,
    input_size=(1024, 1024),
    citation="Wu et al. 2023, arXiv:2304.12620",
    training_data="SAM's, then those of one's own task",
    why=_NO_METHOD.format("adapter_decoder", ", without its prompts"),
)
CARDS = {
    MSA: "SAM with adapters in its blocks, learnt on one's own task.",
    replace(
        MSA,
        name="adaptivesam",
        source="github.com/JayParanjape/biastuning",
        citation="Paranjape et al. 2023, arXiv:2308.03726",
        why=_NO_METHOD.format("adaptive_sam", ", words and biases"),
    ): "SAM whose biases learn, prompted by words; surgical scenes.",
    replace(
        MSA,
        name="all-in-sam",
        organ="cell nuclei",
        modality="SM",
        source="its publication; no code of its makers is known here",
        citation="Cui et al. 2023, arXiv:2307.00290",
        why="a way of adapting SAM from boxes: the method all_in_sam on sam:PATH follows it; no weights "
        "of its makers are known here",
    ): "SAM makes outlines of weak labels, then learns from them; nuclei.",
    replace(
        MSA,
        name="3dsam-adapter",
        dims=3,
        input_size=(128, 128, 128),
        modality="CT",
        source="github.com/med-air/3DSAM-adapter",
        citation="Gong et al. 2023, arXiv:2306.13465",
        why=_NO_METHOD.format(
            "adapter_3d", " in its adapters, without its attention in cubes and its decoder"
        ),
    ): "SAM taken from two dimensions to three; tumours in CT.",
    replace(
        MSA,
        name="ma-sam",
        dims=3,
        input_size=(512, 512, 512),
        source="github.com/cchen-cc/MA-SAM",
        citation="Chen et al. 2023, arXiv:2309.08842",
        why=_NO_METHOD.format("ma_sam", " with an encoder equal to the original's and another decoder"),
    ): "SAM with adapters across slices, for any modality.",
    replace(
        MSA,
        name="samm",
        tasks=("segment", "prompt"),
        source="github.com/bingogome/samm",
        citation="Liu et al. 2023, arXiv:2304.05622",
        why="a way of serving SAM to 3D Slicer (a volume is embedded once, then prompted at will), "
        "and no network of its own; it is noted for serving",
    ): "SAM inside 3D Slicer: embedded once, prompted at will.",
}

for _card, _summary in CARDS.items():
    _placed.enter_card(_card, summary=_summary, module=__name__)

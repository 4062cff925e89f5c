"""Systems that the literature names and whose weights nobody can have, or that nothing here feeds: cards."""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed

GHESU = Card(
    name="ghesu-100m",
    level="modality",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "detect", "features"),
    licence="none: not published",
    commercial_use=False,
    source="not published by its makers",
    status="card",
    parameters=0,
    width=0,
    input_size=(0, 0),
    citation="Ghesu et al. 2022, arXiv:2201.01283",
    weights="unpublished",
    training_data="over 100 million medical pictures (X-ray, CT, MRI, ultrasound), mostly not public",
    why="neither weights nor code are published; the recipe is self-supervision by clusters and contrast",
)
CARDS = {
    GHESU: "100 million medical images without labels, by clustering and contrast.",
    replace(
        GHESU,
        name="retina-multimodal-ssl",
        level="organ-task",
        modality="OP",
        organ="retina",
        tasks=("classify", "features"),
        licence="not stated",
        source="its publication",
        citation="Li et al. 2020, doi:10.1109/TMI.2020.3008871",
        training_data="fundus photographs, each with a fluorescein angiogram made of it",
        why="its makers published no weights that are known here",
    ): "Fundus photographs with angiograms made of them, without labels.",
    replace(
        GHESU,
        name="convirt",
        modality="DX",
        organ="chest",
        tasks=("features",),
        citation="Zhang et al. 2022, arXiv:2010.00747",
        training_data="MIMIC-CXR with reports, and bone X-rays with reports",
        why="its makers published no weights; chexzero is of that kind and loads",
    ): "Chest X-rays with reports by contrast, the first of that kind.",
    replace(
        GHESU,
        name="roentgen",
        modality="DX",
        organ="chest",
        tasks=("generate",),
        licence="on request, for research",
        source="its makers, on request",
        citation="Chambon et al. 2022, arXiv:2211.12737",
        training_data="MIMIC-CXR with reports, from Stable Diffusion",
        why="it makes X-rays of words; its weights are given on request and nothing here generates yet",
    ): "Makes chest X-rays of words, by diffusion.",
}

for _card, _summary in CARDS.items():
    _placed.enter_card(_card, summary=_summary, module=__name__)

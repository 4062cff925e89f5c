"""Models that their makers serve and do not give away, and programs composed of others: cards.

A served model that speaks the protocol is asked through ``medspectrum.models.api``, at an address that the
user names. Nothing here is measured by ``explore``, which needs features.
"""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed

_ASKED = "served by its makers alone: ask it through medspectrum.models.api, at an address that you name"
GPT4 = Card(
    name="gpt-4",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("answer", "describe"),
    licence="its makers' terms of service",
    commercial_use=False,
    source="OpenAI's service",
    status="card",
    parameters=0,
    width=0,
    input_size=(0, 0),
    citation="OpenAI 2023, arXiv:2303.08774",
    weights="api",
    notes="what it may be used for stands in the terms of whoever serves it",
    why=_ASKED,
)
CARDS = {
    GPT4: "Language with pictures, a general model that is served.",
    replace(
        GPT4,
        name="palm-2",
        tasks=("answer",),
        source="Google's service",
        citation="Google 2023, PaLM 2 technical report, arXiv:2305.10403",
        why=f"{_ASKED}; Google has put later models in its place",
    ): "Language, a general model that was served.",
    replace(
        GPT4,
        name="med-palm",
        level="modality",
        tasks=("answer",),
        source="not given out; for chosen partners of Google",
        citation="Singhal et al. 2023, doi:10.1038/s41586-023-06291-2; Med-PaLM 2: arXiv:2305.09617",
        why="its weights are not published and it was served to chosen partners alone",
    ): "Language of medicine: questions of examinations and of patients.",
    replace(
        GPT4,
        name="med-palm-m",
        level="modality",
        tasks=("answer", "describe", "classify"),
        source="not given out",
        citation="Tu et al. 2023, arXiv:2307.14334",
        why="neither its weights nor a service are published",
    ): "Pictures, genomes and language of medicine in one network.",
    replace(
        GPT4,
        name="palm-e",
        source="not given out",
        citation="Driess et al. 2023, arXiv:2303.03378",
        why="neither its weights nor a service are published",
    ): "Language with pictures and what robots sense.",
    replace(
        GPT4,
        name="visual-chatgpt",
        source="github.com/chenfei-wu/TaskMatrix, a program",
        citation="Wu et al. 2023, arXiv:2303.04671",
        weights="",
        why="a composition: a served language model that calls other networks; it has no weights of its own",
    ): "A language model that calls networks for pictures.",
    replace(
        GPT4,
        name="chatcad",
        level="modality",
        source="github.com/zhaozh10/ChatCAD, a program",
        citation="Wang et al. 2023, arXiv:2302.07257",
        weights="",
        why="a composition: networks for X-rays whose findings a served language model puts into words",
    ): "Findings of networks, put into words by a language model.",
}

for _card, _summary in CARDS.items():
    _placed.enter_card(_card, summary=_summary, module=__name__)

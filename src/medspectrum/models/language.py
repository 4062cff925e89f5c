"""Networks that answer questions about pictures: LLaVA, LLaVA-Med, BLIP-2, Flamingo's kind, by their folders.

Liu et al. 2023 (arXiv:2304.08485); Li et al. 2023 (arXiv:2301.12597); Alayrac et al. 2022 (arXiv:2204.14198),
whose own weights were never published: IDEFICS is the open network of that kind. Code that comes with a model
is never run, and weights are taken from safetensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.errors import UnreadableFile
from medspectrum.models import _llava_mistral, _placed
from medspectrum.models._published import Published
from medspectrum.registry import model

KINDS = ("llava", "blip-2", "idefics", _llava_mistral.KIND)


@dataclass(frozen=True)
class Answering:
    """A network that answers in words. kind: one of ``KINDS``. source: its folder."""

    network: Any
    processor: Any
    kind: str
    source: str


def load(path: str | Path, *, dtype: str = "float32") -> Answering:
    """The network in that folder. Raises UnreadableFile where there is none that answers about pictures.

    dtype: float32, or bfloat16, which takes half the memory.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(path).expanduser()
    if not (path / "config.json").is_file():
        raise UnreadableFile(path, "holds no config.json; give the folder of a LLaVA, BLIP-2 or IDEFICS")
    if not list(path.glob("*.safetensors")):
        raise UnreadableFile(path, "holds no .safetensors, the only weights that are read from a folder")
    if _llava_mistral.kind_of(path) == _llava_mistral.KIND:
        return Answering(*_llava_mistral.load(path, dtype=dtype), _llava_mistral.KIND, str(path))
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(str(path), **local).model_type
        if kind not in KINDS:
            raise UnreadableFile(path, f"holds a model of type {kind!r}; give one of {', '.join(KINDS)}")
        processor = AutoProcessor.from_pretrained(str(path), **local)
        made: Any = AutoModelForImageTextToText.from_pretrained(
            str(path), use_safetensors=True, dtype=getattr(torch, dtype), output_loading_info=True, **local
        )
        network, report = made
    except UnreadableFile:
        raise
    except Exception as error:  # the library raises whatever its parts do
        words = (str(error).strip() or type(error).__name__).split("\n")[0][:160]
        raise UnreadableFile(path, f"cannot be loaded ({words}); copy the whole model again") from error
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise UnreadableFile(path, f"its weights lack {lacking}; copy the whole model again")
    return Answering(network.eval(), processor, str(kind), str(path))


def answer(
    given: Answering, question: str, *, pictures: Sequence[np.ndarray] = (), most_tokens: int = 128
) -> str:
    """What the network says, the likeliest word each time. pictures: each (3, height, width) uint8."""
    import torch
    from PIL import Image as Pillow

    shown = [Pillow.fromarray(np.ascontiguousarray(np.moveaxis(p, 0, -1))) for p in pictures]
    made = _prepared(given, question, shown)
    with torch.inference_mode():
        said = given.network.generate(**made, max_new_tokens=most_tokens, do_sample=False)[0]
    asked = made["input_ids"][0]
    if len(said) >= len(asked) and torch.equal(said[: len(asked)], asked):
        said = said[len(asked) :]
    return given.processor.decode(said, skip_special_tokens=True).strip()


def _prepared(given: Answering, question: str, shown: list[Any]) -> Any:
    if given.kind == _llava_mistral.KIND:
        return given.processor(question, shown)
    if given.kind == "idefics":
        return given.processor(text=[[*shown, question]], return_tensors="pt")
    if given.kind == "blip-2":
        text = f"Question: {question} Answer:"
    else:
        text = f"USER: {'<image>' * len(shown)}\n{question} ASSISTANT:"
    return given.processor(images=shown or None, text=text, return_tensors="pt")


LLAVA = Card(
    name="llava-1.5-7b",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("answer", "describe"),
    licence="Llama 2 community licence",
    commercial_use=False,
    source="Hugging Face llava-hf/llava-1.5-7b-hf, a folder",
    status="loads",
    parameters=7_063_427_072,
    width=0,
    input_size=(336, 336),
    citation="Liu et al. 2023, arXiv:2304.08485",
    notes="what its licence lets commerce do stands there",
    weights="hf:llava-hf/llava-1.5-7b-hf",
    download_mb=14_127.0,
    file_format="transformers",
    code_licence="Apache-2.0",
    training_data="LLaVA-Instruct and public sets of questions, from CLIP and Vicuna",
)
BLIP2 = replace(
    LLAVA,
    name="blip-2-opt-2.7b",
    licence="MIT for what was added; OPT's own licence for the language half",
    source="Hugging Face Salesforce/blip2-opt-2.7b, a folder",
    parameters=3_744_761_856,
    input_size=(224, 224),
    citation="Li et al. 2023, arXiv:2301.12597",
    notes="",
    weights="hf:Salesforce/blip2-opt-2.7b",
    download_mb=0.0,
    code_licence="BSD-3-Clause",
    training_data="COCO, Visual Genome, CC3M, CC12M, SBU and LAION-400M captions",
    overlaps=("COCO",),
)
IDEFICS = replace(
    LLAVA,
    name="idefics-9b",
    licence="that of its page on the Hub, and LLaMA's",
    source="Hugging Face HuggingFaceM4/idefics-9b, a folder",
    parameters=8_929_679_632,
    input_size=(224, 224),
    citation="Laurencon et al. 2023, arXiv:2306.16527; Flamingo: arXiv:2204.14198",
    notes="the open network of Flamingo's kind",
    weights="hf:HuggingFaceM4/idefics-9b",
    download_mb=0.0,
    training_data="OBELICS, Wikipedia, LAION and public sets of captions",
    overlaps=(),
)
LLAVA_MED = replace(
    LLAVA,
    name="llava-med",
    level="modality",
    licence="Apache-2.0 for its Mistral; its makers mean research alone, and no clinical use",
    source="Hugging Face microsoft/llava-med-v1.5-mistral-7b, a folder",
    status="conforms",
    parameters=7_566_219_264,
    citation="Li et al. 2023, arXiv:2306.00890",
    notes="version 1.5; taken as published, in its makers' own layout (llava_mistral)",
    weights="hf:microsoft/llava-med-v1.5-mistral-7b",
    download_mb=15_132.0,
    file_format="safetensors",
    code_licence="Microsoft research licence",
    training_data="PMC-15M figures with captions, and questions that GPT-4 made of them",
    overlaps=("figures of open articles, of public test sets among them",),
)
CARDS: dict[Card, str] = {
    LLAVA: "Answers about pictures: CLIP's eye on a language model of 7 billion.",
    BLIP2: "Answers about pictures: questions learnt between an eye and OPT.",
    IDEFICS: "Answers about pictures and words in turns, as Flamingo does.",
    LLAVA_MED: "Answers about biomedical pictures: CLIP's eye on a Mistral of 7 billion.",
}
PUBLISHED: dict[Card, Published] = {
    LLAVA_MED: Published(
        build=_llava_mistral.build,
        settings={"config": _llava_mistral.CONFIG, "tower": _llava_mistral.TOWER},
        renamed=_llava_mistral.renamed,
        answer=_llava_mistral.answer,
        read=_llava_mistral.read,
        files=_llava_mistral.files,
    )
}
ALONE: dict[Card, str] = {
    replace(
        LLAVA,
        name="flamingo",
        licence="none: not published",
        source="not published by its makers",
        status="card",
        parameters=80_000_000_000,
        citation="Alayrac et al. 2022, arXiv:2204.14198",
        notes="",
        weights="unpublished",
        download_mb=0.0,
        file_format="",
        training_data="M3W, ALIGN and pairs of pictures or films with texts",
        why="its weights are not published; idefics-9b is of its kind and loads",
    ): "Pictures and words in turns, by a frozen language model.",
}


def _thing(card: Card) -> Callable[..., Answering]:
    def given(
        path: str | Path | None = None, *, cache: Path | None = None, dtype: str = "float32"
    ) -> Answering:
        return load(weights_place.needed(card, cache) if path is None else path, dtype=dtype)

    given.__module__, given.__name__ = __name__, card.name
    return given


for _card, _summary in CARDS.items():
    _made = _thing(_card)
    _made.__doc__ = _summary
    model(
        _card.name,
        card=_card,
        available=partial(weights_place.lacking, _card),
        shown_by="test_a_small_network_of_each_kind_answers",
        **({"published": PUBLISHED[_card]} if _card in PUBLISHED else {}),
    )(_made)
for _card, _summary in ALONE.items():
    _placed.enter_card(_card, summary=_summary, module=__name__)

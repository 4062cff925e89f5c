"""A few explanations for the report of an exploration: one cheap kind of map, tested, within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.case import Case
from medspectrum.errors import UserError
from medspectrum.predictor import load_predictor
from medspectrum.saliency import rows
from medspectrum.saliency.asked import TASKS, Asked, drawn, explainable
from medspectrum.saliency.maps import Maps

SECONDS = 4.0  # of processor time after the first case, after which no further one is begun
CHEAP = "layer_cam"
CHEAP_OF_BLOCKS = "hires_cam"
"""Of transformers: pointed at a planted mark in 28 of 36 pictures, LayerCAM in 6, attention relevance in 23
(``benchmarks/explanations.py``)."""
WITHOUT_STAGES = "integrated_gradients"
PASSES = 180
"""What a case with its tests costs at least, in embeddings of it: 60 passes, by torch, which is slower."""
MOST_SECONDS = 12.0  # of processor time for one case, above which none is explained here


def explain_some(
    folder: Path, model: Any, task: Any, cases: Sequence[Case], count: int, out: Path, *, seed: int
) -> dict[str, Any] | None:
    """The words of explanations.json for a few test cases of the predictor in ``folder``.

    ``methods`` is empty and ``why`` says the reason where none can be explained; None for tasks that explain
    does not know, and for a predictor without a network. Overlays lie under ``out``; what an earlier run
    drew of the same predictor is taken from there.
    """
    if task.name not in TASKS or model is None or not cases:
        return None
    saved = load_predictor(folder, resolve=lambda *_, **__: model)
    found: list[dict[str, Any]] = []
    why = ""
    each = PASSES * model.seconds_per_image(task.level)[1]
    try:
        explainable(saved, "")
        if each > MOST_SECONDS:
            raise UserError(
                f"one case would take about {each:.0f} s of processor time; use medspectrum explain"
            )
        chosen, failed = drawn(saved, task, cases, "", count, seed)
        methods = [cheap(chosen)] if chosen else []
        found, lost = rows.explained(saved, chosen, methods, out, seed, _unseen, seconds=SECONDS)
        why = "; ".join(x.reason for x in (*failed, *lost)[:1])
    except UserError as error:
        why = str(error)
    except Exception as problem:  # noqa: BLE001 - networks raise anything; a report without this is a report
        why = f"the network could not be followed ({problem})"
    told = rows.summary(task.name, found, seed) | {"why": why, "folder": out.name}
    if found:
        store.write_json(out / "explanations.json", told)
    return told


def cheap(chosen: Sequence[Asked]) -> str:
    """The kind of map that this network allows, costs least and pointed best, by the first answer."""
    maps = Maps(chosen[0].see())
    stages, blocks = maps.looked
    if not stages:
        return WITHOUT_STAGES
    return CHEAP_OF_BLOCKS if blocks else CHEAP


def _unseen(done: int, total: int) -> None:
    """Progress that is not shown: it is a matter of seconds."""

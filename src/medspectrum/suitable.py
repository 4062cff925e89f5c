"""Which models of the catalogue can be asked about some data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medspectrum import registry
from medspectrum.plan import Plan

TWIN = "-random"
PLANE_BY_PLANE = ("segment", "detect", "register", "instances")


def suitable_models(plan: Plan, facts: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Names to try, each real model followed by its random twin, and why others are left aside.

    Models named in the plan are taken as they are (with a twin each); only licence and memory limits
    still hold. ``facts`` is what ``describe`` found.
    """
    known = registry.entries("model")
    chosen: list[str] = []
    reasons: dict[str, str] = {}
    for name in plan.models or tuple(known):
        entry = known.get(name)
        if entry is not None and "prefix" in entry.facts and not plan.models:
            continue  # a family such as timm: stands for names that a user gives
        card = entry.facts.get("card") if entry else None
        why = ""
        if card is not None:
            why = unsuitable(card, facts) if not plan.models else ""
            if plan.task in PLANE_BY_PLANE and card.dims == 3:
                why = why or f"its maps are of whole volumes; {plan.task} goes plane by plane so far"
            why = why or _not_here(entry.facts if entry else {})
            if plan.commercial_use and not card.commercial_use:
                why = why or f"its licence ({card.licence}) does not allow commercial use"
            why = why or _too_large(card.parameters, plan)
        if why:
            reasons[name] = why
            continue
        chosen.append(name)
        if not name.endswith(TWIN):
            chosen.append(name + TWIN)
    return list(dict.fromkeys(chosen)), reasons


def unsuitable(card: Any, facts: Mapping[str, Any]) -> str:
    """Why a model says nothing about such data, or ''. facts: what ``describe`` found."""
    if not card.width:
        return f"serves {', '.join(card.tasks)}, and gives no features"
    if card.dims == 3 and facts["sizes"]["largest"][0] == 1:
        return "reads volumes; the data are 2-D"
    found = {m for m in facts.get("modalities", {}) if m}
    if card.modality != "any" and card.modality not in found:
        return f"made for {card.modality}; the data are {', '.join(sorted(found)) or 'of no stated modality'}"
    return ""


def _not_here(known: Mapping[str, Any]) -> str:
    available = known.get("available")
    return available() if available is not None else ""


def _too_large(parameters: int, plan: Plan) -> str:
    """Rough need of embedding: the program itself, the weights twice (file and compiled), activations."""
    if plan.max_memory_gb is None:
        return ""
    needed = 1.2 + 8 * parameters / 1e9
    return "" if needed <= plan.max_memory_gb else f"needs about {needed:.1f} GB of memory"

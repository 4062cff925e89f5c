"""The catalogue: models, methods, tasks and data set layouts that are known here."""

from __future__ import annotations

import inspect
from typing import Any

from medspectrum import registry
from medspectrum.card import LEVELS


def models(
    name: str | None = None,
    *,
    level: str | None = None,
    modality: str | None = None,
    commercial_use: bool = False,
) -> list[dict[str, Any]]:
    """List the models of the spectrum: general, modality-specific, organ- and task-specific.

    name: show this one only.
    level: general, modality or organ-task.
    modality: a DICOM modality code; models for any modality are shown too.
    commercial_use: only models whose licence allows commercial use.

    Returns a card per model, with ``missing``: what to do where its weights are not here, else ''.
    Raises UserError for a name or level that is not known.
    """
    if level is not None and level not in LEVELS:
        from medspectrum.errors import UserError

        raise UserError(f"no level is called {level!r}; there are: {', '.join(LEVELS)}")
    known = [registry.find("model", name)] if name else list(registry.entries("model").values())
    rows = []
    for entry in known:
        card = entry.facts["card"]
        available = entry.facts.get("available")
        if level is not None and card.level != level:
            continue
        if modality is not None and card.modality not in ("any", modality.upper()):
            continue
        if commercial_use and not card.commercial_use:
            continue
        rows.append({**card.as_row(), "missing": available() if available else ""})
    return sorted(rows, key=lambda r: (LEVELS.index(r["level"]), r["name"]))


def methods(name: str | None = None) -> list[dict[str, Any]]:
    """List the ways of adapting a model, from none trained to all.

    name: show this one only, with its settings.
    """
    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "trains": entry.facts.get("trains", ""),
            "cost": entry.facts.get("cost", 0),
            "settings": {**entry.facts.get("shared", {}), **_settings(entry.thing)},
        }
        for entry in _entries("method", name)
    ]
    return sorted(rows, key=lambda r: (r["cost"], r["name"]))


def tasks(name: str | None = None) -> list[dict[str, Any]]:
    """List the tasks: what can be asked of cases, and the score that decides.

    name: show this one only.
    """
    return [
        {
            "name": entry.name,
            "summary": entry.summary,
            "primary": getattr(entry.thing, "primary", "") if isinstance(entry.thing, type) else "",
        }
        for entry in _entries("task", name)
    ]


def datasets(name: str | None = None) -> list[dict[str, Any]]:
    """List the data set layouts that are recognised, and what each looks like.

    name: show this one only, with its settings.
    """
    return [
        {"name": entry.name, "summary": entry.summary, "settings": _settings(entry.thing)}
        for entry in sorted(_entries("dataset", name), key=lambda e: e.name)
    ]


def _entries(kind: str, name: str | None) -> list[registry.Entry]:
    if name:
        return [registry.find(kind, name)]
    return [entry for _, entry in sorted(registry.entries(kind).items())]


def _settings(thing: Any) -> dict[str, Any]:
    """Keyword-only arguments and their defaults as JSON values."""
    return {
        p.name: p.default if isinstance(p.default, str | int | float | bool | None) else str(p.default)
        for p in inspect.signature(thing).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }

"""The catalogue: models, methods, tasks and data set layouts that are known here."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from medspectrum import registry
from medspectrum.card import LEVELS, Card
from medspectrum.engine import weights_place
from medspectrum.errors import UnreadableFile, UserError


def models(
    name: str | None = None,
    *,
    level: str | None = None,
    modality: str | None = None,
    commercial_use: bool = False,
    fetch: bool = False,
    yes: bool = False,
    verify: Path | None = None,
) -> list[dict[str, Any]] | dict[str, Any]:
    """List the models of the spectrum: general, modality-specific, organ- and task-specific.

    name: show this one only.
    level: general, modality or organ-task.
    modality: a DICOM modality code; models for any modality are shown too.
    commercial_use: only models whose licence allows commercial use.
    fetch: bring the weights of the model named to this machine, from the source on its card.
    yes: fetch more than 1 GB without being asked.
    verify: a file (or folder, where that was published), to say whether it is the named model's checkpoint.

    Returns a card per model, with ``missing``: what to do where its weights are not here, else '', and
    ``path``: where they lie. With verify one answer instead: ``fits``, ``verdict``, ``sentence``, the first
    three ``differing`` names, ``more`` (how many others differ), ``keys``, ``sha256``, ``checksum``.
    Raises UserError for a name or level that is not known, and where fetching fails.
    """
    if (fetch or verify is not None) and not name:
        raise UserError("say which model: medspectrum models NAME --fetch, or NAME --verify FILE")
    if verify is not None:
        return _verified(registry.find("model", str(name)), Path(verify).expanduser())
    if fetch:
        from medspectrum.engine.fetching import fetch as fetch_weights

        fetch_weights(registry.find("model", str(name)).facts["card"], ask=lambda q: yes or _asked(q))
    if level is not None and level not in LEVELS:
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
        path = weights_place.found(card)
        rows.append(
            {**card.as_row(), "missing": available() if available else "", "path": str(path) if path else ""}
        )
    return sorted(rows, key=lambda r: (LEVELS.index(r["level"]), r["name"]))


def _asked(question: str) -> bool:
    """What the person at the terminal answers; no where there is none."""
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _verified(entry: registry.Entry, path: Path) -> dict[str, Any]:
    """Whether the file is the row's checkpoint, and one sentence that says so."""
    from medspectrum.engine.weights_file import UnsafeFile
    from medspectrum.models._published import compared, verified
    from medspectrum.models._weights import sha256

    card: Card = entry.facts["card"]
    published = entry.facts.get("published")
    whole_folder = published is not None and not weights_place.file_name(card) and path.is_dir()
    if not path.is_file() and not whole_folder:
        raise UnreadableFile(path, "is no file; name the checkpoint itself")
    blank = {"name": card.name, "path": str(path), "fits": False, "keys": 0, "differing": [], "more": 0}
    if published is None and not card.checksum:
        raise UserError(f"{card.name} has no published file to compare with: {card.why or card.source}")
    if published is None:
        found = {**blank, "sha256": sha256(path), "checksum": compared(sha256(path), card.checksum)}
        found["fits"] = found["checksum"] == "equal"
    else:
        try:
            found = {**blank, **verified(published, path, card.checksum)}
        except UnreadableFile as problem:
            known = sha256(path) if path.is_file() else ""
            verdict = "unsafe" if isinstance(problem, UnsafeFile) else "unreadable"
            found = {**blank, "sha256": known, "checksum": compared(known, card.checksum)}
            return {**found, "verdict": verdict, "sentence": str(problem)}
    return {**found, **_said(card, found)}


def _said(card: Card, found: dict[str, Any]) -> dict[str, str]:
    """Verdict (equal, fits where no checksum is published, altered, other) and the sentence."""
    path, known = found["path"], f"its SHA-256 is {found['sha256'][:12]}..."
    if found["fits"] and found["checksum"] == "equal":
        return {
            "verdict": "equal",
            "sentence": f"{path} is the published checkpoint of {card.name}, byte by byte",
        }
    if found["fits"] and found["checksum"] == "none published":
        told = f"{path} has the names and shapes of {card.name}; no checksum is published, {known}"
        return {"verdict": "fits", "sentence": told}
    if found["fits"]:
        told = (
            f"{path} has the names and shapes of {card.name}, but {known}, not the published "
            f"{card.checksum[:12]}...: it was altered or trained on; fetch it again"
        )
        return {"verdict": "altered", "sentence": told}
    if not found["differing"]:
        told = f"{path} is not the file of {card.name}: {known}, not {card.checksum[:12]}...; fetch it again"
        return {"verdict": "other", "sentence": told}
    more = f", and {found['more']} more" if found["more"] else ""
    told = (
        f"{path} is not the checkpoint of {card.name}: {'; '.join(found['differing'])}{more}; "
        "name the model that it is of"
    )
    return {"verdict": "other", "sentence": told}


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

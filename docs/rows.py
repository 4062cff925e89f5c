"""The table of published checkpoints: what each row of the catalogue can claim, and what shows it.

Read from the registry and from the fixtures of ``tests/test_published.py``, so that the page cannot say more.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "tests" / "data" / "published"
PACKAGES = {"open_clip": "open-clip-torch"}
TITLES = {
    "conforms": "Rows that conform",
    "loads": "Rows that load",
    "card": "Cards alone",
}


def shown_by(name: str, entry: Any) -> str:
    """What shows the row's status, in words."""
    card = entry.facts["card"]
    if card.status == "card":
        return card.why
    if card.status == "conforms":
        told = FIXTURES / name / "meta.json"
        if told.exists():
            original = json.loads(told.read_text())["original"]
            return f"answers as {original}, to 1e-5; takes every name and shape of the published size"
        return f"test `{entry.facts['shown_by']}`"
    published = entry.facts.get("published")
    if published is not None and published.library:
        return f"a tiny configuration through {_named(published.library)}"
    if entry.facts.get("shown_by"):
        return f"test `{entry.facts['shown_by']}`"
    return "a small network, saved and read back"


def _named(library: str) -> str:
    """A library with its version."""
    package = PACKAGES.get(library, library)
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def page(entries: dict[str, Any]) -> str:
    """One table per status, rows in the order of the spectrum."""
    from medspectrum.card import LEVELS

    parts = []
    for status, title in TITLES.items():
        rows = [(n, e) for n, e in entries.items() if e.facts["card"].status == status]
        rows.sort(key=lambda r: (LEVELS.index(r[1].facts["card"].level), r[0]))
        parts += [f"### {title} ({len(rows)})", ""]
        parts += ["| row | level | parameters | licence of weights | " + _last(status) + " |"]
        parts += ["| --- | --- | --- | --- | --- |"]
        for name, entry in rows:
            card = entry.facts["card"]
            cells = (
                f"`{name}`",
                f"{card.level}, {card.modality}, {card.organ}",
                f"{card.parameters / 1e6:,.1f} M" if card.parameters else "",
                card.licence,
                shown_by(name, entry),
            )
            parts.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _last(status: str) -> str:
    return "why" if status == "card" else "shown by"

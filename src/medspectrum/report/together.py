"""The page over several tasks on the same cases: what each encoder is worth for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.report.page import plan_toml, render


def write_together(path: Path, results: dict[str, Any]) -> Path:
    """Write the page to ``path`` and return it; the tasks' own reports lie in folders beside it.

    results: as ``several.write`` makes them.
    """
    context = {
        "title": str(results["data"].get("name") or "data"),
        "results": results,
        "data": results["data"],
        "plan": plan_toml(results["settings"]),
    }
    store.write_bytes(Path(path), render("together.html", context).encode())
    return Path(path)

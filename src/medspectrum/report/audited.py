"""The report of an audit: what failed, what was accepted, and each shortcut beside what chance gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.report.page import render


def write_audit(path: Path, results: dict[str, Any]) -> Path:
    """Write the report of ``audit`` (what it returns) to ``path`` and return it."""
    context = {"title": str(results["data"]["name"]), "results": results}
    store.write_bytes(Path(path), render("audited.html", context).encode())
    return Path(path)

"""The page of explanations: which maps passed their tests, and what each case's answer hangs on."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.errors import UserError
from medspectrum.report.page import render

SHOWN = 24  # cases on the page; all are in explanations.json
SIDE = 176
QUALITY = 82
TITLES = {
    "randomised": "shuffled weights",
    "deletion": "deletion",
    "insertion": "insertion",
    "pointing": "pointing",
    "overlap": "overlap",
    "pointing_randomised": "pointing, shuffled",
}


def write_explanations(
    path: Path, results: Mapping[str, Any], *, folder: Path, thumbnails: Mapping[str, bytes] | None = None
) -> Path:
    """Write the page to ``path`` and return it.

    results: as in explanations.json. folder: where the overlays lie. thumbnails: PNG bytes of labelled cases
    by id. Pictures lie inside the page, small.
    """
    context = {
        "title": str(results["data"]["path"]),
        "results": results,
        "data": {},
        "explained": explained(results, folder, thumbnails or {}),
    }
    store.write_bytes(Path(path), render("explanations.html", context).encode())
    return Path(path)


def explained(
    results: Mapping[str, Any], folder: Path, thumbnails: Mapping[str, bytes], *, shown: int = SHOWN
) -> dict[str, Any]:
    """What the templates draw: the table of methods and their tests, and the cases with small pictures."""
    methods = results["methods"]
    checks = [name for name in TITLES if any(name in m["checks"] for m in methods.values())]
    order = sorted(methods, key=lambda name: (-_passes(methods[name]), len(methods[name]["failed"])))
    return {
        "checks": [
            {"name": name, "title": TITLES[name], "meaning": results["meanings"][name]} for name in checks
        ],
        "methods": [{"key": name, **methods[name]} for name in order],
        "cases": [_case(row, order, methods, folder, thumbnails) for row in results["cases"][:shown]],
        "more": max(0, len(results["cases"]) - shown),
        "headline": headline(methods),
    }


def headline(methods: Mapping[str, Any]) -> str:
    """In one sentence, which maps can be believed."""
    good = [m["name"] for m in methods.values() if m["passed"]]
    bad = [m["name"] for m in methods.values() if m["passed"] is False]
    if not good and not bad:
        return "Too few patients to say whether any map can be believed"
    if not good:
        return "No map passed its tests: do not read them as reasons"
    if not bad:
        return f"All {len(good)} kinds of map passed their tests"
    return f"{len(good)} of {len(good) + len(bad)} kinds of map passed their tests: {', '.join(good)}"


def _passes(method: Mapping[str, Any]) -> int:
    return {True: 2, None: 1, False: 0}[method["passed"]]


def _case(
    row: Mapping[str, Any],
    order: list[str],
    methods: Mapping[str, Any],
    folder: Path,
    thumbnails: Mapping[str, bytes],
) -> dict[str, Any]:
    maps = [
        {
            "name": methods[name]["name"],
            "passed": methods[name]["passed"],
            "pictures": [_small(folder / p) for p in row["methods"][name]["overlays"]],
            "hit": row["methods"][name]["tests"].get("hit"),
        }
        for name in order
        if name in row["methods"]
    ]
    near = [
        {**n, "picture": _url(thumbnails[n["case"]], "png") if n["case"] in thumbnails else None}
        for n in row.get("nearest") or ()
    ]
    return {**row, "pictures": [_small(folder / p) for p in row["picture"]], "maps": maps, "near": near}


def _small(path: Path) -> str:
    """A written overlay as a small JPEG in a data URL; little pictures are enlarged."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as held:
            picture = held.convert("RGB")
    except OSError as error:
        raise UserError(
            f"{path}: an overlay that an earlier call wrote cannot be read ({error}); delete --out"
        ) from None
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    out = io.BytesIO()
    made = picture.resize(size, Pillow.Resampling.BICUBIC)
    Pillow.fromarray(np.asarray(made)).save(out, "JPEG", quality=QUALITY)
    return _url(out.getvalue(), "jpeg")


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

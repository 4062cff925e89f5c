"""The gallery of a choice: the chosen cases with their pictures and reasons, on a map of what was seen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import label_order
from medspectrum.errors import UserError
from medspectrum.report.figure import SERIES, canvas, colour, svg
from medspectrum.report.page import render

SHOWN = 240
"""Pictures on the page at most."""
DRAWN = 1600
"""Points of the map at most, the chosen ones first."""
SIDE = 144
QUALITY = 82
FEW = 60
"""Points below which the map shows principal components, since neighbourhoods would be made of chance."""


def write_gallery(
    path: Path,
    results: Mapping[str, Any],
    *,
    rows: np.ndarray,
    chosen: Sequence[int],
    given: Sequence[int],
    classes: Sequence[str | None],
    thumbnails: Mapping[str, bytes],
) -> Path:
    """Write the page to ``path`` and return it.

    results: as in curation.json. rows: (n, d) unit rows of all cases. chosen, given: places among them.
    classes: (n,) names or None. thumbnails: PNG bytes by case id.
    """
    named = sorted({c for c in classes if c is not None}, key=label_order)
    tints = {name: f"series-{1 + place}" for place, name in enumerate(named[:SERIES])}
    places, method = _map_of(rows, chosen, given, int(results["seed"]))
    context = {
        "title": str(results["data"]["name"]),
        "results": results,
        "cards": [_card(one, thumbnails, tints) for one in results["chosen"][:SHOWN]],
        "map": _drawing(places, method, chosen, given, classes, tints, results["chosen"]),
        "map_method": method,
        "drawn": len(places),
        "tints": tints,
        "other_classes": max(0, len(named) - SERIES),
        "bars": {
            by: _bars(counts, tints if by == "class" else {})
            for by, counts in results["counts"].items()
            if len(counts["pool"]) > 1
        },
    }
    store.write_bytes(Path(path), render("gallery.html", context).encode())
    return Path(path)


def _card(
    one: Mapping[str, Any], thumbnails: Mapping[str, bytes], tints: Mapping[str, str]
) -> dict[str, Any]:
    try:
        png = thumbnails.get(str(one["case"]))
    except UserError:
        png = None
    return {**one, "tint": tints.get(str(one["class"])), "picture": _small(png) if png else None}


def _small(png: bytes) -> str:
    """The picture as a small WebP data URL: a page of hundreds stays light."""
    from PIL import Image as Pillow

    with Pillow.open(io.BytesIO(png)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"


def _map_of(
    rows: np.ndarray, chosen: Sequence[int], given: Sequence[int], seed: int
) -> tuple[dict[int, tuple[float, float]], str]:
    """Where cases lie on the map, by place, and how it was made: all chosen ones, and some of the others."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rng = np.random.default_rng(seed)
    marked = list(dict.fromkeys([*chosen, *given]))[:DRAWN]
    others = np.setdiff1d(np.arange(len(rows)), marked)
    room = min(len(others), DRAWN - len(marked))
    drawn = [*marked, *(int(i) for i in rng.choice(others, room, replace=False))] if room else marked
    seen = np.asarray(rows[drawn], np.float64)
    if len(drawn) < 3 or not seen.any():
        return {place: (float(i), 0.0) for i, place in enumerate(drawn)}, "their order"
    parts = PCA(min(50, *seen.shape), random_state=seed).fit_transform(seen)
    if len(drawn) < FEW:
        flat, method = np.pad(parts, ((0, 0), (0, 2)))[:, :2], "principal components"
    else:
        made = TSNE(init="pca", perplexity=min(30.0, len(drawn) / 4), max_iter=500, random_state=seed)
        flat, method = made.fit_transform(parts.astype(np.float32)), "t-SNE"
    return {place: (float(x), float(y)) for place, (x, y) in zip(drawn, flat, strict=True)}, method


def _drawing(
    places: Mapping[int, tuple[float, float]],
    method: str,
    chosen: Sequence[int],
    given: Sequence[int],
    classes: Sequence[str | None],
    tints: Mapping[str, str],
    told: Sequence[Mapping[str, Any]],
) -> str:
    """All cases as small dots in the colour of their class, the chosen ones ringed and numbered."""
    titles = {}
    ranks = {place: rank for rank, place in enumerate(chosen)}
    with canvas(1010, 520) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.98)
        by_tint: dict[str, list[tuple[float, float]]] = {}
        for place, at in places.items():
            if place not in ranks and place not in given:
                by_tint.setdefault(tints.get(classes[place] or "", "control"), []).append(at)
        for tint, points in sorted(by_tint.items()):
            x, y = np.array(points).T
            axes.plot(x, y, "o", color=colour(tint), markersize=4.6, alpha=0.42, markeredgewidth=0)
        old = np.array([places[place] for place in given if place in places])
        if len(old):
            axes.plot(old[:, 0], old[:, 1], "x", color=colour("ink"), markersize=5, markeredgewidth=1.1)
        for place, rank in ranks.items():
            if place not in places:
                continue
            tint = tints.get(classes[place] or "", "accent")
            axes.plot(
                *places[place],
                "o",
                color=colour(tint),
                markersize=9,
                markeredgecolor=colour("ink"),
                markeredgewidth=1.5,
                gid=f"chosen{rank}",
            )
            one = told[rank]
            shown = f"{one['rank']}. {one['case']}"
            titles[f"chosen{rank}"] = f"{shown}: {one['class']}" if one["class"] else shown
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)
        return svg(
            figure, name="map", label=f"Map of the cases by {method}, the chosen ones ringed", titles=titles
        )


def _bars(counts: Mapping[str, Mapping[str, int]], tints: Mapping[str, str]) -> list[dict[str, Any]]:
    """Shares of each value in the pool, among the chosen, and in a choice by chance."""
    totals = {kind: max(1, sum(own.values())) for kind, own in counts.items()}
    names = sorted(counts["pool"], key=label_order)
    largest = max((own.get(n, 0) / totals[kind] for kind, own in counts.items() for n in names), default=1.0)
    return [
        {
            "name": name,
            "tint": tints.get(name, "accent"),
            **{
                kind: {
                    "cases": own.get(name, 0),
                    "share": own.get(name, 0) / totals[kind],
                    "width": 100 * own.get(name, 0) / totals[kind] / largest,
                }
                for kind, own in counts.items()
            },
        }
        for name in names
    ]

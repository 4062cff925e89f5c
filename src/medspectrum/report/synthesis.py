"""The page of made pictures: beside real ones and training cases, and what they add to real labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import label_order
from medspectrum.report.page import render

SHOWN = 8
"""Pictures of each class on the page."""
NEAREST = 12
"""Pairs of a made picture and its training case on the page, nearest first."""
SIDE = 96
ARM_NAMES = {
    "real": "real only",
    "oversampled": "rare classes repeated",
    "mixup": "mixed (mixup)",
    "synthetic": "with made pictures",
}


def write_synthesis(
    path: Path,
    results: Mapping[str, Any],
    *,
    made: np.ndarray,
    train: np.ndarray,
    made_classes: Sequence[str],
    train_classes: Sequence[str],
) -> Path:
    """Write the page to ``path`` and return it.

    results: as in audit.json. made, train: (n, C, side, side) uint8 with their classes.
    """
    rng = np.random.default_rng(int(results["seed"]))
    near = {one["image"]: one for one in results["memorisation"].get("nearest", [])}
    rows = []
    for name in sorted(results["made"], key=label_order):
        own = [i for i, c in enumerate(made_classes) if c == name][:SHOWN]
        real = [i for i, c in enumerate(train_classes) if c == name]
        some = [real[i] for i in sorted(rng.permutation(len(real))[:SHOWN])]
        nearest = [near[f"images/{i:05d}.png"] for i in own] if near else []
        rows.append(
            {
                "name": name,
                "real": [{"picture": _picture(train[i]), "copy": False} for i in some],
                "made": [{"picture": _picture(made[i]), "copy": False} for i in own],
                "nearest": [
                    {"picture": _picture(train[one["place"]]), "copy": one["copy"]} for one in nearest
                ],
            }
        )
    places = sorted(near.values(), key=lambda one: (not one["copy"], one["distance"]))[:NEAREST]
    context = {
        "title": str(results["data"]["name"]),
        "results": results,
        "rows": rows,
        "closest": [
            {
                **one,
                "made": _picture(made[int(Path(one["image"]).stem)]),
                "train": _picture(train[one["place"]]),
            }
            for one in places
        ],
        "arm_names": ARM_NAMES,
        "encoder": str(results["encoder"]["name"]).rpartition("/")[2].partition("?")[0],
    }
    store.write_bytes(Path(path), render("synthesis.html", context).encode())
    return Path(path)


def _picture(pixels: np.ndarray) -> str:
    """A picture (C, Y, X) as a small WebP data URL, enlarged without smoothing by a whole number."""
    from PIL import Image as Pillow

    shown = Pillow.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).convert("RGB")
    times = max(1, SIDE // shown.width)
    shown = shown.resize((shown.width * times, shown.height * times), Pillow.Resampling.NEAREST)
    written = io.BytesIO()
    shown.save(written, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"

"""Label maps as pictures: the answer tinted in, the truth as a line, for cases worth looking at."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.report import words
from medspectrum.report.answers import picture_url
from medspectrum.report.figure import SERIES, colour

SIDE = 320
TINT = 0.42
MARGIN = 0.35  # of the outlined part's extent, shown around it


def examples(given: Mapping[str, Any], classes: Sequence[str], *, each: int = 6) -> list[dict[str, Any]]:
    """Three rows of cases: best, about the middle, worst. Only what is shown is read and drawn.

    given: ``case``, ``centre``, ``case_score`` (n,), ``true_maps`` and ``label_maps`` (n LabelMap),
    ``images`` (n LazyImage, the grids that the maps lie on); ``apart``, True where maps number things.
    """
    scores = np.asarray(given["case_score"], dtype=float)
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    if not len(order):
        return []
    begin = max(0, (len(order) - each) // 2)
    rows = [
        ("Worst", "look at these first: the mask or the predictor is mistaken", order[::-1][:each]),
        ("Middle", "what to expect", order[begin : begin + each]),
        ("Best", "what the predictor finds easy", order[:each]),
    ]
    return [
        {"title": title, "about": about, "cases": [_shown(given, int(i), len(classes)) for i in chosen]}
        for title, about, chosen in rows
    ]


def legend(classes: Sequence[str]) -> list[dict[str, str]]:
    """Name and tint of each label."""
    return [{"name": name, "tint": f"series-{i % SERIES + 1}"} for i, name in enumerate(classes)]


def _shown(given: Mapping[str, Any], index: int, labels: int) -> dict[str, Any]:
    shown = given["images"][index], given["true_maps"][index], given["label_maps"][index]
    try:
        if given.get("apart"):
            from medspectrum.report.beside import apart

            picture = apart(*shown)
        else:
            picture = overlay(*shown, labels)
    except UserError:
        picture = None
    return {
        "case": str(given["case"][index]),
        "centre": str(given["centre"][index] or ""),
        "score": words.decimal(float(given["case_score"][index])),
        "picture": picture_url(picture) if picture else None,
    }


def overlay(lazy: LazyImage, truth: LabelMap, found: LabelMap, labels: int) -> bytes:
    """A PNG of the plane where most is outlined, cut around it. Raises UserError for an unreadable image."""
    from PIL import Image as Pillow

    image = lazy.load()
    true, answer = truth.array(), found.array()
    outlined = np.asarray((true > 0) | (answer > 0))
    axis = through_axis(image)
    place = int(outlined.sum(axis=tuple(a for a in range(3) if a != axis)).argmax())
    flat = np.moveaxis(image.array, axis + 1, 1)[:, place]
    true, answer, outlined = (np.take(m, place, axis=axis) for m in (true, answer, outlined))
    rows, columns = _around(outlined)
    pixels = grey(flat)[rows, columns]
    true, answer = true[rows, columns], answer[rows, columns]
    out = io.BytesIO()
    shown = tinted(pixels, answer, true, labels, side=SIDE)
    Pillow.fromarray(shown).save(out, "PNG", optimize=True)
    return out.getvalue()


def tinted(
    pixels: np.ndarray, answer: np.ndarray | None, true: np.ndarray | None, labels: int, *, side: int
) -> np.ndarray:
    """(h, w, 3) uint8: a picture at that longer side, one label map as tint, the other as lines.

    pixels: (h, w) or (h, w, 3), uint8. answer, true: (h', w') on any raster over the same picture, or None.
    """
    from PIL import Image as Pillow

    scale = side / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    shown = np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BICUBIC), np.float32).copy()
    tint, line = (
        None if m is None else np.asarray(Pillow.fromarray(m).resize(size, Pillow.Resampling.NEAREST))
        for m in (answer, true)
    )
    colours = [np.array(rgb(colour(f"series-{i % SERIES + 1}")), np.float32) for i in range(labels)]
    for label, own in enumerate(colours, start=1):
        if tint is not None:
            inside = tint == label
            shown[inside] = (1 - TINT) * shown[inside] + TINT * own
    for label, own in enumerate(colours, start=1):
        if line is not None:
            shown[_edge(line == label)] = 0.35 * 255 + 0.65 * own  # lighter, so that it is seen on the tint
    return np.clip(shown, 0, 255).astype(np.uint8)


def through_axis(image: Any) -> int:
    """The axis of (Z, Y, X) along which the planes of a volume follow each other; 0 of a picture."""
    from medspectrum import transforms

    return transforms.through_plane_axis(image) - 1 if image.is_volume else 0


def _around(outlined: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is outlined, with a margin; everything where nothing is."""
    if not outlined.any():
        return slice(None), slice(None)
    found = []
    for axis in (1, 0):
        places = np.flatnonzero(outlined.any(axis=axis))
        begin, end = int(places[0]), int(places[-1]) + 1
        margin = max(4, round(MARGIN * (end - begin)))
        found.append(slice(max(0, begin - margin), min(outlined.shape[1 - axis], end + margin)))
    return found[0], found[1]


def grey(flat: np.ndarray) -> np.ndarray:
    """(C, H, W) as (H, W, 3) uint8; colours as they are, one channel between its darkest and brightest."""
    if flat.shape[0] == 3 and flat.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(flat, 0, -1))
    channel = flat[0].astype(np.float32)
    low, high = np.nanpercentile(channel, [0.5, 99.5])
    if flat.dtype == np.uint8:
        low, high = 0.0, 255.0
    scaled = np.nan_to_num(np.clip((channel - low) / max(float(high - low), 1e-6), 0, 1) * 255)
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)


def _edge(inside: np.ndarray) -> np.ndarray:
    """The rim of a region, two pixels wide."""
    from scipy import ndimage

    return inside & ~np.asarray(ndimage.binary_erosion(inside, iterations=2), bool)


def rgb(text: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)

"""Registrations as pictures: the fixed image, the moving one before and after, with the labels of both."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.registered import Registered
from medspectrum.report import words
from medspectrum.report.answers import picture_url
from medspectrum.report.outlines import tinted

SIDE = 240  # of each of the three pictures
GAP = 4


def examples(given: Mapping[str, Any], classes: Sequence[str], *, each: int = 3) -> list[dict[str, Any]]:
    """Three rows of pairs: worst, about the middle, best. Only what is shown is read and drawn.

    given: ``case``, ``centre``, ``case_score`` (n,), ``registered`` (n Registered), ``moving`` and ``fixed``
    (n LazyImage), ``moving_maps`` and ``fixed_maps`` (n arrays (Z, Y, X) on their grids, or None).
    """
    scores = np.asarray(given["case_score"], dtype=float)
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    begin = max(0, (len(order) - each) // 2)
    rows = [
        ("Worst", "look at these first", order[::-1][:each]),
        ("Middle", "what to expect", order[begin : begin + each]),
        ("Best", "what is easy", order[:each]),
    ]
    return [
        {"title": title, "about": about, "cases": [_shown(given, int(i), len(classes)) for i in chosen]}
        for title, about, chosen in rows
        if len(chosen)
    ]


def _shown(given: Mapping[str, Any], index: int, labels: int) -> dict[str, Any]:
    maps = given["moving_maps"][index], given["fixed_maps"][index]
    try:
        picture = strip(
            given["moving"][index], given["fixed"][index], given["registered"][index], maps, labels
        )
    except UserError:
        picture = None
    return {
        "case": str(given["case"][index]),
        "centre": str(given["centre"][index] or ""),
        "score": words.decimal(float(given["case_score"][index])),
        "picture": picture_url(picture) if picture else None,
    }


def strip(
    moving: LazyImage,
    fixed: LazyImage,
    found: Registered,
    maps: tuple[np.ndarray | None, np.ndarray | None],
    labels: int,
) -> bytes:
    """A PNG of three pictures: fixed, moving before, moving after; lines are the fixed image's labels."""
    from PIL import Image as Pillow

    from medspectrum.engine.align.mind import grey

    a, b = grey(moving.load()), grey(fixed.load())
    axis, place = found.plane
    before, before_labels = _in_place(a, maps[0], b, axis, place)
    still = np.take(b.array[0], place, axis=axis)
    truth = None if maps[1] is None else np.take(maps[1], place, axis=axis)
    after_labels = None if found.labels is None else np.take(found.labels.array(), place, axis=axis)
    panels = [
        tinted(np.rint(255 * still).astype(np.uint8), None, truth, labels, side=SIDE),
        tinted(before, before_labels, truth, labels, side=SIDE),
        tinted(found.picture, after_labels, truth, labels, side=SIDE),
    ]
    height = max(p.shape[0] for p in panels)
    whole = np.full((height, sum(p.shape[1] for p in panels) + 2 * GAP, 3), 255, np.uint8)
    left = 0
    for panel in panels:
        whole[: panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    out = io.BytesIO()
    Pillow.fromarray(whole).save(out, "PNG", optimize=True)
    return out.getvalue()


def _in_place(
    moving: Image, labels: np.ndarray | None, fixed: Image, axis: int, place: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The moving image and labels in a plane of the fixed grid, where the registration began."""
    from medspectrum.engine.align.carry import carried, warped
    from medspectrum.engine.align.grid import grid_of, plane_of
    from medspectrum.engine.align.pipeline import overlap_share, start_map

    first = start_map(moving, fixed, "header")
    known = moving.spacing_known and fixed.spacing_known
    if not known or overlap_share(moving, fixed, first) == 0:
        first = start_map(moving, fixed, "centres")
    affine = np.linalg.inv(first) @ moving.affine
    grid = plane_of(grid_of(fixed), axis, place)
    still = np.zeros((*grid.size, 3), np.float32)
    shown = warped(Image(moving.array, affine), grid, still, fill=0.0).array[0]
    brought = None if labels is None else carried(Image(labels[None], affine), grid, still).array[0]
    return (
        np.rint(255 * np.take(shown, 0, axis=axis)).astype(np.uint8),
        None if brought is None else np.take(brought, 0, axis=axis),
    )

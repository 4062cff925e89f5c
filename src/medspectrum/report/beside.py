"""Things told apart, as pictures: the true ones outlined beside the found ones."""

from __future__ import annotations

import io

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.instances import matched_pairs
from medspectrum.report.figure import SERIES, colour
from medspectrum.report.outlines import SIDE, grey, rgb

WHITE = (255, 255, 255)
GAP_PX = 4


def apart(lazy: LazyImage, truth: LabelMap, found: LabelMap) -> bytes:
    """A PNG of a picture twice: true things outlined beside found ones, partners in the same colour.

    Partners are the pairs of an IoU of 0.5 and above; what has none is outlined in white. Raises UserError
    for an unreadable image.
    """
    from PIL import Image as Pillow

    true, answer = truth.array()[0], found.array()[0]
    pixels = grey(lazy.load().array[:, 0])
    scale = SIDE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    plain = np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BICUBIC))
    pairs = matched_pairs(answer, true)
    panels = []
    for things, side in ((true, 1), (answer, 0)):
        tints = {int(v): rgb(colour(f"series-{i % SERIES + 1}")) for i, v in enumerate(pairs[:, side])}
        large = np.asarray(Pillow.fromarray(things.astype(np.int32)).resize(size, Pillow.Resampling.NEAREST))
        panel = plain.copy()
        rim = _rims(large)
        for value in np.unique(large[rim]):
            panel[rim & (large == value)] = tints.get(int(value), WHITE)
        panels.append(panel)
    gap = np.full((size[1], GAP_PX, 3), 255, np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(np.hstack([panels[0], gap, panels[1]])).save(out, "PNG", optimize=True)
    return out.getvalue()


def _rims(things: np.ndarray) -> np.ndarray:
    """Pixels of a thing beside pixels that are not of it."""
    rim = np.zeros(things.shape, bool)
    rim[:-1] |= things[:-1] != things[1:]
    rim[1:] |= things[1:] != things[:-1]
    rim[:, :-1] |= things[:, :-1] != things[:, 1:]
    rim[:, 1:] |= things[:, 1:] != things[:, :-1]
    return rim & (things > 0)

"""Text that is burnt into pictures: where it stands, by two small networks that come with a package.

The networks are PP-OCRv4's detector and reader (Apache-2.0) inside the package rapidocr-onnxruntime, of which
only the two ONNX files are used; they run on OpenVINO. The detector gives a map of where text is (DB, Liao et
al. 2020); the reader is asked of each place whether it can make out letters there, which keeps ribs and
vessels. Nothing that is read is kept.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UserError

PACKAGE = "rapidocr_onnxruntime"
HOW = "pip install --no-deps rapidocr-onnxruntime==1.4.4"
_FILES = {"find": "ch_PP-OCRv4_det_infer.onnx", "read": "ch_PP-OCRv4_rec_infer.onnx"}
_SURE, _MEAN, _WIDER = 0.3, 0.5, 1.6
"""Of the detector: a pixel's least probability, a place's least mean, and how far its shrunken box grows."""
_LETTERS, _CERTAIN, _CERTAIN_OF_LARGE, _LARGE = 2, 0.5, 0.9, 0.1
"""Of the reader: how many letters it has to see, and how surely; more so where they are large."""
_LEAST_SIDE, _MOST_SIDE, _MOST_ENLARGED = 960, 1600, 3.0
_HIGH = 48

Box = tuple[int, int, int, int]
"""Columns and rows x0, y0, x1, y1, the last ones outside."""


def lacking() -> str:
    """What is missing to find text, and how to get it; '' where nothing is."""
    return (
        ""
        if all(_file(name) is not None for name in _FILES)
        else f"finding burnt-in text needs its networks: {HOW}"
    )


def _file(name: str) -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / _FILES[name]
    return path if path.is_file() else None


@cache
def _network(name: str) -> Any:
    import openvino

    path = _file(name)
    if path is None:
        raise UserError(lacking())
    core = openvino.Core()
    return core.compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"})


def text_boxes(picture: np.ndarray) -> list[Box]:
    """Where text stands in a picture (Y, X, 3) of uint8; boxes hold whole letters."""
    from PIL import Image

    high, wide = picture.shape[:2]
    longest = max(high, wide)
    scale = (
        min(max(_LEAST_SIDE / longest, 1.0), _MOST_ENLARGED) if longest < _MOST_SIDE else _MOST_SIDE / longest
    )
    size = [max(32, round(side * scale / 32) * 32) for side in (wide, high)]
    shown = np.asarray(Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BILINEAR))
    values = (shown.astype(np.float32) / 255 - 0.5) / 0.5
    found = np.asarray(_network("find")(values.transpose(2, 0, 1)[None])[0])[0, 0]
    places = _places(found)
    kept = [place for place, is_text in zip(places, _readable(shown, places), strict=True) if is_text]
    return [_back(place, wide / size[0], high / size[1], wide, high) for place in kept]


def _places(found: np.ndarray) -> list[Box]:
    """Boxes around the connected parts of the map, grown to the letters' own size."""
    from scipy import ndimage

    sure = ndimage.binary_dilation(found > _SURE, np.ones((2, 2)))
    parts, count = ndimage.label(sure)  # type: ignore[misc]
    if not count:
        return []
    means = ndimage.mean(found, parts, range(1, count + 1))
    boxes = []
    for mean, place in zip(np.atleast_1d(means), ndimage.find_objects(parts), strict=True):
        rows, columns = place
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if mean < _MEAN or min(high, wide) < 3:
            continue
        grown = 2 + round(high * wide * _WIDER / (2 * (high + wide)))
        boxes.append(
            (
                max(0, columns.start - grown),
                max(0, rows.start - grown),
                min(found.shape[1], columns.stop + grown),
                min(found.shape[0], rows.stop + grown),
            )
        )
    return boxes


def _readable(shown: np.ndarray, places: list[Box]) -> list[bool]:
    """Whether letters can be made out in each place, either way up, or either way around."""
    told = [False] * len(places)
    cuts: list[tuple[int, np.ndarray]] = []
    for number, (x0, y0, x1, y1) in enumerate(places):
        cut = shown[y0:y1, x0:x1]
        upright = y1 - y0 > 1.5 * (x1 - x0)
        cuts += [(number, np.rot90(cut, turn)) for turn in ((1, 3) if upright else (0, 2))]
    for number, cut in cuts:
        large = min(cut.shape[:2]) > _LARGE * max(shown.shape[:2])
        told[number] = told[number] or _letters(cut, _CERTAIN_OF_LARGE if large else _CERTAIN)
    return told


def _letters(cut: np.ndarray, certain: float) -> bool:
    """Whether the reader makes out letters: CTC's best path, without what the letters are."""
    from PIL import Image

    wide = int(np.clip(round(cut.shape[1] * _HIGH / cut.shape[0] / 32) * 32, 64, 1600))
    line = np.asarray(
        Image.fromarray(np.ascontiguousarray(cut)).resize((wide, _HIGH), Image.Resampling.BILINEAR)
    )
    values = (line.astype(np.float32)[..., ::-1] / 255 - 0.5) / 0.5
    path = np.asarray(_network("read")(values.transpose(2, 0, 1)[None])[0])[0]
    best, sure = path.argmax(axis=1), path.max(axis=1)
    new = (best != 0) & np.r_[True, best[1:] != best[:-1]]
    return int(new.sum()) >= _LETTERS and float(sure[new].mean()) >= certain


def _back(place: Box, across: float, down: float, wide: int, high: int) -> Box:
    x0, y0, x1, y1 = place
    return (
        int(np.floor(x0 * across)),
        int(np.floor(y0 * down)),
        min(wide, int(np.ceil(x1 * across))),
        min(high, int(np.ceil(y1 * down))),
    )

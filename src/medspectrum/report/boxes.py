"""Boxes as pictures: what is truly there and what was found, beside each other; and the FROC curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.detections import Detections
from medspectrum.errors import UserError
from medspectrum.metrics.boxes import box_iou
from medspectrum.report import words
from medspectrum.report.answers import picture_url
from medspectrum.report.figure import SERIES, canvas, colour, svg
from medspectrum.report.outlines import grey, rgb, through_axis

HIGHEST = 300
BESIDE = 6  # pixels between the two pictures
HIT = 0.5


def examples(given: Mapping[str, Any], classes: Sequence[str], *, each: int = 4) -> list[dict[str, Any]]:
    """Three rows of cases: worst, about the middle, best. Only what is shown is read and drawn.

    given: ``case``, ``centre``, ``case_score`` (n,), ``true_boxes`` (n of boxes and labels), ``found_boxes``
    (n Detections), ``images`` (n LazyImage that the boxes lie in).
    """
    scores = np.asarray(given["case_score"], dtype=float)
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    if not len(order):
        return []
    least = _least_scores(given["true_boxes"], given["found_boxes"], len(classes))
    begin = max(0, (len(order) - each) // 2)
    rows = [
        ("Worst", "look at these first: the boxes or the predictor are mistaken", order[::-1][:each]),
        ("Middle", "what to expect", order[begin : begin + each]),
        ("Best", "what the predictor finds easy", order[:each]),
    ]
    return [
        {"title": title, "about": about, "cases": [_shown(given, int(i), least) for i in chosen]}
        for title, about, chosen in rows
    ]


def _least_scores(true: Sequence[Any], found: Sequence[Detections], classes: int) -> np.ndarray:
    """(classes,) the score from which as many boxes of a label are found as are truly there in all cases."""
    least = np.full(classes, np.inf)
    for label in range(classes):
        wanted = sum(int((t.labels == label).sum()) for t in true)
        scores = np.concatenate([np.empty(0), *(f.scores[f.labels == label] for f in found)])
        if wanted and len(scores):
            least[label] = np.sort(scores)[::-1][min(wanted, len(scores)) - 1]
    return least


def _shown(given: Mapping[str, Any], index: int, least: np.ndarray) -> dict[str, Any]:
    found: Detections = given["found_boxes"][index]
    sure = found.scores >= least[found.labels]
    try:
        picture = side_by_side(
            given["images"][index],
            given["true_boxes"][index],
            (found.boxes[sure].astype(float), found.labels[sure]),
        )
    except UserError:
        picture = None
    return {
        "case": str(given["case"][index]),
        "centre": str(given["centre"][index] or ""),
        "score": words.decimal(float(given["case_score"][index])),
        "picture": picture_url(picture) if picture else None,
    }


def side_by_side(
    lazy: LazyImage, true: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]
) -> bytes:
    """A PNG: left the true boxes, right the found ones; thick where the other side has none for it.

    true, found: boxes (n, 4) or (n, 6) and labels. Of a volume, the plane that most true boxes (else found
    ones) lie in. Raises UserError for an unreadable image.
    """
    from PIL import Image as Pillow

    image = lazy.load()
    (true_boxes, true_labels), (found_boxes, found_labels) = true, found
    alone = [_alone(*true, *found), _alone(*found, *true)]
    if image.is_volume:
        axis = through_axis(image)
        place = _fullest(true_boxes if len(true_boxes) else found_boxes, 2 - axis, image.size[axis])
        flat = np.moveaxis(image.array, axis + 1, 1)[:, place]
        sets = []
        for boxes, labels, lonely in (
            (true_boxes, true_labels, alone[0]),
            (found_boxes, found_labels, alone[1]),
        ):
            here = (boxes[:, 2 - axis] <= place) & (place < boxes[:, 5 - axis])
            kept = [i for i in range(3) if i != 2 - axis]
            sets.append((boxes[here][:, [*kept, *(i + 3 for i in kept)]], labels[here], lonely[here]))
    else:
        flat = image.array[:, 0]
        sets = [(true_boxes, true_labels, alone[0]), (found_boxes, found_labels, alone[1])]
    pixels = grey(flat)
    scale = HIGHEST / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    plain = Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BICUBIC)
    both = Pillow.new("RGB", (2 * size[0] + BESIDE, size[1]), "white")
    for side, (boxes, labels, lonely) in enumerate(sets):
        drawn = plain.copy()
        _draw(drawn, boxes * scale, labels, lonely)
        both.paste(drawn, (side * (size[0] + BESIDE), 0))
    out = io.BytesIO()
    both.quantize(128).save(out, "PNG", optimize=True)
    return out.getvalue()


def _draw(picture: Any, boxes: np.ndarray, labels: np.ndarray, lonely: np.ndarray) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(picture)
    for (x0, y0, x1, y1), label, thick in zip(boxes, labels, lonely, strict=True):
        tint = rgb(colour(f"series-{int(label) % SERIES + 1}"))
        ends = [x0, y0, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)]
        pen.rectangle(ends, outline=tint, width=4 if thick else 2)


def _alone(boxes: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray) -> np.ndarray:
    """(n,) whether a box has no other of its label that overlaps it by half."""
    if not len(boxes) or not len(others):
        return np.ones(len(boxes), bool)
    overlap = box_iou(boxes, others) * (labels[:, None] == other_labels[None])
    return overlap.max(axis=1) < HIT


def _fullest(boxes: np.ndarray, axis: int, count: int) -> int:
    """The plane that most boxes lie in; the middle one where there is none."""
    if not len(boxes):
        return count // 2
    places = np.arange(count)[:, None]
    return int(((boxes[:, axis] <= places) & (places < boxes[:, axis + 3])).sum(axis=1).argmax())


def froc_svg(curve: Mapping[str, Mapping[str, Any]], *, name: str) -> str:
    """Share of the true boxes that are found against false boxes per image, with its interval."""
    from matplotlib.ticker import FixedLocator, NullLocator

    rates = [float(rate) for rate in curve]
    values = [words.number(row) for row in curve.values()]
    titles = {}
    with canvas(420, 300) as figure:
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        known = [(r, v) for r, v in zip(rates, values, strict=True) if v is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour("accent"), linewidth=1.9)
        banded = [
            (r, *ends) for r, row in zip(rates, curve.values(), strict=True) if (ends := words.bounds(row))
        ]
        if banded:
            places, low, high = zip(*banded, strict=True)
            axes.fill_between(places, low, high, color=colour("accent"), alpha=0.14, linewidth=0)
        for index, (rate, value) in enumerate(known):
            axes.plot([rate], [value], "o", color=colour("accent"), markersize=5.5, gid=f"rate{index}")
            titles[f"rate{index}"] = f"{value:.3f} found at {rate:g} false boxes per image"
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_locator(FixedLocator(rates))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set_xlabel("false boxes per image")
        axes.set_ylabel("share of true boxes found")
        return svg(figure, name=name, label="FROC: boxes found against false boxes per image", titles=titles)

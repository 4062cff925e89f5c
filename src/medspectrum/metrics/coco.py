"""The scores of a COCO evaluator itself, for tables that say so: the package faster-coco-eval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medspectrum.errors import UserError

_STATS = ("map", "map@0.5", "map@0.75", "map_small", "map_medium", "map_large")


class FoundBoxes(NamedTuple):
    """What was found in one image: boxes (m, 4) as x0, y0, x1, y1, scores (m,), labels (m,) from 0."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class TrueBoxes(NamedTuple):
    """What is in one image: boxes (t, 4) as x0, y0, x1, y1 and labels (t,) from 0."""

    boxes: np.ndarray
    labels: np.ndarray


def coco_scores(
    found: Sequence[FoundBoxes], true: Sequence[TrueBoxes], names: Sequence[str]
) -> dict[str, float]:
    """COCO's scores of 2-D boxes over images, per label as ``ap/NAME`` and ``ap@0.5/NAME``, and over labels.

    ``map``, ``map@0.5``, ``map@0.75``, ``map_small`` (below 32 x 32 pixels), ``map_medium``, ``map_large``
    (from 96 x 96), ``ar``. At most 100 boxes of a label in an image count. NaN where there is no true box to
    find. For bootstrap intervals use ``detection.average_precision``, which gives the same numbers for any
    weights. Raises UserError where the evaluator is not installed.
    """
    if len(found) != len(true):
        raise ValueError(f"{len(found)} images were looked at, but {len(true)} have a truth")
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError('COCO scores need its evaluator: pip install "medspectrum[detection]"') from error
    document: dict[str, Any] = {
        "images": [{"id": i + 1, "width": 1, "height": 1} for i in range(len(true))],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(names)],
        "annotations": [],
    }
    for i, one in enumerate(true):
        for box, label in zip(_as_coco(one.boxes), one.labels, strict=True):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": int(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    results = [
        {"image_id": i + 1, "category_id": int(label) + 1, "bbox": box, "score": float(score)}
        for i, one in enumerate(found)
        for box, score, label in zip(_as_coco(one.boxes), one.scores, one.labels, strict=True)
    ]
    truth = COCO(document)
    evaluator = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=_silent)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    scores: dict[str, float] = dict(zip(_STATS, map(float, evaluator.stats), strict=False))
    scores["ar"] = float(evaluator.stats[8])
    precision = evaluator.eval["precision"][..., 0, -1]  # thresholds, recalls, labels: of any size
    for c, name in enumerate(names):
        scores[f"ap/{name}"] = float(precision[:, :, c].mean())
        scores[f"ap@0.5/{name}"] = float(precision[0, :, c].mean())
    return {name: math.nan if value < 0 else value for name, value in scores.items()}


def _as_coco(boxes: np.ndarray) -> list[list[float]]:
    """Rows x, y, width, height."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()


def _silent(*_: object) -> None:
    """The evaluator's own prints go nowhere."""

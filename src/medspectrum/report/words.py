"""Numbers as a person reads them: seconds, counts, megabytes, scores with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NONE = "–"

SCORE_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "calibration_error": "calibration error",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "surface Dice",
    "hd95_mm": "HD95 in mm or px",
    "assd_mm": "mean surface distance in mm or px",
    "precision": "precision",
    "map50": "mAP at IoU 0.5",
    "map75": "mAP at IoU 0.75",
    "map": "mAP at IoU 0.5 to 0.95",
    "recall": "average recall",
    "froc": "FROC sensitivity",
    "folding": "folding share",
    "log_jacobian_std": "unevenness of the field",
    "landmark_error_mm": "landmark error in mm or px",
    "landmark_gain": "landmark gain",
    "ap": "AP",
    "f1_50": "F1 at IoU 0.5",
    "pq": "panoptic quality",
    "aji": "aggregated Jaccard",
    "ap_pooled": "AP, all images together",
    "f1_50_pooled": "F1 at IoU 0.5, all images together",
}

GLOSSARY = {
    "auc": "The chance that a case of the class is ranked above a case of another class. 0.5 is guessing, "
    "1 perfect; with several classes, the mean over classes of one against the rest.",
    "average_precision": "The area under precision against recall, averaged over classes. "
    "Guessing scores the share of the class, so it is stern with rare classes.",
    "accuracy": "The share of cases whose most probable class is the right one. "
    "With a common class it flatters: compare it with the majority row.",
    "balanced_accuracy": "The mean of the sensitivities of the classes, each class counted alike. "
    "Guessing scores 1 divided by the number of classes.",
    "f1": "The harmonic mean of precision and sensitivity, averaged over classes. "
    "It is low where either of the two is low.",
    "calibration_error": "How far the stated probabilities lie from the observed shares, on average; lower "
    "is better. 0.05 means that probabilities are off by five points.",
    "sensitivity": "Of the cases of a class, the share that is found. "
    "It needs the class to be in the test set.",
    "specificity": "Of the cases of all other classes, the share that is not taken for this class.\n"
    "It needs at least one other class in the test set.",
}

OUTLINE_GLOSSARY = {
    "dice": "Twice what answer and truth share, divided by the sum of both: 0 where they do not touch, 1 "
    "where they are the same. Averaged over the cases of a label, then over labels.",
    "iou": "What answer and truth share, divided by what either covers.",
    "nsd": "The share of both surfaces that lies within 1 mm (without known spacing, 1 pixel) of the other.",
    "hd95_mm": "The distance within which 95 % of either surface lies from the other; where one is missing, "
    "the diagonal of the image. In pixels where the spacing is not known.",
    "assd_mm": "The mean distance from either surface to the other.",
    "sensitivity": "Of the voxels that truly are of the label, the share that is found.",
    "precision": "Of the voxels that were given the label, the share that truly is of it.",
}
BOX_GLOSSARY = {
    "map50": "Average precision: found boxes in falling order of score give precision against recall, "
    "whose area is taken. A box is right where it overlaps a free true box of its label by half (IoU 0.5). "
    "Mean over labels; of one label, its own.",
    "map": "The same, averaged over the overlaps 0.5, 0.55, ... 0.95 that make a box right: how exactly "
    "boxes lie. COCO's main score.",
    "map75": "The same at the overlap 0.75.",
    "recall": "The share of true boxes that is found when all boxes count, averaged over labels and "
    "overlaps.",
    "froc": "The share of true boxes that is found at 1/8, 1/4, ... 8 false boxes per image, averaged over "
    "these seven rates.",
}
PAIR_GLOSSARY = {
    "dice": "Twice what the carried labels and the fixed image's own share, divided by the sum of both. No "
    "registration sees a label. Averaged over the pairs of a label, then over labels.",
    "hd95_mm": OUTLINE_GLOSSARY["hd95_mm"],
    "nsd": OUTLINE_GLOSSARY["nsd"],
    "landmark_error_mm": "The mean distance of mapped landmarks from where they belong; in pixels where the "
    "spacing is not known.",
    "landmark_gain": "The share of the landmarks' distance that the registration takes away: 0 is nothing, 1 "
    "all, below 0 it is worse than before.",
    "folding": "The share of voxels where the map turns space inside out; 0 is what anatomy asks for.",
    "log_jacobian_std": "How unevenly the map swells and shrinks; 0 where all of it does alike.",
}
INSTANCE_GLOSSARY = {
    "ap": "Found things divided by found, missed and invented ones, where found means that intersection over "
    "union (IoU) reaches a threshold; the mean over thresholds 0.50, 0.55 to 0.95, then over images.",
    "f1_50": "Twice the found things divided by true and answered ones together, found meaning an IoU of 0.5 "
    "and above; the mean over images.",
    "pq": "F1 of the things found with an IoU above 0.5, times their mean IoU.",
    "aji": "What all true things share with their best answers, divided by what these and all other answers "
    "cover together.",
    "dice": "Twice what the region of all things shares with the answer's, divided by the sum of both; it "
    "does not ask whether they are told apart.",
    "ap_pooled": "AP with the things of all images counted together, so that full images weigh more.",
    "f1_50_pooled": "F1 with the things of all images counted together.",
}
GLOSSARIES = {
    "segment": OUTLINE_GLOSSARY,
    "detect": BOX_GLOSSARY,
    "register": PAIR_GLOSSARY,
    "instances": INSTANCE_GLOSSARY,
}


def number(value: Any) -> float | None:
    """The finite float in a number or in ``{"value": number}``; None where there is none."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if value is None or isinstance(value, str | bool | list | tuple):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def bounds(value: Any) -> tuple[float, float] | None:
    """The interval of a score ``{"value", "low", "high"}``; None where it has none."""
    if not isinstance(value, Mapping):
        return None
    low, high = number(value.get("low")), number(value.get("high"))
    return None if low is None or high is None else (low, high)


def decimal(value: Any, digits: int = 3) -> str:
    """``0.912``; an en dash where there is no number."""
    found = number(value)
    return NONE if found is None else f"{found:.{digits}f}"


def interval(value: Any, digits: int = 3) -> str:
    """``0.880 to 0.931``, or nothing."""
    ends = bounds(value)
    return "" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def seconds(value: Any) -> str:
    """A duration in the unit that fits: ``12 ms``, ``3.4 s``, ``5 min 10 s``, ``2 h 5 min``."""
    found = number(value)
    if found is None:
        return NONE
    if found < 0.0005:
        return "0 s" if found <= 0 else "< 1 ms"
    if found < 1:
        return f"{found * 1000:.0f} ms"
    if found < 10:
        return f"{found:.1f} s".replace(".0 ", " ")
    whole = round(found)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".replace(" 0 s", "")
    return f"{whole // 3600} h {whole % 3600 // 60} min".replace(" 0 min", "")


def milliseconds(value: Any) -> str:
    """A duration given in ms."""
    found = number(value)
    if found is None:
        return NONE
    if 0 < found < 0.01:
        return "< 0.01 ms"
    return f"{found:.2f} ms" if found < 1 else f"{found:.1f} ms" if found < 10 else seconds(found / 1000)


def megabytes(value: Any) -> str:
    """``0.4 MB``, ``120 MB``, ``1.4 GB``."""
    found = number(value)
    if found is None:
        return NONE
    if 0 < found < 0.1:
        return f"{found * 1000:.1f} kB"
    return (
        f"{found / 1000:.1f} GB" if found >= 1000 else f"{found:.0f} MB" if found >= 10 else f"{found:.1f} MB"
    )


def count(value: Any) -> str:
    """``1,280`` in full up to 99,999, then ``21.3 M``."""
    found = number(value)
    if found is None:
        return NONE
    if abs(found) < 100_000:
        return f"{found:,.0f}"
    return f"{found / 1e3:,.0f} k" if abs(found) < 1e6 else f"{found / 1e6:.1f} M"


def percent(value: Any) -> str:
    """A share of 1 as ``12 %``; small shares keep a digit."""
    found = number(value)
    if found is None:
        return NONE
    if 0.995 <= found < 1:
        return "> 99 %"
    return f"{100 * found:.1f} %" if 0 < abs(found) < 0.1 else f"{100 * found:.0f} %"


def score_name(key: str) -> str:
    """The name a score is shown under."""
    return SCORE_NAMES.get(key, key.replace("_", " "))


def plain(value: Any) -> str:
    """Any JSON value in a table cell: scores as decimals, lists joined, None as a dash."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def facts_line(value: Any) -> str:
    """What describe says of sizes, spacing or modalities, in one line for the page."""
    if not isinstance(value, Mapping):
        return plain(value)
    if value.get("common"):
        shown = ", ".join(f"{size} ({count(n)})" for size, n in list(value["common"].items())[:5])
        different = number(value.get("different")) or 0
        return shown if different <= 1 else f"{shown}; {count(different)} different"
    if number(value.get("known")) == 0:
        return "not known"
    return ", ".join(f"{key} {plain(item)}" for key, item in value.items())

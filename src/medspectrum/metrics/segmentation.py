"""How well a label map agrees with the true one: overlap, surfaces, lesions, for every label at once.

Definitions, for one label with predicted voxels P and true voxels T:

* ``dice`` 2|P and T| / (|P| + |T|); ``iou`` |P and T| / |P or T|; ``sensitivity`` |P and T| / |T|;
  ``precision`` |P and T| / |P|; ``volume_difference_mm3`` (2-D: mm2) volume of P minus that of T;
  ``relative_volume_difference`` the same by the volume of T.
* ``hd_mm``, ``hd95_mm``: the larger of the two directed Hausdorff distances, or of their 95th percentiles;
  ``assd_mm``: average symmetric surface distance, the mean over both surfaces taken together; ``nsd``:
  normalised surface Dice, the share of both surfaces within ``tolerance_mm`` of the other one
  (arXiv:1809.04430). What a surface is depends on ``definition``, see ``metrics/surface.py``. Percentiles
  are the named package's too: "monai" interpolates linearly between distances (at a position that it works
  out in single precision, in which it also compares with the tolerance), "deepmind" takes the distance at
  which 95 % of the area is reached.
* ``lesion_sensitivity``, ``lesion_precision``, ``lesion_f1``: see ``lesion_scores``.

Where a label is missing:

=================  ==========================  ====================  =====================
in                 Dice, IoU, NSD, lesion F1   sensitivity           HD, HD95, ASSD
=================  ==========================  ====================  =====================
neither map        ``both_empty`` (NaN)        NaN                   NaN
the truth only     0                           0                     inf
the prediction     0                           NaN                   inf
=================  ==========================  ====================  =====================

Precision is NaN where nothing was predicted, and so is what is divided by the empty truth. NaN says "does
not apply" and is left out of means; pass ``both_empty=1.0`` for the other convention. The packages differ
among themselves here: MONAI's HD95 of one empty side, for one, is NaN, as it interpolates between
infinities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.metrics.surface import MOST_LABELS, Definition, Distances, surface_distances

OVERLAP_SCORES = (
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "volume_difference_mm3",
    "relative_volume_difference",
)
SURFACE_SCORES = ("hd95_mm", "hd_mm", "assd_mm", "nsd")
LESION_SCORES = ("lesion_f1", "lesion_sensitivity", "lesion_precision")
LOWER_IS_BETTER = frozenset({"hd95_mm", "hd_mm", "assd_mm"})
_WIDEST_TABLE = 1 << 20


def segmentation_scores(
    predicted: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[int],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float | Mapping[int, float] = 1.0,
    definition: Definition = "monai",
    surfaces: bool = True,
    lesions: bool = False,
    both_empty: float = math.nan,
) -> dict[int, dict[str, float]]:
    """``{label: {score: value}}`` of two label maps of whole numbers, (Z, Y, X) or (Y, X), 0 background.

    labels: all labels that may occur, positive; 0 is the background. spacing_mm: one per axis of the maps,
    in their order. tolerance_mm: of the surface Dice, one for all or one per label. surfaces, lesions:
    whether to work those scores out. A volume of one slice is measured as the plane it is: its surface is
    its contour.

    Raises ValueError where the maps' shapes differ, are not 2-D or 3-D or do not hold whole numbers, where
    a label is not in ``labels``, and for spacings or tolerances that make no sense.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    labels = [int(label) for label in labels]
    spacing = _checked_spacing(predicted, truth, spacing_mm)
    tolerances = _checked_tolerances(tolerance_mm, labels)
    voxel = math.prod(spacing)
    if truth.ndim == 3 and len(truth) == 1:
        predicted, truth, spacing = predicted[0], truth[0], spacing[1:]
    table = np.array(sorted({0, *labels}))
    box = _box((predicted != 0) | (truth != 0))
    predicted = _ranks(predicted[box], table, "the prediction")
    truth = _ranks(truth[box], table, "the truth")

    both, in_predicted, in_truth = _counts(predicted, truth, len(table))
    result = {}
    for label in labels:
        at = int(np.searchsorted(table, label))
        result[label] = _overlap(
            int(both[at]), int(in_predicted[at]), int(in_truth[at]), voxel, both_empty=both_empty
        )
    for first in range(1, len(table), MOST_LABELS) if surfaces else ():
        some = table[first : first + MOST_LABELS]
        pair = (predicted, truth)
        if len(some) < len(table) - 1:  # too many at once: those in question, counted from 1
            narrow = np.zeros(len(table), np.uint8)
            narrow[first : first + len(some)] = np.arange(1, len(some) + 1)
            pair = (narrow[predicted], narrow[truth])
        found = surface_distances(*pair, len(some), spacing_mm=spacing, definition=definition)
        for label, distances in zip(some.tolist(), found, strict=True):
            result[label] |= _surface(
                distances, tolerances[label], definition=definition, both_empty=both_empty
            )
    for label, where in (
        zip(table[1:].tolist(), _boxes(predicted, truth, len(table)), strict=True) if lesions else ()
    ):
        at = int(np.searchsorted(table, label))
        result[label] |= lesion_scores(predicted[where] == at, truth[where] == at, both_empty=both_empty)
    return result


def lesion_scores(
    predicted: np.ndarray, truth: np.ndarray, *, overlap: float = 0.0, both_empty: float = math.nan
) -> dict[str, float]:
    """Scores that count lesions, not voxels, of two masks (Z, Y, X) or (Y, X).

    A lesion is a connected component, joined also across edges and corners. A true lesion is found if the
    predicted mask covers more than ``overlap`` of it; a predicted lesion is right if the true mask covers
    more than ``overlap`` of it. With the default one voxel in common is enough. ``lesion_sensitivity`` is
    the share of true lesions found (NaN without any), ``lesion_precision`` the share of predicted ones
    that are right (NaN without any), ``lesion_f1`` their harmonic mean, 0 where one side has none.
    """
    if not 0 <= overlap < 1:
        raise ValueError(
            f"overlap is the share of a lesion that must be covered, 0 to below 1, not {overlap}"
        )
    box = _box(predicted | truth)
    predicted, truth = predicted[box], truth[box]
    found, true_lesions = _covered(truth, predicted, overlap)
    right, predicted_lesions = _covered(predicted, truth, overlap)
    sensitivity = found / true_lesions if true_lesions else math.nan
    precision = right / predicted_lesions if predicted_lesions else math.nan
    if not true_lesions and not predicted_lesions:
        f1 = both_empty
    elif not found or not right:
        f1 = 0.0
    else:
        f1 = 2 * sensitivity * precision / (sensitivity + precision)
    return {"lesion_f1": f1, "lesion_sensitivity": sensitivity, "lesion_precision": precision}


def mean_scores(
    cases: Sequence[Mapping[int, Mapping[str, float]]],
    weights: np.ndarray | None = None,
    *,
    scores: Sequence[str] = ("dice", "nsd", "hd95_mm"),
    missed_mm: float | None = None,
) -> dict[str, Any]:
    """Means over cases: ``"dice/3"`` of label 3, ``"dice"`` the mean of those over the labels.

    cases: what ``segmentation_scores`` gave for each. weights: None (floats come back), or (n,) or (n, R)
    as ``bootstrap.resampled`` passes them (arrays (R,) for the last). Cases where a score is NaN do not
    count for that label, nor do labels without any case for the mean over labels.
    missed_mm: what stands for an infinite distance, the image's diagonal for one; None leaves it infinite.
    """
    if not cases:
        raise ValueError("there is no case to take a mean over")
    columns = np.ones((len(cases), 1)) if weights is None else np.asarray(weights, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    labels = list(dict.fromkeys(label for case in cases for label in case))
    result: dict[str, np.ndarray] = {}
    for score in scores:
        values = np.array([[case.get(label, {}).get(score, math.nan) for label in labels] for case in cases])
        infinite = np.isinf(values)
        if missed_mm is not None:
            values, infinite = np.where(infinite, missed_mm, values), np.zeros_like(infinite)
        counted = (~np.isnan(values)).astype(np.float64).T @ columns
        finite = np.where(np.isfinite(values), values, 0.0).T @ columns
        finite[(infinite.astype(np.float64).T @ columns) > 0] = math.inf
        means = np.divide(finite, counted, out=np.full(counted.shape, math.nan), where=counted > 0)
        known = ~np.isnan(means)
        total = np.where(known, means, 0.0).sum(axis=0)
        result[score] = np.divide(
            total, known.sum(axis=0), out=np.full(total.shape, math.nan), where=known.any(axis=0)
        )
        result |= {f"{score}/{label}": row for label, row in zip(labels, means, strict=True)}
    one = weights is None or np.ndim(weights) == 1
    return {name: float(row[0]) if one else row for name, row in result.items()}


def _covered(mask: np.ndarray, cover: np.ndarray, overlap: float) -> tuple[int, int]:
    """How many components of a mask another one covers by more than a share, and how many there are."""
    from scipy import ndimage

    parts: Any = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    component, count = parts
    inside = component[mask]
    sizes = np.bincount(inside, minlength=count + 1)[1:]
    covered = np.bincount(inside[cover[mask]], minlength=count + 1)[1:]
    return int((covered > overlap * sizes).sum()), int(count)


def _overlap(both: int, predicted: int, truth: int, voxel: float, *, both_empty: float) -> dict[str, float]:
    """Scores of counts of voxels."""
    either = predicted + truth - both
    return {
        "dice": 2 * both / (predicted + truth) if either else both_empty,
        "iou": both / either if either else both_empty,
        "sensitivity": both / truth if truth else math.nan,
        "precision": both / predicted if predicted else math.nan,
        "volume_difference_mm3": (predicted - truth) * voxel,
        "relative_volume_difference": (predicted - truth) / truth if truth else math.nan,
    }


def _surface(
    distances: Distances, tolerance_mm: float, *, definition: Definition, both_empty: float
) -> dict[str, float]:
    """Scores of the distances of both surfaces."""
    sides = (distances.predicted_mm, distances.truth_mm)
    if not len(sides[0]) and not len(sides[1]):
        return {"hd95_mm": math.nan, "hd_mm": math.nan, "assd_mm": math.nan, "nsd": both_empty}
    if not len(sides[0]) or not len(sides[1]):
        return {"hd95_mm": math.inf, "hd_mm": math.inf, "assd_mm": math.inf, "nsd": 0.0}
    hd = max(float(side.max()) for side in sides)
    if definition == "monai":
        n = len(sides[0]) + len(sides[1])
        near = sum(int((side.astype(np.float32) <= np.float32(tolerance_mm)).sum()) for side in sides)
        hd95 = max(_percentile_of_voxels(side, 0.95) for side in sides)
        assd, nsd = sum(float(side.sum()) for side in sides) / n, near / n
    else:
        pairs = list(zip(sides, (distances.predicted_size, distances.truth_size), strict=True))
        area = sum(float(size.sum()) for _, size in pairs)
        hd95 = max(_percentile_of_area(side, size, 0.95) for side, size in pairs)
        assd = sum(float((side * size).sum()) for side, size in pairs) / area
        nsd = min(1.0, sum(float(size[side <= tolerance_mm].sum()) for side, size in pairs) / area)
    return {"hd95_mm": hd95, "hd_mm": hd, "assd_mm": assd, "nsd": nsd}


def _percentile_of_voxels(distances: np.ndarray, share: float) -> float:
    """Linear between the two distances around the position; the position in single precision."""
    position = np.float32(share) * np.float32(len(distances) - 1)
    below, above = int(position), math.ceil(position)
    low, high = np.partition(distances, (below, above))[[below, above]]
    return float(low + (high - low) * float(position - np.float32(below)))


def _percentile_of_area(distances: np.ndarray, sizes: np.ndarray, share: float) -> float:
    """The distance at which a share of the area is reached."""
    order = np.argsort(distances)
    reached = np.cumsum(sizes[order])
    reached /= sizes.sum()
    return float(distances[order[min(np.searchsorted(reached, share), len(order) - 1)]])


# -- what goes in ------------------------------------------------------------------------------------


def _checked_spacing(
    predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[float, ...]:
    """Spacing as floats, once maps and spacing have been found to fit."""
    if predicted.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must be on one grid; their shapes are {predicted.shape} and {truth.shape}"
        )
    if truth.ndim not in (2, 3):
        raise ValueError(f"label maps are (Z, Y, X) or (Y, X); these have the shape {truth.shape}")
    for name, each in (("prediction", predicted), ("truth", truth)):
        if each.dtype.kind not in "iub":
            raise ValueError(f"a label map holds whole numbers; the {name} is of type {each.dtype}")
    spacing = tuple(float(v) for v in spacing_mm)
    if len(spacing) != truth.ndim or not all(math.isfinite(v) and v > 0 for v in spacing):
        raise ValueError(
            f"spacing_mm needs {truth.ndim} positive numbers, one per axis of the maps, not {spacing}"
        )
    return spacing


def _checked_tolerances(tolerance_mm: float | Mapping[int, float], labels: list[int]) -> dict[int, float]:
    """Tolerance of each label."""
    if any(label < 1 for label in labels):
        raise ValueError(f"labels are positive, and 0 is the background; {min(labels)} cannot be one")
    if isinstance(tolerance_mm, Mapping):
        missing = [label for label in labels if label not in tolerance_mm]
        if missing:
            raise ValueError(f"tolerance_mm has no tolerance for label {missing[0]}")
        tolerances = {label: float(tolerance_mm[label]) for label in labels}
    else:
        tolerances = dict.fromkeys(labels, float(tolerance_mm))
    for label, tolerance in tolerances.items():
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"the tolerance of label {label} must be a distance in mm, not {tolerance}")
    return tolerances


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around what is True; empty where nothing is."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return tuple(box)


def _boxes(predicted: np.ndarray, truth: np.ndarray, count: int) -> list[tuple[slice, ...]]:
    """Box around each label 1 to count - 1 in both maps together; an empty one where neither has it."""
    from scipy import ndimage

    found = [ndimage.find_objects(each, max_label=count - 1) for each in (predicted, truth)]
    boxes = []
    for pair in zip(*found, strict=True):
        known = [box for box in pair if box is not None]
        axes = zip(*known, strict=True) if known else [(slice(0, 0),)] * truth.ndim
        boxes.append(tuple(slice(min(s.start for s in some), max(s.stop for s in some)) for some in axes))
    return boxes


def _ranks(values: np.ndarray, table: np.ndarray, name: str) -> np.ndarray:
    """Each value's position in the sorted table, as a small unsigned type. Raises ValueError for others."""
    small = np.uint8 if len(table) <= 1 << 8 else np.uint16
    if not values.size:
        return np.zeros(values.shape, small)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and len(table) == high + 1 == table[-1] + 1:  # already 0, 1, 2, ...
        return values.astype(small)
    if low < 0 or high >= _WIDEST_TABLE:
        rank = np.minimum(np.searchsorted(table, values), len(table) - 1)
        known = table[rank] == values
    else:
        position = np.full(high + 1, len(table), np.uint32)
        inside = np.flatnonzero(table <= high)
        position[table[inside]] = inside
        rank = position[values.astype(np.intp, copy=False)]
        known = rank < len(table)
    if not known.all():
        unknown = int(values[~known][0])
        raise ValueError(
            f"{name} holds the value {unknown}, which is none of the labels {_listed(table)}; "
            "add it to labels or map it to 0"
        )
    return rank.astype(small)


def _listed(table: np.ndarray) -> str:
    """The labels without 0, shortened."""
    names = [str(label) for label in table.tolist() if label]
    return ", ".join(names if len(names) <= 8 else [*names[:7], "...", names[-1]])


def _counts(
    predicted: np.ndarray, truth: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count,) voxels of each label: in both maps, in the prediction, in the truth."""
    flat, other = predicted.reshape(-1), truth.reshape(-1)
    if count**2 <= 1 << 16:  # both labels in one number: every voxel is counted once
        small = np.uint8 if count**2 <= 1 << 8 else np.uint16
        joint = flat.astype(small)
        joint *= small(count)
        joint += other
        table = np.bincount(joint, minlength=count**2).reshape(count, count)
        return table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    inside = np.flatnonzero(flat | other)
    flat, other = flat[inside], other[inside]
    return (
        np.bincount(flat[flat == other], minlength=count),
        np.bincount(flat, minlength=count),
        np.bincount(other, minlength=count),
    )

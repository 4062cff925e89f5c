"""Made pairs of label maps, and what MONAI and surface-distance say of them.

``python tests/segmentation_pairs.py`` works the packages' scores out again and writes them, with the maps,
to ``tests/data/segmentation_reference.npz``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "data" / "segmentation_reference.npz"
SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.7, 0.9), (1.3, 2.1, 0.4), (1.0, 1.0), (0.31, 1.7))
TOLERANCE_MM = 1.5


def made_pair(shape, labels, seed, *, shift=1.0):
    """(predicted, truth): overlapping ellipsoids, the prediction moved, with specks and a ragged rim."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij", sparse=True)
    truth, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for label in range(1, labels + 1):
        centre = np.array([rng.uniform(0, n) for n in shape])
        radius = np.array([rng.uniform(0.12, 0.4) * n + 1 for n in shape])
        moved, other = centre + rng.normal(0, shift, len(shape)), radius * rng.uniform(0.8, 1.25)
        for into, c, r in ((truth, centre, radius), (predicted, moved, other)):
            away = sum(((g - a) / b) ** 2 for g, a, b in zip(grid, c, r, strict=True))
            into[away + rng.normal(0, 0.08, shape) < 1] = label
    specks = rng.random(shape) < 0.002
    predicted[specks] = rng.integers(0, labels + 1, specks.sum())
    return predicted, truth


def by_monai(predicted, truth, labels, spacing_mm, tolerance_mm):
    """{label: scores} by MONAI's own functions on one-hot maps."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
        compute_surface_dice,
    )

    classes = torch.arange(labels + 1).reshape(-1, *[1] * truth.ndim)
    maps = [(torch.from_numpy(each.astype(np.int64))[None] == classes)[None] for each in (predicted, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        floats = [each.float() for each in maps]
        tolerances = [tolerance_mm] * labels
        found = {
            "dice": compute_dice(*floats, include_background=False, ignore_empty=True),
            "iou": compute_iou(*floats, include_background=False, ignore_empty=True),
            "hd95_mm": compute_hausdorff_distance(*floats, percentile=95, spacing=spacing_mm),
            "hd_mm": compute_hausdorff_distance(*floats, spacing=spacing_mm),
            "assd_mm": compute_average_surface_distance(*floats, symmetric=True, spacing=spacing_mm),
            "nsd": compute_surface_dice(*floats, class_thresholds=tolerances, spacing=spacing_mm),
        }
    return {
        label: {score: float(values[0, label - 1]) for score, values in found.items()}
        for label in range(1, labels + 1)
    }


def by_surface_distance(predicted, truth, labels, spacing_mm, tolerance_mm):
    """{label: scores} by the package surface-distance; its two directed means are pooled by area."""
    import surface_distance as package

    result = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label in range(1, labels + 1):
            mine, true = predicted == label, truth == label
            if not mine.any() or not true.any():
                continue
            found = package.compute_surface_distances(true, mine, spacing_mm)
            areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
            means = package.compute_average_surface_distance(found)
            result[label] = {
                "dice": package.compute_dice_coefficient(true, mine),
                "hd95_mm": package.compute_robust_hausdorff(found, 95),
                "hd_mm": max(found["distances_gt_to_pred"].max(), found["distances_pred_to_gt"].max()),
                "assd_mm": np.dot(means, areas) / sum(areas),
                "nsd": package.compute_surface_dice_at_tolerance(found, tolerance_mm),
            }
    return {label: {k: float(v) for k, v in scores.items()} for label, scores in result.items()}


BY = {"monai": by_monai, "deepmind": by_surface_distance}


def write_reference():
    arrays, scores = {}, []
    for seed, spacing in enumerate(SPACINGS):
        shape = (18, 26, 22) if len(spacing) == 3 else (41, 57)
        predicted, truth = made_pair(shape, 4, seed, shift=1.5)
        arrays |= {f"predicted{seed}": predicted, f"truth{seed}": truth}
        for definition, peer in BY.items():
            found = peer(predicted, truth, 4, spacing, TOLERANCE_MM)
            scores.append({"pair": seed, "spacing_mm": spacing, "definition": definition, "scores": found})
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE, scores=np.array(json.dumps(scores)), **arrays)


if __name__ == "__main__":
    write_reference()

"""Dice, HD95 and surface Dice of 15 organs beside MONAI and the package surface-distance.

    python benchmarks/outline_scores.py [--size 96 256 256] [--rounds 3] [--save]

A made volume of organs (ellipsoids and boxes) and the same shifted and bent are scored by each, in turns:
MONAI's ``compute_dice``, ``compute_hausdorff_distance`` (95) and ``compute_surface_dice`` on one-hot maps,
and the package surface-distance label by label, against this project in each one's definition. Making the
one-hot maps is not timed. In a round each is called for two seconds or more, the mean call counts; a ratio
is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np

from made_organs import CLASSES, made_volume
from measurement import save
from medspectrum.metrics.segmentation import segmentation_scores

SPACING_MM = (2.0, 1.0, 1.0)
TOLERANCE_MM = 2.0
LABELS = CLASSES  # the made bodies hold one less; the body around them is the last
SCORES = ("dice", "hd95_mm", "nsd")
AT_LEAST_S = 2.0
TARGET = {"times_monai": 40.0, "largest_difference": 1e-6}


def pair(size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth: labels moved by a smooth field of about two voxels."""
    from scipy.ndimage import map_coordinates, zoom

    rng = np.random.default_rng(7)
    _, truth = made_volume(size, rng)
    middle = [slice(n // 3, n // 2) for n in size]
    truth[tuple(middle)][truth[tuple(middle)] == 0] = LABELS
    field = [
        zoom(rng.normal(0, 2, (4, 4, 4)), np.array(size) / 4, order=1)[: size[0], : size[1], : size[2]]
        for _ in range(3)
    ]
    places = [g + f for g, f in zip(np.indices(size, dtype=np.float32), field, strict=True)]
    return map_coordinates(truth, places, order=0), truth


def monai_way(predicted: np.ndarray, truth: np.ndarray):
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    classes = torch.arange(LABELS + 1).reshape(-1, 1, 1, 1)
    maps = [(torch.from_numpy(m.astype(np.int64))[None] == classes)[None].float() for m in (predicted, truth)]

    def run() -> dict[str, np.ndarray]:
        found = {
            "dice": compute_dice(*maps, include_background=False),
            "hd95_mm": compute_hausdorff_distance(*maps, percentile=95, spacing=SPACING_MM),
            "nsd": compute_surface_dice(*maps, class_thresholds=[TOLERANCE_MM] * LABELS, spacing=SPACING_MM),
        }
        return {name: values[0].double().numpy() for name, values in found.items()}

    return run


def package_way(predicted: np.ndarray, truth: np.ndarray):
    import surface_distance as package

    def run() -> dict[str, np.ndarray]:
        rows: dict[str, list[float]] = {name: [] for name in SCORES}
        for label in range(1, LABELS + 1):
            mine, true = predicted == label, truth == label
            found = package.compute_surface_distances(true, mine, SPACING_MM)
            rows["dice"].append(package.compute_dice_coefficient(true, mine))
            rows["hd95_mm"].append(package.compute_robust_hausdorff(found, 95))
            rows["nsd"].append(package.compute_surface_dice_at_tolerance(found, TOLERANCE_MM))
        return {name: np.array(values) for name, values in rows.items()}

    return run


def our_way(predicted: np.ndarray, truth: np.ndarray, definition: str):
    labels = range(1, LABELS + 1)

    def run() -> dict[str, np.ndarray]:
        found = segmentation_scores(
            predicted,
            truth,
            labels,
            spacing_mm=SPACING_MM,
            tolerance_mm=TOLERANCE_MM,
            definition=definition,  # type: ignore[arg-type]
        )
        return {name: np.array([found[label][name] for label in labels]) for name in SCORES}

    return run


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--size", type=int, nargs=3, default=[96, 256, 256])
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--save", action="store_true")
    given = ask.parse_args()
    warnings.simplefilter("ignore")
    maps = pair(tuple(given.size))
    ways = {
        "monai": monai_way(*maps),
        "ours, as monai defines": our_way(*maps, "monai"),
        "surface-distance": package_way(*maps),
        "ours, as surface-distance defines": our_way(*maps, "deepmind"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(given.rounds):
        for name, run in ways.items():
            start, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - start < AT_LEAST_S:
                found[name] = run()
                calls += 1
            seconds[name].append((time.perf_counter() - start) / calls)
    rows = {}
    for peer, ours in (("monai", "monai"), ("surface-distance", "surface-distance")):
        name = f"ours, as {ours} defines"
        rows[name] = {
            "beside": peer,
            "seconds": round(float(np.median(seconds[name])), 3),
            "seconds_of_peer": round(float(np.median(seconds[peer])), 3),
            "times": round(float(np.median(np.array(seconds[peer]) / np.array(seconds[name]))), 1),
            "largest_difference": {
                score: float(np.abs(found[name][score] - found[peer][score]).max()) for score in SCORES
            },
        }
    result = {
        "size": given.size,
        "labels": LABELS,
        "spacing_mm": SPACING_MM,
        "mean_dice": round(float(found["monai"]["dice"].mean()), 4),
        "target": TARGET,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    if given.save:
        save("outline_scores", result)


if __name__ == "__main__":
    main()

"""Dense registration beside SimpleITK's demons: seconds at equal Dice, from the same start.

    python benchmarks/registration_speed.py [--pairs 10] [--volumes 4] [--save]

Two kinds of pairs. ``made``: volumes of 96^3 with bodies of 14 classes (``made_organs.py``) and the same
moved by a smooth field of known size. ``hippocampus``: pairs of the Medical Segmentation Decathlon, brought
together by the same rigid map before, which is not timed. Only the dense step is timed: from two images on
one lattice to a displacement field there. SimpleITK works on as many threads as there are cores, three
levels (``itk.DEMONS_LEVELS``) and symmetric forces; its histogram matching is not timed. ``convex_adam`` is
timed whole, with its figures of likeness. Every way registers each pair, one after the other; a ratio is the
median over pairs of SimpleITK's seconds over ours.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from hippocampus_registration import DATA, SEED, pairs_of
from made_organs import CLASSES, made_volume
from measurement import save
from medspectrum import formats
from medspectrum.engine.align import itk
from medspectrum.engine.align.carry import carried, warped
from medspectrum.engine.align.demons import demons_field
from medspectrum.engine.align.grid import grid_of
from medspectrum.engine.align.mind import grey
from medspectrum.engine.align.pipeline import align
from medspectrum.image import Image
from medspectrum.metrics.registration import carried_dice, folding_fraction

TARGETS = {"times_simpleitk": 4.0, "dice_within": 0.01}
SIDE = 96


def made_pair(number: int) -> tuple[Image, Image, Image, Image]:
    """(moving, its labels, fixed, its labels): the fixed one is the moving one moved by up to 6 voxels."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(number)
    _, labels = made_volume((SIDE, SIDE, SIDE), rng)
    clean = Image(np.linspace(-2, 2, CLASSES, dtype=np.float32)[labels][None], np.eye(4), "CT")
    field = np.stack([gaussian_filter(rng.standard_normal((SIDE,) * 3), 10) for _ in range(3)], axis=-1)
    field = (6 * field / np.abs(field).max()).astype(np.float32)
    truth, grid = Image(labels[None], np.eye(4)), grid_of(clean)
    images = []
    for seen in (clean, warped(clean, grid, field)):  # each blurred by the scanner and with noise of its own
        noise = 0.2 * rng.standard_normal((1, SIDE, SIDE, SIDE), dtype=np.float32)
        images.append(Image(gaussian_filter(seen.array, (0, 0.7, 0.7, 0.7)) + noise, np.eye(4), "CT"))
    return images[0], truth, images[1], carried(truth, grid, field)


def hippocampus_pair(moving: str, fixed: str) -> tuple[Image, Image, Image, Image]:
    """The same of two people, the moving one brought near by a rigid map."""
    (a, a_labels), (b, b_labels) = (
        [formats.read(DATA / folder / name) for folder in ("images", "labels")] for name in (moving, fixed)
    )
    found = align(a, b, method="rigid")
    near = warped(grey(a), found.fixed, found.field, fill=0.0)
    return near, carried(a_labels, found.fixed, found.field), b, b_labels


def registered(way: str, moving: Image, fixed: Image) -> tuple[np.ndarray, float, float]:
    """(field in RAS mm on the fixed grid, wall and processor seconds of the dense step)."""
    if way == "itk_demons":
        sitk = itk.simpleitk()
        a, b = itk.to_itk(grey(moving)), itk.to_itk(grey(fixed))
        a = sitk.HistogramMatching(a, b, 128, 7, True)
        wall, cpu = time.perf_counter(), time.process_time()
        dense = itk.demons_field(b, a)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return (sitk.GetArrayFromImage(dense) * [-1.0, -1.0, 1.0]).astype(np.float32), wall, cpu
    a, b = grey(moving), grey(fixed)
    wall, cpu = time.perf_counter(), time.process_time()
    demons = way == "demons"
    field = demons_field(a, b, np.eye(4)) if demons else align(a, b, method=way, pre="none").field
    return field, time.perf_counter() - wall, time.process_time() - cpu


def mean_dice(labels: Image, fixed: Image, field: np.ndarray, truth: Image) -> float:
    """Of the labels carried to the fixed grid."""
    dice = carried_dice(carried(labels, grid_of(fixed), field).array, truth.array)
    return float(np.nanmean(list(dice.values())))


def compared(pairs: list[tuple[Image, Image, Image, Image]], ways: list[str]) -> dict[str, object]:
    """Figures of each way over the pairs."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way in ways:
        registered(way, pairs[0][0], pairs[0][2])  # warm
    for moving, labels, fixed, truth in pairs:
        for way in ways:
            field, wall, cpu = registered(way, moving, fixed)
            rows[way].append(
                {
                    "dice": mean_dice(labels, fixed, field, truth),
                    "seconds": wall,
                    "cpu_seconds": cpu,
                    "folding": folding_fraction(field, fixed.affine),
                }
            )
        print({way: round(found[-1]["dice"], 4) for way, found in rows.items()}, flush=True)
    still = [mean_dice(a, b, np.zeros((*b.size, 3), np.float32), t) for _, a, b, t in pairs]
    base = np.array([row["seconds"] for row in rows["itk_demons"]])
    told: dict[str, object] = {"pairs": len(pairs), "dice_before": round(float(np.mean(still)), 4)}
    for way, found in rows.items():
        seconds = np.array([row["seconds"] for row in found])
        told[way] = {
            "dice": round(float(np.mean([row["dice"] for row in found])), 4),
            "seconds": round(float(np.median(seconds)), 4),
            "cpu_seconds": round(float(np.median([row["cpu_seconds"] for row in found])), 4),
            "times_simpleitk": round(float(np.median(base / seconds)), 2),
            "folding": round(float(np.mean([row["folding"] for row in found])), 6),
        }
    return told


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--pairs", type=int, default=10, help="of the hippocampus")
    ask.add_argument("--volumes", type=int, default=4, help="made ones")
    ask.add_argument("--ways", nargs="*", default=["itk_demons", "demons", "convex_adam"])
    ask.add_argument("--save", action="store_true")
    given = ask.parse_args()
    result = {
        "targets": TARGETS,
        "made": compared([made_pair(n) for n in range(given.volumes)], given.ways),
        "hippocampus": compared([hippocampus_pair(*p) for p in pairs_of(given.pairs, SEED)], given.ways),
    }
    print(result)
    if given.save:
        save("registration_speed", result)


if __name__ == "__main__":
    main()

"""Inter-subject registration of hippocampus volumes beside SimpleITK: Dice of carried labels, folds, seconds.

    python benchmarks/hippocampus_registration.py [--ways ...] [--pairs 100] [--save]

100 pairs (moving, fixed), drawn with a fixed seed from the training volumes of the Medical Segmentation
Decathlon's hippocampus task; no label is seen by any registration. Labels of the moving volume are then
carried to the fixed one, and Dice (mean of anterior and posterior), HD95 and the share of voxels whose
Jacobian determinant is 0 or less are taken. Every way gets both images as the files give them. Each pair is
kept in the cache as soon as it is done, under a digest of the code, so that a stopped run goes on;
``--save`` writes what is there for all ways. Ours runs on one thread, SimpleITK on as many as there are
cores. Settings were looked at on pairs of another seed (``--seed``).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import numpy as np

import medspectrum.engine.align as engine
from measurement import save
from medspectrum import formats, store
from medspectrum.engine.align.carry import carried
from medspectrum.engine.align.pipeline import align
from medspectrum.metrics.registration import folding_fraction, log_jacobian_std
from medspectrum.metrics.segmentation import segmentation_scores

DATA = Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given") / "msd_hippocampus"
SEED = 20261124
LABELS = {1: "anterior", 2: "posterior"}
TARGETS = {"dice": 0.75, "folding": 0.005, "seconds": 2.0}
WAYS = {
    "unregistered": None,
    "rigid": {"method": "rigid"},
    "affine": {"method": "affine"},
    "convex_adam": {"method": "convex_adam"},
    "demons": {"method": "demons"},
    "convex_adam, affine start": {"method": "convex_adam", "pre": "affine"},
    "convex_adam, no start": {"method": "convex_adam", "pre": "none"},
    "itk_demons": {"method": "itk_demons"},
    "itk_bspline": {"method": "itk_bspline"},
    "itk_bspline, affine start": {"method": "itk_bspline", "pre": "affine"},
}
CHOSEN = ["unregistered", "rigid", "affine", "convex_adam", "demons", "itk_demons", "itk_bspline"]


def code(way: str) -> str:
    """Digest of the source that decides a way's figures: those of different versions never mix."""
    whole = hashlib.sha256()
    for file in sorted(Path(next(iter(engine.__path__))).glob("*.py")):
        if file.name != "demons.py" or way == "demons":
            whole.update(file.read_bytes())
    return whole.hexdigest()[:12]


def pairs_of(count: int, seed: int) -> list[tuple[str, str]]:
    """(moving, fixed) names; the two of a pair differ, pairs do not repeat."""
    names = sorted(p.name for p in (DATA / "images").glob("*.nii.gz"))
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], None] = {}
    while len(found) < count:
        a, b = rng.choice(len(names), 2, replace=False)
        found[names[a], names[b]] = None
    return list(found)


def measured(moving: str, fixed: str, settings: dict[str, str] | None) -> dict[str, object]:
    """One pair, one way."""
    (a, a_labels), (b, b_labels) = (
        [formats.read(DATA / folder / name) for folder in ("images", "labels")] for name in (moving, fixed)
    )
    wall, cpu = time.perf_counter(), time.process_time()
    if settings is None:
        from medspectrum.engine.align.grid import grid_of

        field, grid = np.zeros((*b.size, 3), np.float32), grid_of(b)
    else:
        found = align(a, b, **settings)  # type: ignore[arg-type]
        field, grid = found.field, found.fixed
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    brought = carried(a_labels, grid, field).array[0]
    truth = b_labels.array[0].astype(np.int32)
    scores = segmentation_scores(brought.astype(np.int32), truth, list(LABELS), spacing_mm=b.spacing_mm)
    return {
        "moving": moving,
        "fixed": fixed,
        "dice": {name: round(scores[label]["dice"], 5) for label, name in LABELS.items()},
        "hd95_mm": {name: round(scores[label]["hd95_mm"], 4) for label, name in LABELS.items()},
        "folding": round(folding_fraction(field, b.affine), 6),
        "log_jacobian_std": round(log_jacobian_std(field, b.affine), 4),
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
    }


def interval(values: np.ndarray, pairs: list[tuple[str, str]]) -> list[float]:
    """95 % interval of the mean, resampling patients: a pair counts as often as both of its patients do."""
    people = sorted({name for pair in pairs for name in pair})
    place = {name: i for i, name in enumerate(people)}
    first, second = (np.array([place[p[side]] for p in pairs]) for side in (0, 1))
    rng, means = np.random.default_rng(0), []
    for _ in range(2000):
        drawn = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
        weight = drawn[first] * drawn[second]
        if weight.sum():
            means.append(float((weight * values).sum() / weight.sum()))
    return [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]


def told(rows: list[dict], pairs: list[tuple[str, str]]) -> dict[str, object]:
    """One way's figures over its pairs."""
    dice = np.array([[row["dice"][name] for name in LABELS.values()] for row in rows])
    hd95 = np.array([[row["hd95_mm"][name] for name in LABELS.values()] for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    folding = np.array([row["folding"] for row in rows])
    return {
        "pairs": len(rows),
        "dice": round(float(dice.mean()), 4),
        "dice_interval": interval(dice.mean(axis=1), pairs[: len(rows)]),
        **{f"dice_{name}": round(float(dice[:, i].mean()), 4) for i, name in enumerate(LABELS.values())},
        "dice_worst_pair": round(float(dice.mean(axis=1).min()), 4),
        "hd95_mm": round(float(np.ma.masked_invalid(hd95).mean()), 3),
        "folding": round(float(folding.mean()), 6),
        "folding_worst_pair": round(float(folding.max()), 6),
        "log_jacobian_std": round(float(np.mean([row["log_jacobian_std"] for row in rows])), 4),
        "seconds_a_pair": {
            "mean": round(float(seconds.mean()), 3),
            "median": round(float(np.median(seconds)), 3),
            "longest": round(float(seconds.max()), 3),
        },
        "cpu_seconds_a_pair": round(float(np.mean([row["cpu_seconds"] for row in rows])), 3),
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--ways", nargs="*", default=CHOSEN, choices=list(WAYS))
    ask.add_argument("--pairs", type=int, default=100)
    ask.add_argument("--peers", type=int, default=30, help="pairs that other ways than convex_adam get")
    ask.add_argument("--seed", type=int, default=SEED)
    ask.add_argument("--again", action="store_true", help="measure anew what was kept")
    ask.add_argument("--save", action="store_true")
    given = ask.parse_args()
    pairs = pairs_of(given.pairs, given.seed)
    kept = store.cache_folder() / "benchmarks" / "hippocampus_registration" / str(given.seed)
    measured(*pairs[0], WAYS["convex_adam"])  # libraries are loaded and warm before a clock runs
    rows: dict[str, list[dict]] = {way: [] for way in given.ways}
    for way in given.ways:
        given_pairs = pairs if way in ("unregistered", "convex_adam") else pairs[: given.peers]
        for number, (moving, fixed) in enumerate(given_pairs):
            path = kept / f"{way.replace(', ', '-').replace(' ', '_')}-{code(way)}" / f"{number:03d}.json"
            if given.again or not path.is_file():
                store.write_json(path, measured(moving, fixed, WAYS[way]))
            rows[way].append(store.read_json(path))
        print(way, told(rows[way], pairs), flush=True)
    result = {
        "data": "MSD Task04 hippocampus, 208 training volumes",
        "seed": given.seed,
        "targets": TARGETS,
        "load_average": [round(v, 1) for v in os.getloadavg()],  # seconds are wall clock: other work counts
        "ways": {way: told(found, pairs) for way, found in rows.items()},
        "convex_adam_on_the_pairs_of_others": told(rows["convex_adam"][: given.peers], pairs),
        "each_pair": {
            f"{moving} onto {fixed}": {
                way: round(float(np.mean([*rows[way][i]["dice"].values()])), 4)
                for way in given.ways
                if i < len(rows[way])
            }
            for i, (moving, fixed) in enumerate(pairs)
        },
    }
    if given.save:
        save("hippocampus_registration", result)


if __name__ == "__main__":
    main()

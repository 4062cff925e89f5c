"""Hippocampus of the Medical Segmentation Decathlon: anterior and posterior, five folds by volume.

    python benchmarks/hippocampus.py [DATA] [--folds 0,1,2,3,4] [--methods unet] [--variant quick]
                                     [--budgets full] [--draws 1]

DATA has folders images and labels (MEDSPECTRUM_DATA/msd_hippocampus where not given). Volumes are dealt to
five folds by one permutation; each fold is judged by what was learned from the others, from all of them or
from the first of them in an order of each draw. No held-out volume decides anything: the settings are each
method's own defaults and what is named in VARIANTS, which were chosen on training volumes of fold 0, or by
what a processor can do in the time. Each run is added to the result file when it is done, and a run that the
file holds is not done again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

import outlining
from measurement import RESULTS, save

FOLDS = 5
ENCODER = "efficientnet-lite0"
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "unet": {
        "quick": {"voxels": 50_000},
        "long": {"voxels": 50_000, "features": 32, "epochs": 40, "most_steps": 3000},
        "pair": {"voxels": 50_000, "features": 32, "epochs": 40, "most_steps": 2000, "members": 2},
    }
}
WANTED = {"full": 0.885, "5": 0.83, "1": 0.70}


def folds(count: int) -> list[np.ndarray]:
    """Places of the held-out volumes of each fold."""
    return [np.sort(part) for part in np.array_split(np.random.default_rng(0).permutation(count), FOLDS)]


def labelled(count: int, fold: int, budget: str, draw: int) -> np.ndarray:
    """Places of the volumes that are learned from: of smaller budgets the first ones of larger."""
    others = np.concatenate([part for i, part in enumerate(folds(count)) if i != fold])
    if budget == "full":
        return np.sort(others)
    return np.random.default_rng([1, fold, draw]).permutation(others)[: int(budget)]


def main() -> None:
    from medspectrum import registry
    from medspectrum.tasks.segment import Segment

    here = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("data", nargs="?", type=Path, default=here / "msd_hippocampus")
    given.add_argument("--folds", default="0,1,2,3,4")
    given.add_argument("--methods", default="unet")
    given.add_argument("--budgets", default="full")
    given.add_argument("--variant", default="quick", help="of methods that have several")
    given.add_argument("--draws", type=int, default=1, help="labelled sets of each small budget")
    asked = given.parse_args()
    cases = registry.find("dataset", "pairs").thing(asked.data).cases
    task = Segment.of(cases)
    kept = RESULTS / "hippocampus.json"
    for budget in asked.budgets.split(","):
        for fold in map(int, asked.folds.split(",")):
            for name in asked.methods.split(","):
                for draw in range(1 if budget == "full" else asked.draws):
                    runs = outlining.kept_runs(kept)
                    known = VARIANTS.get(name, {"default": {}})
                    variant = asked.variant if name in VARIANTS else "default"
                    key = {"method": name, "variant": variant, "budget": budget, "fold": fold, "draw": draw}
                    if any(all(r[k] == v for k, v in key.items()) for r in runs):
                        continue
                    learn = [cases[i] for i in labelled(len(cases), fold, budget, draw)]
                    held = [cases[i] for i in folds(len(cases))[fold]]
                    found = outlining.run(
                        name, learn, held, task, encoder=ENCODER, settings=known[variant], seed=fold
                    )
                    runs = [*outlining.kept_runs(kept), {**key, **found}]
                    told = outlining.table(runs, {"1": "anterior", "2": "posterior"})
                    save("hippocampus", {"wanted": WANTED, "methods": told, "runs": runs})


if __name__ == "__main__":
    main()

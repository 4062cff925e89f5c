"""White blood cells of Jiangxi Tecom: nucleus and cytoplasm, from all labelled images and from five.

    python benchmarks/wbc_seg.py [DATA] [--methods dense_probe,decoder,...] [--budgets 5,full] [--draws 3]

DATA has files x_image.png and x_mask.png (MEDSPECTRUM_DATA/wbc_seg/jiangxi_tecom where not given). Images are
dealt once, 60 % to learn from, 20 % on which settings were chosen, 20 % that are judged here. Each run is
added to the result file when it is done, and a run that the file holds is not done again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import outlining
from measurement import RESULTS, save

ENCODER, SIZE = "efficientnet-lite0", 240
METHODS = "mean_mask,dense_knn,dense_probe,decoder,lora_decoder,full_decoder,unet"
SETTINGS: dict[str, dict[str, Any]] = {}
WANTED = {"full": {"nucleus": 0.95, "cytoplasm": 0.90}, "5": {"nucleus": 0.90, "cytoplasm": 0.80}}


def main() -> None:
    from medspectrum import registry
    from medspectrum.budgets import make_split, nested_budgets
    from medspectrum.tasks.segment import Segment

    here = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("data", nargs="?", type=Path, default=here / "wbc_seg" / "jiangxi_tecom")
    given.add_argument("--methods", default=METHODS)
    given.add_argument("--budgets", default="5,full")
    given.add_argument("--draws", type=int, default=3, help="labelled sets of each small budget")
    asked = given.parse_args()
    cases = registry.find("dataset", "pairs").thing(asked.data).cases
    task = Segment.of(cases)
    split = make_split(cases, seed=0, stratum=task.stratum, strata=1)
    kept = RESULTS / "wbc_seg.json"
    budgets = nested_budgets(
        split.train, asked.budgets.split(","), draws=asked.draws, seed=0, stratum=task.stratum
    )
    for name in asked.methods.split(","):
        for budget in budgets:
            runs = outlining.kept_runs(kept)
            settings = SETTINGS.get(name, {})
            key = {
                "method": name,
                "budget": budget.name,
                "fold": 0,
                "draw": budget.draw,
                "variant": "default",
                "size": SIZE,
            }
            if any(all(r[k] == v for k, v in key.items()) for r in runs):
                continue
            found = outlining.run(
                name, budget.cases, split.test, task, encoder=ENCODER, size=SIZE, settings=settings, seed=0
            )
            runs = [*outlining.kept_runs(kept), {**key, **found}]
            told = outlining.table(runs, {"1": "cytoplasm", "2": "nucleus"})
            save("wbc_seg", {"wanted": WANTED, "split": split.counts(), "methods": told, "runs": runs})


if __name__ == "__main__":
    main()

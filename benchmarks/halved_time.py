"""Does half of the time change the recommendation? Ten runs of explore, each beside one with half the limit.

    python benchmarks/halved_time.py [--minutes 4] [--runs 10] [--sets NAME ...] [--share 1/2] [--data FOLDER]

Public data sets, several seeds each: pneumoniamnist, malaria cells, types of white blood cells, findings of
chest X-rays. Every run begins with an empty cache, so that embedding is paid for. Two recommendations are the
same where model and method are; ``score_lost`` is what the shorter run's choice has less on the test cases.
Runs that the result file holds for the same limit are not done again. With --share, every second run is
done here and the others by a second process, each kept to one core (taskset).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import medspectrum
import outlining
from measurement import RESULTS, save

KEPT = RESULTS / "halved_time.json"
CORES = len(os.sched_getaffinity(0))
WBC = {"image": "{site}/{id:0>3}_image.png", "label": "wbc_class"}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "pneumoniamnist": ("pneumoniamnist/pneumoniamnist.npz", {}),
    "malaria_cells": ("malaria_cells/malaria_cells_50x50.npz", {}),
    "wbc_seg types": ("wbc_seg/labels.csv", WBC),
    "covid_cxr findings": (
        "covid_cxr/metadata.csv",
        {"image": "images/{image}", "label": "finding", "patient": "patientid"},
    ),
}


def run(place: Path, name: str, seed: int, minutes: float) -> dict[str, Any]:
    path, columns = SETS[name]
    with tempfile.TemporaryDirectory() as folder:
        clock = time.perf_counter()
        results = medspectrum.explore(
            place / path,
            out=Path(folder) / "out",
            cache=Path(folder) / "cache",
            seed=seed,
            draws=2,
            budget_minutes=minutes,
            quiet=True,
            **columns,
        )
    chosen = next((t for t in results["trials"] if t["id"] == results["recommended"]), None)
    primary = results["task"]["primary"]
    return {
        "minutes": minutes,
        "seconds": round(time.perf_counter() - clock, 1),
        "model": chosen["model"] if chosen else None,
        "method": chosen["method"] if chosen else None,
        "budget": chosen["budget"] if chosen else None,
        "test": chosen["scores"][primary]["value"] if chosen else None,
        "trials": len(results["trials"]),
    }


def told(runs: list[dict[str, Any]]) -> dict[str, str]:
    """By number of cores, in how many pairs the recommendation was the same."""
    cores = sorted({r["cores"] for r in runs})
    each = {n: [r["same"] for r in runs if r["cores"] == n] for n in cores}
    return {f"{n} cores": f"{sum(same)} of {len(same)}" for n, same in each.items()}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, default=Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data")))
    ask.add_argument("--minutes", type=float, default=4)
    ask.add_argument("--runs", type=int, default=10)
    ask.add_argument("--share", default="1/1", help="which part of the runs is done here")
    ask.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    given = ask.parse_args()
    part, parts = (int(n) for n in given.share.split("/"))
    asked = [
        (name, seed) for seed in range(3) for name in given.sets if (given.data / SETS[name][0]).exists()
    ]
    for name, seed in asked[: given.runs][part - 1 :: parts]:
        key = {"data": name, "seed": seed, "limit_minutes": given.minutes, "cores": CORES}
        runs = outlining.kept_runs(KEPT)
        if any(all(r[k] == v for k, v in key.items()) for r in runs):
            continue
        whole, half = (run(given.data, name, seed, given.minutes / cut) for cut in (1, 2))
        same = (whole["model"], whole["method"]) == (half["model"], half["method"])
        lost = None if None in (whole["test"], half["test"]) else round(whole["test"] - half["test"], 4)
        runs = [
            *outlining.kept_runs(KEPT),
            {**key, "whole": whole, "half": half, "same": same, "score_lost": lost},
        ]
        save("halved_time", {"wanted": "8 of 10", "same": told(runs), "runs": runs})
        print(name, seed, same, whole, half, flush=True)


if __name__ == "__main__":
    main()

"""The main job as a user starts it, with every default and an empty cache: what it tries, finds and costs.

    python benchmarks/explore_default.py [--minutes 30]

Overhead = everything (reading, describing, scoring, deciding, predictor, report) less embedding and trials'
fitting and predicting, as a share of the latter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import medspectrum
from measurement import save

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--minutes", type=float, default=30)
    minutes = ask.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = time.perf_counter()
        results = medspectrum.explore(
            DATA, out=place / "out", cache=place / "cache", budget_minutes=minutes, quiet=True
        )
        total = time.perf_counter() - started
    work = results["seconds"]["embedding"] + results["seconds"]["trials"]
    names = ("model", "method", "budget", "draw", "labels", "trained_parameters", "cpu_seconds")
    save(
        "explore_default",
        {
            "total_seconds": total,
            "embedding_seconds": results["seconds"]["embedding"],
            "trials_seconds": results["seconds"]["trials"],
            "overhead_seconds": total - work,
            "overhead_share": (total - work) / work,
            "trials": len(results["trials"]),
            "reason": results["reason"],
            "dropped": results["dropped"],
            "largest_labelled_set_of_each": [
                {n: t[n] for n in names}
                | {"validation_auc": t["selection"]["auc"]["value"]}
                | {s: t["scores"][s] for s in ("auc", "accuracy")}
                for t in _largest(results["trials"])
            ],
        },
    )


def _largest(trials: list[dict]) -> list[dict]:
    best: dict[tuple[str, str], dict] = {}
    for trial in trials:
        name = trial["model"], trial["method"]
        if name not in best or trial["labels"] > best[name]["labels"]:
            best[name] = trial
    return sorted(best.values(), key=lambda t: (-t["labels"], -(t["selection"]["auc"]["value"] or 0)))


if __name__ == "__main__":
    main()

"""PneumoniaMNIST (28 px, official split): what explore finds and recommends, beside published rows.

    python benchmarks/pneumoniamnist.py [--methods majority,knn,...] [--budgets 1,5,10,full] [--draws 5]

Runs the main job itself on the bundled data. Validation alone decides what is recommended; test scores
are told. Features and finished trials are kept in ``--cache``: a longer list of methods goes on from a
shorter one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import medspectrum
from measurement import save

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
PUBLISHED = {
    "source": "MedMNIST+ (Doerrich et al. 2024), 28 px rows",
    "DINO ViT-B linear": {"accuracy": 0.8659, "auc": 0.9729},
    "best end-to-end": {"auc": 0.9704},
}


def row(trial: dict) -> dict:
    names = ("model", "method", "budget", "draw", "labels", "trained_parameters", "cpu_seconds", "stored_mb")
    kept = {name: trial[name] for name in names}
    kept |= {f"test_{s}": trial["scores"][s] for s in ("auc", "accuracy", "balanced_accuracy")}
    return kept | {"validation_auc": trial["selection"]["auc"]["value"]}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--models", default="efficientnet-lite0,dinov2-s-derived")
    ask.add_argument("--methods", default="majority,knn,prototype,ridge,linear_probe")
    ask.add_argument("--budgets", default="1,5,10,full")
    ask.add_argument("--draws", type=int, default=5)
    ask.add_argument("--cache", type=Path, default=None)
    ask.add_argument("--name", default="pneumoniamnist")
    given = ask.parse_args()
    with tempfile.TemporaryDirectory() as out:
        results = medspectrum.explore(
            DATA, out=Path(out), models=given.models, methods=given.methods, budgets=given.budgets,
            draws=given.draws, cache=given.cache, budget_minutes=0,
        )  # fmt: skip
    full = [t for t in results["trials"] if t["budget"] == "full"]
    chosen = next(t for t in results["trials"] if t["id"] == results["recommended"])
    found = {
        "recommended": row(chosen),
        "reason": results["reason"],
        "published": PUBLISHED,
        "full_budget": sorted(map(row, full), key=lambda r: -r["validation_auc"]),
        "summary": results["summary"],
        "dropped": results["dropped"],
    }
    save(given.name, found)


if __name__ == "__main__":
    main()

"""What explore costs beside its embeddings and fits, and that a method more recomputes nothing else.

    python benchmarks/explore_overhead.py

Runs the main job on the bundled PneumoniaMNIST with an empty cache, then again with one method added.
Overhead = everything (reading, describing, scoring, deciding, predictor, report) less embedding and trials'
fitting and predicting, as a share of the latter.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import medspectrum
from measurement import save

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
METHODS = "majority,prototype,ridge,linear_probe"
ADDED = "knn"


def run(out: Path, cache: Path, methods: str, models: str) -> dict:
    started = time.perf_counter()
    results = medspectrum.explore(
        DATA, out=out, cache=cache, models=models, methods=methods, budget_minutes=0, draws=5, quiet=True
    )
    total = time.perf_counter() - started
    work = results["seconds"]["embedding"] + results["seconds"]["trials"]
    return {
        "total_seconds": total,
        "embedding_seconds": results["seconds"]["embedding"],
        "trials_seconds": results["seconds"]["trials"],
        "overhead_seconds": total - work,
        "overhead_share": (total - work) / work,
        "trials": len(results["trials"]),
        "records": {t["id"]: t for t in results["trials"]},
    }


def _told(record: dict) -> dict:
    """The record without what is added only to trials on the front, which one more method may change."""
    return {k: v for k, v in record.items() if k not in ("per_class", "per_centre")}


def main() -> None:
    models = "efficientnet-lite0,dinov2-s-derived"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = run(place / "a", place / "cache", METHODS, models)
        more = run(place / "b", place / "cache", METHODS + "," + ADDED, models)
    kept = [_told(more["records"][name]) == _told(record) for name, record in first["records"].items()]
    added = [t["method"] for name, t in more["records"].items() if name not in first["records"]]
    found = {
        "first": {k: v for k, v in first.items() if k != "records"},
        "with_one_method_more": {k: v for k, v in more.items() if k != "records"},
        "earlier_records_unchanged": all(kept),
        "newly_computed_methods": sorted(set(added)),
        "newly_computed_trials": len(added),
    }
    save("explore_overhead", found)


if __name__ == "__main__":
    main()

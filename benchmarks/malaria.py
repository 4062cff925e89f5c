"""Malaria cells split by patient, and what a split by image would have pretended.

    python benchmarks/malaria.py DATA.npz

The same cells, models, methods and shares twice: once with each cell's patient, so that no patient stands on
two sides; once as if every cell were a patient of its own. The difference of the test scores, and of their
intervals, is what the second split pretends. DATA.npz holds images, labels and patient.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import medspectrum
from measurement import save

METHODS = "majority,knn,ridge,linear_probe"
MODELS = "efficientnet-lite0,dinov2-s-derived"


def run(data: Path, out: Path) -> dict:
    results = medspectrum.explore(
        data, out=out, models=MODELS, methods=METHODS, budgets="10,full", draws=3, size=112, budget_minutes=0
    )
    chosen = next(t for t in results["trials"] if t["id"] == results["recommended"])
    keep = ("auc", "accuracy", "balanced_accuracy")
    return {
        "split": results["split"],
        "recommended": [chosen["model"], chosen["method"], {s: chosen["scores"][s] for s in keep}],
        "reason": results["reason"],
        "full_budget": {
            f"{t['model']} {t['method']}": {
                "validation_auc": t["selection"]["auc"]["value"],
                **{s: t["scores"][s] for s in keep},
            }
            for t in results["trials"]
            if t["budget"] == "full"
        },
    }


def main() -> None:
    with np.load(sys.argv[1], allow_pickle=False) as held:
        arrays = {name: held[name] for name in ("images", "labels", "patient")}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = {"patients": len(set(arrays["patient"].tolist())), "cells": len(arrays["labels"])}
        for name in ("by_patient", "by_image"):
            if name == "by_image":
                arrays["patient"] = np.array([f"cell{i}" for i in range(len(arrays["labels"]))])
            np.savez(place / f"{name}.npz", **arrays)
            found[name] = run(place / f"{name}.npz", place / name)
    both = found["by_patient"]["full_budget"], found["by_image"]["full_budget"]
    found["pretended_auc"] = {
        name: both[1][name]["auc"]["value"] - both[0][name]["auc"]["value"] for name in both[0]
    }
    save("malaria", found)


if __name__ == "__main__":
    main()

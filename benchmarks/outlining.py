"""What the benchmarks of outlines share: a method learned, predicted and scored once, and tables of runs."""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def run(
    name: str, learn: Sequence[Any], held: Sequence[Any], task: Any, *, encoder: str, size: int | None = None,
    settings: dict[str, Any], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Learn, predict and score; seconds are of learning (embedding included) and of predicting."""
    import torch

    from medspectrum import registry
    from medspectrum.engine.openvino import native_bf16
    from medspectrum.models import resolve

    entry = registry.find("method", name)
    asks = entry.facts.get("needs_model", True)
    with tempfile.TemporaryDirectory() as cache:  # so that no run finds features that another paid for
        model = resolve(encoder, size=size, cache=Path(cache)) if asks else None
        clock = [(time.perf_counter(), time.process_time())]
        predictor = entry.thing(model, learn, task, seed=seed, **settings)
        clock.append((time.perf_counter(), time.process_time()))
        found = predictor.predict(held)
        clock.append((time.perf_counter(), time.process_time()))
    scored = task.score(found, held, resamples=0)
    by_label = {label: round(of["dice"]["value"], 5) for label, of in scored["per_class"].items()}
    learning, predicting = (
        {"wall": round(b[0] - a[0], 1), "processor": round(b[1] - a[1], 1)}
        for a, b in itertools.pairwise(clock)
    )
    return {
        "method": name,
        "model": encoder if asks else None,
        "settings": settings,
        "labelled": len(learn),
        "judged": len(held),
        "threads": torch.get_num_threads(),
        "bf16": native_bf16(),
        "learning_seconds": learning,
        "predicting_seconds": predicting,
        "steps": predictor.state()[1].get("steps"),
        "dice": by_label,
        "mean_dice": round(float(np.mean(list(by_label.values()))), 5),
        "dice_of_cases": [round(float(d), 4) for d in task.shown(found, held)["case_score"]],
    }


def kept_runs(path: Path) -> list[dict[str, Any]]:
    """The runs that a result file holds; read anew each time, since several processes may add to it."""
    return json.loads(path.read_text())["result"]["runs"] if path.exists() else []


def table(runs: Sequence[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    """Per method, variant and budget: the mean over folds of the mean over draws, and what it took.

    names: of the labels, as the task calls them -> as they are told.
    """
    made: dict[str, Any] = {}
    for name, variant in sorted({(r["method"], r["variant"]) for r in runs}):
        those = [r for r in runs if (r["method"], r["variant"]) == (name, variant)]
        told = name if variant == "default" else f"{name}, {variant}"
        for budget in sorted({r["budget"] for r in those}, key=lambda b: b.zfill(4)):
            own = [r for r in those if r["budget"] == budget]
            by_fold = {f: [r for r in own if r["fold"] == f] for f in sorted({r["fold"] for r in own})}

            def mean(of: Callable[[dict[str, Any]], float], parts: Any = by_fold) -> float:
                each = [statistics.mean(of(r) for r in part) for part in parts.values()]
                return round(statistics.mean(each), 4)

            made.setdefault(told, {})[budget] = {
                "folds": list(by_fold),
                "draws": max(map(len, by_fold.values())),
                "mean_dice": mean(lambda r: r["mean_dice"]),
                **{of: mean(lambda r, k=label: r["dice"][k]) for label, of in names.items()},
                "learning_wall_seconds": mean(lambda r: r["learning_seconds"]["wall"]),
                "learning_processor_seconds": mean(lambda r: r["learning_seconds"]["processor"]),
            }
    return made

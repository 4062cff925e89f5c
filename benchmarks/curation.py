"""A tenth of the cases chosen by features, beside a tenth by chance: what a head learns from each.

    python benchmarks/curation.py [DATA] [--draws 20] [--sets pneumoniamnist,malaria_cells,wbc_seg]

Twenty draws. In each, patients are dealt anew to what is chosen from and what is judged on (80 to 20;
PneumoniaMNIST keeps its official test part, and of its training part a draw takes 80 % of the patients).
From the same cases every strategy of ``curate`` chooses a tenth, and chance does so five times (the mean
counts). ``ridge`` on the frozen features of the encoder that ``curate`` takes by itself is fitted on each;
nothing is tuned, here or anywhere, on what is judged. Differences are paired by draw; the interval is
Student's over the draws, which share cases, so it is rather too narrow than too wide. Tail: the classes
that the house calls so (at most a fifth of the largest), those that have cases to judge on; the score is
the mean of their sensitivities. ``balanced`` knows the labels, the others do not. Kept row by row: a run
that the file holds is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from measurement import RESULTS, save
from medspectrum import registry
from medspectrum.budgets import make_split
from medspectrum.case import Case
from medspectrum.datasets import load
from medspectrum.describe import describe_cases, usable
from medspectrum.metrics.classification import long_tail
from medspectrum.pool import Pool, see, seeing, twins
from medspectrum.progress import silent
from medspectrum.strategies import STRATEGIES, baseline

NAMES = ("representative", "spread", "typical", "corner", "balanced")
SHARE, CHANCES, LEFT = 0.1, 5, 0.2
WBC: dict[str, Any] = {"image": "{site}/{id:0>3}_image.png", "label": "wbc_class"}
SETS = {
    "pneumoniamnist": ("pneumoniamnist/pneumoniamnist.npz", {}),
    "malaria_cells": ("malaria_cells/malaria_cells_50x50.npz", {}),
    "wbc_seg": ("wbc_seg/labels.csv", WBC),
}


def seen(place: Path, name: str) -> tuple[Any, dict[str, Any], tuple[Case, ...], np.ndarray]:
    """The encoder, what describe says, the cases that have a class, and their unit rows."""
    from medspectrum.store import cache_folder

    file, settings = SETS[name]
    case_set = load(place / file, **settings)
    facts = describe_cases(case_set)
    cases = tuple(c for c in usable(case_set, facts)[0].cases if c.target is not None)
    encoder = seeing("", cases, facts, None, cache_folder())[0]
    rows, cases, _ = see([encoder], cases, silent())
    return encoder, facts, cases, rows[0]


def dealt(cases: tuple[Case, ...], draw: int) -> tuple[list[int], list[int]]:
    """Places of the cases to choose from, and of those to judge on; no patient in both."""
    given = [c for c in cases if c.split is not None]
    place_of = {case.id: place for place, case in enumerate(cases)}
    if not given:
        split = make_split(cases, seed=draw)
        learned, judged = (*split.train, *split.val), split.test
    else:
        learned = tuple(replace(c, split=None) for c in cases if c.split == "train")
        split = make_split(learned, seed=draw)
        learned, judged = (*split.train, *split.val), tuple(c for c in cases if c.split == "test")
    return [place_of[c.id] for c in learned], [place_of[c.id] for c in judged]


def scores(
    encoder: Any, task: Any, chosen: list[Case], judged: list[Case], tail: list[int]
) -> dict[str, Any]:
    """AUC, balanced accuracy and the mean sensitivity of the tail classes; None where it says nothing."""
    answers = registry.find("method", "ridge").thing(encoder, chosen, task, seed=0).predict(judged)
    truth = np.array([task.target(c) for c in judged])
    hits = [float((answers[truth == k].argmax(axis=1) == k).mean()) for k in np.unique(truth)]
    rare = [h for k, h in zip(np.unique(truth), hits, strict=True) if k in tail]
    auc = task.score(answers, judged, resamples=0)["scores"]["auc"]["value"]
    return {
        "auc": auc,
        "balanced_accuracy": float(np.mean(hits)),
        "tail": float(np.mean(rare)) if rare else None,
    }


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        key: None if any(r[key] is None for r in rows) else float(np.mean([r[key] for r in rows]))
        for key in rows[0]
    }


def draw_of(seen_: Any, draw: int) -> dict[str, Any]:
    """What every strategy and chance reach in one draw."""
    encoder, facts, cases, rows = seen_
    task = registry.find("task", "classify").thing.of(cases)
    labels = np.array([task.target(c) for c in cases])
    tail = long_tail(np.bincount(labels, minlength=len(task.classes)).tolist()).get("tail", [])
    learned, judged = dealt(cases, draw)
    own = tuple(cases[i] for i in learned)
    place_of = {c.id: i for i, c in enumerate(own)}
    aside = tuple(place_of[n] for n in twins(own, _among(facts, place_of)) if n in place_of)
    from medspectrum.engine.selection import unit_rows

    pool = Pool(own, unit_rows(rows[learned]), aside=aside, seed=draw)
    count = round(SHARE * len(own))
    test = [cases[i] for i in judged]
    found = {}
    for name in NAMES:
        chosen = [own[one.place] for one in STRATEGIES[name](pool, count)]
        found[name] = scores(encoder, task, chosen, test, tail)
    draws = [[own[p] for p, _ in baseline(pool, count, 1000 * draw + i)] for i in range(CHANCES)]
    found["chance"] = mean_of([scores(encoder, task, chosen, test, tail) for chosen in draws])
    return {"draw": draw, "pool": len(own), "chosen": count, "judged": len(test), "scores": found}


def _among(facts: dict[str, Any], names: dict[str, int]) -> dict[str, Any]:
    """Duplicates of these cases alone."""
    twice = facts["duplicates"]
    groups = {kind: [[n for n in group if n in names] for group in twice[kind]] for kind in ("exact", "near")}
    return {"duplicates": {kind: [g for g in own if len(g) > 1] for kind, own in groups.items()}}


def told(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of each strategy, and its difference from chance with the interval over draws."""
    from scipy.stats import t

    found: dict[str, Any] = {}
    for name in (*NAMES, "chance"):
        for score in ("auc", "balanced_accuracy", "tail"):
            pairs = [(r["scores"][name][score], r["scores"]["chance"][score]) for r in runs]
            known = np.array([p for p in pairs if None not in p])
            if not len(known):
                continue
            row: dict[str, Any] = {"mean": float(known[:, 0].mean()), "draws": len(known)}
            if name != "chance" and len(known) > 1:
                less = known[:, 0] - known[:, 1]
                half = float(t.ppf(0.975, len(less) - 1) * less.std(ddof=1) / np.sqrt(len(less)))
                mean = float(less.mean())
                row |= {"beside_chance": mean, "low": mean - half, "high": mean + half}
            found.setdefault(name, {})[score] = row
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    here = Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data"))
    ask.add_argument("data", nargs="?", type=Path, default=here)
    ask.add_argument("--draws", type=int, default=20)
    ask.add_argument("--sets", default=",".join(SETS))
    asked = ask.parse_args()
    kept = RESULTS / "curation.json"
    held = json.loads(kept.read_text())["result"] if kept.is_file() else {}
    for name in asked.sets.split(","):
        runs = held.get(name, {}).get("runs", [])
        todo = [d for d in range(asked.draws) if d not in {r["draw"] for r in runs}]
        if not todo:
            continue
        own = seen(asked.data, name)
        for draw in todo:
            runs = [*runs, draw_of(own, draw)]
            held[name] = {"encoder": own[0].card.name, "size": own[0].size, "told": told(runs), "runs": runs}
            save("curation", held)


if __name__ == "__main__":
    main()

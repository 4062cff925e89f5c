"""What suggest expects of a model beside what fitting it finds: rank correlation over models, per data set.

    python benchmarks/transferability.py [--looked-at 200] [--most 1500]

For each public data set, ten encoders (two real ones and their twins at several input sizes) are asked
about at most ``looked-at`` training cases: the closed-form score of patients left out, and
LogME. Then heads are fitted on all training cases and the best of them by validation is judged on the test
cases. Spearman's correlation over the encoders says how well the order was foreseen; the regret is what the
encoder named first loses against the best one on the test cases. Of large sets ``most`` cases are kept, whole
patients by chance.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from few_shot import ENCODERS
from measurement import save
from medspectrum import registry
from medspectrum.budgets import make_split
from medspectrum.case import CaseSet
from medspectrum.datasets import load
from medspectrum.models import resolve
from medspectrum.transfer import some_cases, worth

HEADS = ("knn", "ridge", "linear_probe")
SEED = 0


def sets(place: Path) -> dict[str, CaseSet]:
    """The data sets that lie there, each with a class per case."""
    found = {
        "pneumoniamnist": lambda: load(place / "pneumoniamnist" / "pneumoniamnist.npz"),
        "malaria_cells": lambda: load(place / "malaria_cells" / "malaria_cells_50x50.npz"),
        "wbc_seg types": lambda: load(
            place / "wbc_seg" / "labels.csv", image="{site}/{id:0>3}_image.png", label="wbc_class"
        ),
    }
    return {name: read() for name, read in found.items() if (place / name.split()[0]).is_dir()}


def kept(cases, most: int):
    """Whole patients by chance until there are so many cases."""
    rng = np.random.default_rng(SEED)
    by_patient: dict[str, list] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case)
    chosen: list = []
    for patient in rng.permutation(sorted(by_patient)):
        if len(chosen) >= most:
            break
        chosen += by_patient[patient]
    return chosen


def judged(encoder, split, task) -> float:
    """Test score of the head that serves validation best, all fitted on all training cases."""
    best, score = -1.0, 0.0
    for name in HEADS:
        predictor = registry.find("method", name).thing(encoder, split.train, task, seed=SEED)
        by_val, by_test = (
            task.score(predictor.predict(part), part, resamples=0)["scores"][task.primary]["value"]
            for part in (split.val, split.test)
        )
        if by_val > best:
            best, score = by_val, by_test
    return score


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    here = Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data"))
    ask.add_argument("data", nargs="?", type=Path, default=here)
    ask.add_argument("--looked-at", type=int, default=200)
    ask.add_argument("--most", type=int, default=1500)
    given = ask.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, case_set in sets(given.data).items():
            task = registry.find("task", "classify").thing.of(case_set.cases)
            cases = kept([c for c in case_set.cases if not task.lacking(c)], given.most)
            split = make_split(cases, seed=SEED, stratum=task.stratum)
            some = some_cases(split.train, task, given.looked_at, SEED)
            rows = []
            for model, size in ENCODERS:
                encoder = resolve(model, size=size, cache=Path(cache))
                encoder.ensure([i for c in some for i in task.seen(c)])
                clock = time.perf_counter()
                found = worth(encoder, some, task)
                asking = time.perf_counter() - clock
                rows.append(
                    {
                        "model": f"{model} at {size}",
                        "expected": found.score,
                        "log_evidence": found.evidence,
                        "seconds": round(asking, 3),
                        "fitted": judged(encoder, split, task),
                    }
                )
            fitted = [row["fitted"] for row in rows]
            result[name] = {"cases": split.counts(), "asked": len(some), "models": rows}
            for figure in ("expected", "log_evidence"):
                told = [row[figure] for row in rows]
                result[name][figure] = {
                    "spearman": round(float(spearmanr(told, fitted)[0]), 3),
                    "regret": round(max(fitted) - fitted[int(np.argmax(told))], 4),
                }
            print(name, {f: result[name][f] for f in ("expected", "log_evidence")}, flush=True)
    save("transferability", result)


if __name__ == "__main__":
    main()

"""Planted wrong labels found by ``curate --strategy mislabelled``, beside cleanlab.

    python benchmarks/mislabels.py [DATA] [--draws 20] [--sets wbc_seg,pneumoniamnist,malaria_cells]

In each of twenty draws a twentieth of the cases get another class by chance; of large sets whole patients
by chance are taken until there are ``most`` cases. Both see the same frozen features of the encoder that
``curate`` takes by itself. Ours: the closed form, patients held out. cleanlab: as its guide has it, out-of-
sample probabilities by scikit-learn's logistic regression in five folds (patients held out as well), ranked
by ``get_label_quality_scores`` (normalised margin), and named by ``find_label_issues``. Average precision
over all cases; precision, recall and F1 of what is named. Labels that were wrong before count as errors of
both. Differences paired by draw, with Student's interval. cleanlab (AGPL) is no dependency; install it
apart:
    python -m venv --system-site-packages PEERS && PEERS/bin/pip install cleanlab
and run this by PEERS/bin/python. Kept draw by draw: what the file holds is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from curation import seen
from measurement import RESULTS, save
from medspectrum.strategies import margins
from medspectrum.transfer import patients_left_out

PLANTED, FOLDS = 0.05, 5


def some(patients: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Places of whole patients by chance."""
    chosen: list[int] = []
    for patient in rng.permutation(np.unique(patients)):
        if len(chosen) >= most:
            break
        chosen += np.flatnonzero(patients == patient).tolist()
    return np.sort(chosen)


def ours(rows: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) how suspicious each label is, and (n,) bool whether it is named."""
    found = patients_left_out(rows, labels, list(patients))
    assert found is not None
    scores, held, _ = found
    own, other, _ = margins(scores, labels)
    return np.where(held, other - own, -1), held & (other > own)


def cleanlab(rows: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    head = LogisticRegression(max_iter=1000)
    likely = cross_val_predict(head, rows, labels, groups=patients, cv=folds, method="predict_proba")
    quality = get_label_quality_scores(labels, likely, method="normalized_margin")
    return -quality, find_label_issues(labels, likely, n_jobs=1)


def judged(suspicion: np.ndarray, named: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    hits = float((named & wrong).sum())
    precision, recall = hits / max(named.sum(), 1), hits / wrong.sum()
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    ap = float(average_precision_score(wrong, suspicion))
    return {"average_precision": ap, "precision": precision, "recall": float(recall), "f1": float(f1)}


def draw_of(
    rows: np.ndarray, truth: np.ndarray, patients: np.ndarray, most: int, draw: int
) -> dict[str, Any]:
    rng = np.random.default_rng([draw, 9])
    places = some(patients, most, rng)
    rows, labels, patients = rows[places], truth[places].copy(), patients[places]
    kinds, labels = np.unique(labels, return_inverse=True)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(PLANTED * len(labels)), replace=False)] = True
    labels[wrong] = (labels[wrong] + rng.integers(1, len(kinds), wrong.sum())) % len(kinds)
    found: dict[str, Any] = {"draw": draw, "cases": len(labels), "planted": int(wrong.sum())}
    for name, way in (("ours", ours), ("cleanlab", cleanlab)):
        begun = time.process_time()
        answers = way(rows.astype(np.float64), labels, patients)
        found[name] = {**judged(*answers, wrong), "cpu_seconds": time.process_time() - begun}
    return found


def told(runs: list[dict[str, Any]]) -> dict[str, Any]:
    from scipy.stats import t

    out: dict[str, Any] = {}
    for score in ("average_precision", "precision", "recall", "f1", "cpu_seconds"):
        a, b = (np.array([r[name][score] for r in runs]) for name in ("ours", "cleanlab"))
        out[score] = {"ours": float(a.mean()), "cleanlab": float(b.mean())}
        if len(runs) > 1:
            half = float(t.ppf(0.975, len(runs) - 1) * (a - b).std(ddof=1) / np.sqrt(len(runs)))
            mean = float((a - b).mean())
            out[score] |= {"difference": mean, "low": mean - half, "high": mean + half}
    return out


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    here = Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data"))
    ask.add_argument("data", nargs="?", type=Path, default=here)
    ask.add_argument("--draws", type=int, default=20)
    ask.add_argument("--sets", default="wbc_seg,pneumoniamnist,malaria_cells")
    ask.add_argument("--most", type=int, default=1500)
    asked = ask.parse_args()
    kept = RESULTS / "mislabels.json"
    held = json.loads(kept.read_text())["result"] if kept.is_file() else {}
    for name in asked.sets.split(","):
        runs = held.get(name, {}).get("runs", [])
        todo = [d for d in range(asked.draws) if d not in {r["draw"] for r in runs}]
        if not todo:
            continue
        _, _, cases, rows = seen(asked.data, name)
        truth = np.unique([c.target.label for c in cases], return_inverse=True)[1]  # type: ignore[union-attr]
        count = np.bincount(truth)
        usable = count[truth] >= FOLDS  # cleanlab's folds need so many of a class
        patients = np.array([c.patient for c in cases])
        for draw in todo:
            runs = [*runs, draw_of(rows[usable], truth[usable], patients[usable], asked.most, draw)]
            held[name] = {"told": told(runs), "runs": runs}
            save("mislabels", held)


if __name__ == "__main__":
    main()

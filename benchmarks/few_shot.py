"""A few-shot sweep beside the scikit-learn loop: 10 features x 5 budgets x 10 draws x 10 penalties.

Features are those of real encoders at several input sizes and of their random twins, on PneumoniaMNIST
(MEDSPECTRUM_DATA, or ../shared/data); they are computed before anything is timed. Both sides fit the same
5,000 regressions on the same float32 features with class-balanced weights, and give weights and intercepts;
labels are predicted for 200 validation cases, outside of the time. The loop runs with as many BLAS threads
as suit it best: one model is timed with one thread and with all beforehand.

    python benchmarks/few_shot.py [--repeats 3] [--made]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from medspectrum.engine.few_shot import sweep

warnings.filterwarnings("ignore")
BUDGETS, DRAWS = (1, 5, 10, 20, 50), 10
PENALTIES = np.logspace(2, -4, 10)
ENCODERS = (
    ("efficientnet-lite0", 64),
    ("efficientnet-lite0", 96),
    ("efficientnet-lite0", 128),
    ("efficientnet-lite0", 160),
    ("efficientnet-lite0-random", 64),
    ("efficientnet-lite0-random", 128),
    ("dinov2-s-derived", 70),
    ("dinov2-s-derived", 98),
    ("dinov2-s-derived-random", 70),
    ("dinov2-s-derived-random", 98),
)


def real_features(learn: int = 900, test: int = 200):
    """Features of ten encoders on PneumoniaMNIST's training and validation parts."""
    from medspectrum import registry
    from medspectrum.models import resolve

    data = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = next((data / "pneumoniamnist").glob("*.npz"))
    cases = registry.find("dataset", "medmnist").thing(path).cases
    rng = np.random.default_rng(0)
    chosen = []
    for split, number in (("train", learn), ("val", test)):
        part = [case for case in cases if case.split == split]
        chosen += [part[i] for i in rng.permutation(len(part))[:number]]
    images = [next(iter(case.images.values())) for case in chosen]
    names = sorted({case.target.label for case in chosen})
    labels = np.array([names.index(case.target.label) for case in chosen])
    features = []
    for name, size in ENCODERS:
        encoder = resolve(name, size=size)
        encoder.ensure(images)
        features.append(np.asarray(encoder.embed(images, "pooled").pooled, dtype=np.float32))
    return features, labels, learn, [f"{name} at {size}" for name, size in ENCODERS]


def made_features(learn: int = 900, test: int = 200):
    """Overlapping Gaussian classes with a falling spectrum, where no data is at hand."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, learn + test)
    features = []
    for width in (1280,) * 6 + (384,) * 4:
        axes = np.linalg.qr(rng.normal(size=(width, 64)))[0] * np.geomspace(3, 0.1, 64)
        latent = rng.normal(size=(len(labels), 64)) + 0.6 * labels[:, None] * (rng.random(64) < 0.3)
        features.append((latent @ axes.T + 0.05 * rng.normal(size=(len(labels), width))).astype(np.float32))
    return features, labels, learn, [f"made, {f.shape[1]} wide" for f in features]


def scaled(features: np.ndarray, learn: int) -> np.ndarray:
    """Centred, and of length 1 on average, by the training part: what a penalty is meant for."""
    centred = features - features[:learn].mean(axis=0)
    return centred / np.sqrt((centred[:learn] ** 2).sum(axis=1).mean())


def labelled_sets(labels: np.ndarray, learn: int) -> list[np.ndarray]:
    """Nested labelled sets: each draw's larger budget holds its smaller one."""
    sets = []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        order = [rng.permutation(np.flatnonzero(labels[:learn] == c)) for c in range(2)]
        sets += [np.concatenate([some[:budget] for some in order]) for budget in BUDGETS]
    return sets


def scikit_learn(features, labels, sets, make) -> tuple[float, list]:
    """The loop that one would write: seconds, and for each model and set the fitted estimators."""
    fitted = []
    start = time.perf_counter()
    for rows in features:
        for of_set in sets:
            x, y = rows[of_set], labels[of_set]
            fitted.append([make(penalty).fit(x, y) for penalty in PENALTIES])
    return time.perf_counter() - start, fitted


def best_threads(features, labels, sets, make) -> int:
    """The number of BLAS threads with which the loop is quickest."""
    seconds = {}
    for threads in (1, os.cpu_count() or 1):
        with threadpool_limits(threads, user_api="blas"):
            seconds[threads] = scikit_learn(features[:1], labels, sets, make)[0]
    return min(seconds, key=seconds.__getitem__)


def ours(features, labels, sets, head) -> tuple[float, list]:
    """The same regressions by one call."""
    start = time.perf_counter()
    fits = sweep(features, labels, sets, classes=2, penalties=PENALTIES, head=head)
    return time.perf_counter() - start, [fit for of_model in fits for fit in of_model]


def predicted(features, sets, learn, fitted) -> np.ndarray:
    """(problems, penalties, test cases) predicted labels of either side."""
    found = []
    for i, fits in enumerate(fitted):
        test = features[i // len(sets)][learn:].astype(np.float64)
        if isinstance(fits, list):
            found.append([one.decision_function(test).ravel() > 0 for one in fits])
        else:
            found.append(fits.logits(test)[:, :, 0] > 0)
    return np.array(found)


def objective(features, labels, sets, fitted) -> np.ndarray:
    """(problems, penalties) logistic objectives that were reached."""
    found = []
    for i, fits in enumerate(fitted):
        of_set = sets[i % len(sets)]
        x, y = features[i // len(sets)][of_set].astype(np.float64), labels[of_set]
        for j, penalty in enumerate(PENALTIES):
            if isinstance(fits, list):
                w, b = fits[j].coef_[0].astype(np.float64), float(fits[j].intercept_[0])
            else:
                w, b = fits.weights[j, :, 0], fits.intercepts[j, 0]
            f = x @ w + b
            found.append((np.logaddexp(0, f) - y * f).sum() + penalty / 2 * (w @ w))
    return np.array(found).reshape(len(fitted), -1)


def main() -> None:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--repeats", type=int, default=3)
    given.add_argument("--made", action="store_true", help="made features instead of real ones")
    given.add_argument("--exact", type=int, default=2, help="models whose labels are checked at tol=1e-9")
    asked = given.parse_args()
    features, labels, learn, names = (made_features if asked.made else real_features)()
    features = [scaled(rows, learn) for rows in features]
    sets = labelled_sets(labels, learn)
    sides = {
        "logistic": lambda p: LogisticRegression(C=1 / p, class_weight="balanced"),
        "ridge": lambda p: RidgeClassifier(alpha=p, class_weight="balanced"),
    }
    result: dict = {"features": names, "fits": len(features) * len(sets) * len(PENALTIES)}
    for head, make in sides.items():
        times = []
        threads = best_threads(features, labels, sets, make)
        for _ in range(asked.repeats):
            mine, fits = ours(features, labels, sets, head)
            with threadpool_limits(threads, user_api="blas"):
                theirs, known = scikit_learn(features, labels, sets, make)
            times.append((mine, theirs))
        result[head] = {
            "seconds": statistics.median(t[0] for t in times),
            "scikit_learn_seconds": statistics.median(t[1] for t in times),
            "times_faster": statistics.median(t[1] / t[0] for t in times),
            "pairs": times,
            "scikit_learn_blas_threads": threads,
        }
        _, again = ours(features, labels, sets, head)
        result[head]["bit_equal_again"] = all(
            np.array_equal(a.weights, b.weights) for a, b in zip(fits, again, strict=True)
        )
        mine_labels = predicted(features, sets, learn, fits)
        their_labels = predicted(features, sets, learn, known)
        if head == "ridge":
            result[head]["labels_agree_with_scikit_learn"] = float((mine_labels == their_labels).mean())
            continue
        few = [round(i) for i in np.linspace(0, len(features) - 1, asked.exact)]
        part = [f * len(sets) + s for f in few for s in range(len(sets))]
        exact = [
            [
                LogisticRegression(C=1 / p, class_weight="balanced", tol=1e-9, max_iter=50_000).fit(
                    features[i // len(sets)][sets[i % len(sets)]].astype(np.float64),
                    labels[sets[i % len(sets)]],
                )
                for p in PENALTIES
            ]
            for i in part
        ]
        exact_labels = np.array(
            [
                [
                    one.decision_function(features[i // len(sets)][learn:].astype(np.float64)) > 0
                    for one in fits_
                ]
                for i, fits_ in zip(part, exact, strict=True)
            ]
        )
        result[head]["labels_agree_with_tol_1e-9"] = {
            "models": [names[f] for f in few],
            "ours": float((mine_labels[part] == exact_labels).mean()),
            "scikit_learn_default": float((their_labels[part] == exact_labels).mean()),
        }
        reached, theirs_reached = (objective(features, labels, sets, x) for x in (fits, known))
        result[head]["objective_above_best"] = {
            "ours": float(np.max(reached / np.minimum(reached, theirs_reached) - 1)),
            "scikit_learn_default": float(np.max(theirs_reached / np.minimum(reached, theirs_reached) - 1)),
        }
    result["machine"] = {
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "blas": [
            {k: p[k] for k in ("internal_api", "version", "architecture", "num_threads") if k in p}
            for p in threadpool_info()
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    to = Path(__file__).parent / "results" / ("few_shot_made.json" if asked.made else "few_shot.json")
    to.parent.mkdir(exist_ok=True)
    to.write_text(text + "\n")


if __name__ == "__main__":
    main()

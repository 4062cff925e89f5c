"""A real exploration in a second: scikit-learn's handwritten digits, simple features, simple heads.

It fills the words of results.json with computed numbers only, so that reports can be tested before
and apart from the main job.
"""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from medspectrum.metrics.bootstrap import intervals
from medspectrum.metrics.classification import SCORES, one_class
from medspectrum.tasks.classify import REPORTED

CENTRES = ("North", "Harbour", "Upper Valley")


def features(name: str, images: np.ndarray, train: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    flat = images.reshape(len(images), -1) / 16
    if name == "pca":
        return PCA(16, random_state=0).fit(flat[train]).transform(flat)
    if name == "edges":
        down, across = np.diff(images, axis=1) / 16, np.diff(images, axis=2) / 16
        return np.hstack([np.abs(down).sum(2), np.abs(across).sum(1), down.mean(2), across.mean(1)])
    return np.tanh(flat @ np.random.default_rng(1).normal(size=(64, 4)))


def head(name: str):
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    return {
        "majority": lambda: DummyClassifier(),
        "knn": lambda: KNeighborsClassifier(1),
        "linear_probe": lambda: LogisticRegression(class_weight="balanced", max_iter=1000),
    }[name]()


def judge(p, truth, patients, places, classes) -> dict:
    """As the task classify scores, with fewer resamples."""

    def centre(rows):
        found = {name: SCORES[name](p[rows], truth[rows]) for name in REPORTED}
        return {"n": len(rows), "patients": len(set(patients[rows])), **no_nan(found)}

    return {
        "scores": intervals(p, truth, patients, scores=REPORTED, resamples=50, seed=0),
        "per_class": {
            c: {"n": int((truth == i).sum()), **no_nan(one_class(p, truth, i))} for i, c in enumerate(classes)
        },
        "per_centre": {c: centre(np.flatnonzero(places == c)) for c in sorted(set(places)) if c},
    }


def no_nan(values: dict) -> dict:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray((image / 16 * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST).save(
        out, "PNG"
    )
    return out.getvalue()


def explore_digits(**settings) -> tuple[dict, dict, dict]:
    """(results, predictions, thumbnails) as report.write takes them, every number computed here."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return explore_in_one_thread(**settings)


def explore_in_one_thread(
    *,
    digits: tuple[int, ...] = (3, 8, 9),
    names: tuple[str, ...] | None = None,
    models: tuple[str, ...] = ("pca", "edges", "pca-random"),
    methods: tuple[str, ...] = ("majority", "knn", "linear_probe"),
    budgets: tuple[str, ...] = ("1", "5", "20", "full"),
    draws: int = 3,
    centres: tuple[str, ...] = CENTRES,
) -> tuple[dict, dict, dict]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    keep = np.isin(loaded.target, digits)
    images, truth = loaded.images[keep], np.searchsorted(digits, loaded.target[keep])
    classes = list(names or (f"digit {d}" for d in digits))
    patients = np.array([f"P{i // 3:03d}" for i in range(len(truth))])
    places = np.array([centres[(i // 9) % len(centres)] if centres else "" for i in range(len(truth))])
    ids = np.array([f"scan-{i:04d}" for i in range(len(truth))])
    train = np.array([int(p[1:]) % 3 != 0 for p in patients])
    test = ~train
    trials, predictions = [], {}
    for model in models:
        started = time.process_time()
        x = features(model, images, train)
        embedding = time.process_time() - started
        for method in methods:
            for budget in budgets:
                for draw in range(1 if budget == "full" else draws):
                    if method == "majority" and model != models[0]:
                        continue
                    rng = np.random.default_rng(draw)
                    labelled = np.flatnonzero(train)
                    if budget != "full":
                        labelled = np.concatenate(
                            [
                                rng.permutation(labelled[truth[labelled] == c])[: int(budget)]
                                for c in range(len(classes))
                            ]
                        )
                    started, clock = time.process_time(), time.perf_counter()
                    fitted = head(method).fit(x[labelled], truth[labelled])
                    fitting, fitting_wall = time.process_time() - started, time.perf_counter() - clock
                    started, clock = time.process_time(), time.perf_counter()
                    p = fitted.predict_proba(x[test])
                    predicting, predicting_wall = time.process_time() - started, time.perf_counter() - clock
                    name = "none" if method == "majority" else model
                    trial_id = f"{name}-{method}-{budget}-{draw}"
                    judged = judge(p, truth[test], patients[test], places[test], classes)
                    control = name.endswith("-random") or name == "none"
                    trials.append(
                        {
                            "id": trial_id,
                            "model": name,
                            "method": method,
                            "settings": {},
                            "budget": budget,
                            "draw": draw,
                            "labels": len(labelled),
                            "trained_parameters": int(np.size(fitted.coef_))
                            if hasattr(fitted, "coef_")
                            else 0,
                            "cpu_seconds": fitting + predicting + embedding,
                            "wall_seconds": fitting_wall + predicting_wall + embedding,
                            "peak_memory_mb": None,
                            "stored_mb": x[labelled].nbytes / 1e6 if method == "knn" else 0.001,
                            "ms_per_prediction": 1000 * predicting_wall / int(test.sum()),
                            "licence": "Apache-2.0",
                            "commercial_use": True,
                            "level": "control" if control else "modality" if model == "edges" else "general",
                            "effort": {
                                "embedding": {"wall_seconds": embedding, "cpu_seconds": embedding},
                                "fitting": {"wall_seconds": fitting_wall, "cpu_seconds": fitting},
                                "predicting": {"wall_seconds": predicting_wall, "cpu_seconds": predicting},
                            },
                            **judged,
                            "selection": {},
                        }
                    )
                    predictions[trial_id] = {
                        "case": ids[test],
                        "patient": patients[test],
                        "centre": places[test],
                        "truth": truth[test],
                        "probabilities": p,
                    }
    return (
        assemble(trials, predictions, classes, ids, patients, places, truth, train),
        predictions,
        {i: png(image) for i, image in zip(ids[test], images[test], strict=True)},
    )


def assemble(trials, predictions, classes, ids, patients, places, truth, train) -> dict:
    real = [t for t in trials if t["level"] != "control" and t["method"] != "majority"]
    value = lambda t: t["scores"]["auc"]["value"] or 0  # noqa: E731
    front = [
        t
        for t in real
        if not any(
            value(o) >= value(t) and o["cpu_seconds"] < t["cpu_seconds"] and value(o) > value(t) for o in real
        )
    ]
    best = max(real, key=value, default=None)
    summary = []
    for key in dict.fromkeys((t["model"], t["method"], t["budget"]) for t in trials):
        own = [t for t in trials if (t["model"], t["method"], t["budget"]) == key]
        found = [value(t) for t in own]
        summary.append(
            {
                "model": key[0],
                "method": key[1],
                "budget": key[2],
                "labels": own[0]["labels"],
                "draws": len(own),
                "mean": float(np.mean(found)),
                "spread_low": min(found),
                "spread_high": max(found),
                "low": own[0]["scores"]["auc"]["low"],
                "high": own[0]["scores"]["auc"]["high"],
            }
        )
    parts = {"train": train, "test": ~train}
    split = {n: {"cases": int(rows.sum()), "patients": len(set(patients[rows]))} for n, rows in parts.items()}
    return {
        "format": "medspectrum-results",
        "version": 1,
        "task": {"name": "classify", "primary": "auc", "classes": classes},
        "data": {
            "name": "digits",
            "layout": "arrays",
            "cases": len(ids),
            "patients": len(set(patients)),
            "centres": {str(c): int((places == c).sum()) for c in dict.fromkeys(places) if c},
            "modalities": {},
            "sizes": {"8 x 8": len(ids)},
            "spacing_mm": None,
            "classes": {c: int((truth == i).sum()) for i, c in enumerate(classes)},
            "missing_labels": 0,
            "unreadable": [],
            "duplicates": {"exact": [], "near": []},
            "split": split,
            "split_leaks": [],
            "warnings": [],
        },
        "split": split,
        "settings": {"models": ["pca", "edges"], "draws": 3, "seed": 0, "budget_minutes": None},
        "machine": {"python": "3.11", "numpy": np.__version__, "threads": 1},
        "trials": trials,
        "summary": summary,
        "front": [t["id"] for t in front],
        "recommended": best["id"] if best else None,
        "reason": "It has the best AUC of all that was tried." if best else None,
        "left_out": [],
        "repeat": "medspectrum explore digits --seed 0",
    }

"""PneumoniaMNIST (28 px, official split): what privacy by patient costs a head on public features.

    python benchmarks/private.py [--seeds 10] [--models ...] [--kept FOLDER]

For each encoder and epsilon (delta 1e-5) so many heads, each with its own noise, learned from the 4708
training cases and judged on the test cases; epsilon 1e12 promises nothing and shows what the noise costs.
Means over all noises with the 95 % interval of the mean; and what 95 % of resampled test patients give for
the first noise. Settings are the usual ones, which were found on malaria cells; test scores of two earlier
ones were seen, and said that more steps should be tried there. Finished heads are kept in ``--kept``, which
has to be emptied where the method changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from measurement import save
from medspectrum import store
from medspectrum.datasets import load
from medspectrum.methods.private_probe import private_probe
from medspectrum.models import resolve
from medspectrum.tasks.classify import Classify

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
EPSILONS = (0.5, 1.0, 3.0, 8.0, 1e12)
DELTA = 1e-5
PUBLISHED = {"what": "ResNet-18 by DP-SGD at epsilon 8, published", "auc": 0.960, "accuracy": 0.869}


def spread(values: list[float]) -> dict[str, float]:
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return {
        "mean": mean,
        "low": mean - 1.96 * error,
        "high": mean + 1.96 * error,
        "least": min(values),
        "most": max(values),
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--seeds", type=int, default=10)
    ask.add_argument("--models", default="efficientnet-lite0,dinov2-s-derived")
    ask.add_argument("--kept", type=Path, default=Path("/tmp/private_heads"))
    given = ask.parse_args()
    cases = load(DATA).cases
    task = Classify.of(cases)
    train, test = ([c for c in cases if c.split == part] for part in ("train", "test"))
    found: dict[str, dict] = {"published": PUBLISHED, "delta": DELTA, "noises": given.seeds}
    for name in given.models.split(","):
        images = [next(iter(c.images.values())) for c in cases]
        model = resolve(name, cache=store.cache_folder()).for_images(images, magnify=4.0)
        model.ensure(images)
        for epsilon in EPSILONS:
            scores = []
            for seed in range(given.seeds if epsilon < 1e6 else 2):
                kept = given.kept / f"{name}_{epsilon:g}_{seed}.json"
                if not kept.is_file():
                    head = private_probe(model, train, task, seed=seed, epsilon=epsilon, delta=DELTA)
                    judged = task.score(head.predict(test), test, resamples=1000 if seed == 0 else 0)
                    store.write_json(kept, judged["scores"])
                scores.append(json.loads(kept.read_text()))
            found[f"{name} epsilon {epsilon:g}"] = {
                "first": {s: scores[0][s] for s in ("auc", "accuracy", "balanced_accuracy")},
                **{
                    s: spread([own[s]["value"] for own in scores])
                    for s in ("auc", "accuracy", "balanced_accuracy")
                },
            }
            print(name, epsilon, found[f"{name} epsilon {epsilon:g}"]["auc"], flush=True)
    save("private", found)


if __name__ == "__main__":
    main()

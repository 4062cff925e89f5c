"""PneumoniaMNIST (28 px): what attacks on heads tell of who was learned from, few and many patients.

    python benchmarks/attack.py [--models efficientnet-lite0] [--numbers 50,400] [--draws 3] [--shadows 64]
        [--heads "ridge;knn"]

Each case is a patient of its own. Of so many patients, drawn from the training part, a head is learned; as
many others of that part are held out (the test part is not touched). Means over the draws of advantage, AUC
and true alarms at 1 % false ones, and in how many draws the interval of the advantage lies above 0; beside
them ``nobody``: the attack on a ridge regression of other patients than those it asks about.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from measurement import save
from medspectrum import registry, store
from medspectrum.datasets import load
from medspectrum.metrics.classification import auc
from medspectrum.metrics.membership import log_odds
from medspectrum.models import resolve
from medspectrum.shadows import ATTACKS, at_hand, membership, people, refitted
from medspectrum.tasks.classify import Classify

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
HEADS = {
    "knn, 1 neighbour": ("knn", {"neighbours": 1}),
    "knn": ("knn", {}),
    "ridge": ("ridge", {}),
    "ridge, penalty 0.001": ("ridge", {"penalty": 1e-3}),
    "ridge, penalty 1000": ("ridge", {"penalty": 1e3}),
    "linear_probe": ("linear_probe", {}),
    "prototype": ("prototype", {}),
    "private_probe, epsilon 8": ("private_probe", {"epsilon": 8.0}),
    "private_probe, epsilon 1": ("private_probe", {"epsilon": 1.0}),
    "nobody": ("ridge", {}),
}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--models", default="efficientnet-lite0")
    ask.add_argument("--numbers", default="50,400")
    ask.add_argument("--draws", type=int, default=3)
    ask.add_argument("--shadows", type=int, default=64)
    ask.add_argument("--heads", default="")
    given = ask.parse_args()
    everybody = load(DATA).cases
    task, cache = Classify.of(everybody), store.cache_folder()
    train = [c for c in everybody if c.split == "train"]
    heads = {n: h for n, h in HEADS.items() if not given.heads or n in given.heads.split(";")}
    rows = []
    for name in given.models.split(","):
        for number in map(int, given.numbers.split(",")):
            drawn = [
                np.random.default_rng(d).permutation(len(train))[: 4 * number] for d in range(given.draws)
            ]
            images = [i for d in drawn for place in d for i in train[place].images.values()]
            model = resolve(name, cache=cache).for_images(images, magnify=4.0)
            model.ensure(images)
            for head, (method, settings) in heads.items():
                found = []
                for draw, places in enumerate(drawn):
                    cases = [train[i] for i in places]
                    some = people(cases[:number], cases[number:], task, seed=draw)
                    held = at_hand(model, some.cases)
                    learner = registry.find("method", method).thing
                    inside = some.member if head != "nobody" else some.drawn(np.random.default_rng([draw, 5]))
                    own = [c for c, p in zip(some.cases, some.owner, strict=True) if inside[p]]
                    predictor = learner(held, own, task, seed=1000 + draw, **settings)
                    answers = predictor.predict(some.cases)
                    truth = np.array([task.target(c) for c in some.cases])
                    odds, refits = refitted(
                        learner, method, settings, held, some, task,
                        shadows=given.shadows, seed=draw, cache=cache,
                    )  # fmt: skip
                    out = membership(log_odds(answers, truth), odds, refits, some, seed=draw)
                    lost = ~inside[some.owner]
                    found.append({**out["attacks"], "held_out_auc": float(auc(answers[lost], truth[lost]))})
                rows.append({"model": name, "patients": number, "head": head, **_mean(found)})
                print(rows[-1], flush=True)
    save("attack", {"draws": given.draws, "shadows": given.shadows, "rows": rows})


def _mean(found: list[dict]) -> dict:
    """Means over the draws of the values, and the draws whose advantage is surely above 0."""
    told = {
        attack: {
            **{
                score: round(float(np.mean([f[attack][score]["value"] for f in found])), 4)
                for score in ("advantage", "auc", "tpr_at_1_fpr")
            },
            "surely": sum(f[attack]["advantage"]["low"] > 0 for f in found),
        }
        for attack in ATTACKS
    }
    return {**told, "held_out_auc": round(float(np.mean([f["held_out_auc"] for f in found])), 4)}


if __name__ == "__main__":
    main()

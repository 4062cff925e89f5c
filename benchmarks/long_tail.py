"""Rare classes: what weightings, adjustments and losses gain over plain cross-entropy, and what they cost.

    python benchmarks/long_tail.py [--draws 20] [--tuned 3] [--data MEDSPECTRUM_DATA]

Types of white blood cells (wbc_seg) and findings of chest X-rays (covid_cxr). For each of ``draws`` splits by
patient a head learns on the frozen features of two encoders from all training cases in several ways, and is
judged on the test cases: balanced accuracy over the tail, medium and head classes. For ``tuned`` of the
splits LoRA is trained under each loss and sampler too. All differences are to plain cross-entropy in the
same split, with 95 % intervals over the splits (of their mean; splits share cases, so these are somewhat
narrow).
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from measurement import save
from medspectrum.budgets import make_split
from medspectrum.datasets import load
from medspectrum.methods.linear_probe import linear_probe
from medspectrum.methods.lora import lora
from medspectrum.models import resolve
from medspectrum.tasks.classify import Classify

ENCODERS = (("efficientnet-lite0", 128), ("dinov2-s-derived", 98))
PLAIN = "plain"
HEADS: dict[str, dict[str, str]] = {
    PLAIN: {"weighting": "none", "prevalence": "labelled"},
    "logit adjustment": {"weighting": "none", "prevalence": "balanced"},
    "root of the cases": {"weighting": "root", "prevalence": "balanced"},
    "effective number": {"weighting": "effective", "prevalence": "balanced"},
    "class-balanced (default)": {"weighting": "classes", "prevalence": "balanced"},
}
TUNED: dict[str, dict[str, Any]] = {
    PLAIN: {"loss": "plain"},
    "class-balanced (default)": {"loss": "balanced"},
    "effective number": {"loss": "effective"},
    "focal": {"loss": "focal"},
    "logit adjustment": {"loss": "adjusted"},
    "LDAM with deferred weights": {"loss": "ldam"},
    "class-balanced sampling": {"loss": "plain", "sampler": "classes"},
    "decoupled (head retrained)": {"loss": "plain", "retrain_head": True},
    "balanced, distorted by modality": {"loss": "balanced", "distort": "modality"},
    "balanced, mixup": {"loss": "balanced", "mix": "mixup"},
    "balanced, cutmix": {"loss": "balanced", "mix": "cutmix"},
}


def sets(place: Path) -> dict[str, Any]:
    found = {
        "wbc types": lambda: load(
            place / "wbc_seg" / "labels.csv", image="{site}/{id:0>3}_image.png", label="wbc_class"
        ),
        "covid findings": lambda: load(
            place / "covid_cxr" / "metadata.csv", image="images/{image}", label="finding", patient="patientid"
        ),
    }
    there = {"wbc types": "wbc_seg", "covid findings": "covid_cxr"}
    return {name: read() for name, read in found.items() if (place / there[name]).is_dir()}


def groups(task: Classify, predictor: Any, cases: Any) -> dict[str, float | None]:
    """Balanced accuracy over each group of classes, and over all."""
    probabilities = predictor.predict(cases)
    told = task.score(probabilities, cases, resamples=0)
    found = {g: v["balanced_accuracy"]["value"] for g, v in told["per_group"].items()}
    return {
        **found,
        "all": told["scores"]["balanced_accuracy"]["value"],
        "auc": told["scores"]["auc"]["value"],
    }


def at_equal_head(runs: list[dict[str, dict[str, dict[str, float | None]]]]) -> dict[str, Any]:
    """Tail against head as the logits are moved from the mix of the cases to equally common classes.

    runs: per split, way and part of the way moved. Per way: the mean of head and tail over the splits at each
    part, and the tail where the head is as good as plain cross-entropy's (read off between two parts).
    """
    told: dict[str, Any] = {}
    goal = float(np.mean([r[PLAIN]["0"]["head"] for r in runs]))
    for way in runs[0]:
        parts = list(runs[0][way])
        head, tail = (
            np.array([np.nanmean([_number(r[way][part][g]) for r in runs]) for part in parts])
            for g in ("head", "tail")
        )
        order = np.argsort(head, kind="stable")
        told[way] = {
            "moved": [float(p) for p in parts],
            "head": head.round(4).tolist(),
            "tail": tail.round(4).tolist(),
            "tail_at_the_head_of_plain": round(float(np.interp(goal, head[order], tail[order])), 4),
        }
    return told


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def moved(head: Any, part: float, task: Classify, cases: Any) -> Any:
    """The balanced head, its logits moved by this part of the way to the mix of the training cases."""
    counts = np.bincount([task.target(c) for c in cases], minlength=len(task.classes))[head.present]
    share = np.log(counts / counts.sum())
    return replace(head, intercepts=head.intercepts + part * share)


def beside_plain(runs: list[dict[str, dict[str, float | None]]]) -> dict[str, Any]:
    """Per way: mean of each score over the splits, and its difference to plain with an interval."""
    rng = np.random.default_rng(0)
    told: dict[str, Any] = {}
    for way in runs[0]:
        told[way] = {}
        for group in runs[0][way]:
            pairs = [(r[way][group], r[PLAIN][group]) for r in runs]
            known = np.array([p for p in pairs if None not in p], dtype=float)
            gain = known[:, 0] - known[:, 1]
            means = rng.choice(gain, (2000, len(gain))).mean(axis=1)
            told[way][group] = {
                "mean": round(float(known[:, 0].mean()), 4),
                "gain": round(float(gain.mean()), 4),
                "gain_low": round(float(np.quantile(means, 0.025)), 4),
                "gain_high": round(float(np.quantile(means, 0.975)), 4),
                "splits": len(gain),
            }
    return told


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, default=Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data")))
    ask.add_argument("--draws", type=int, default=20)
    ask.add_argument("--tuned", type=int, default=3)
    given = ask.parse_args()
    result: dict[str, Any] = {"wanted": "tail +0.05 over plain at equal head accuracy"}
    clock = time.perf_counter()
    for name, case_set in sets(given.data).items():
        cases = [c for c in case_set.cases if c.target is not None]
        task = Classify.of(cases)
        told: dict[str, Any] = {"cases": dict(zip(task.classes, task.counts, strict=True))}
        told["groups"] = {
            g: v["classes"]
            for g, v in task.score(
                np.full((len(cases), len(task.classes)), 1 / len(task.classes)), cases, resamples=0
            )["per_group"].items()
        }
        splits = [
            make_split(cases, seed=seed, stratum=task.stratum, strata=task.strata)
            for seed in range(given.draws)
        ]
        for model, size in ENCODERS:
            encoder = resolve(model, size=size)
            runs, curves = [], []
            for split in splits:
                learned = {way: linear_probe(encoder, split.train, task, **how) for way, how in HEADS.items()}
                runs.append({way: groups(task, head, split.test) for way, head in learned.items()})
                balanced = {PLAIN: learned["logit adjustment"], **{w: learned[w] for w in list(HEADS)[2:]}}
                curves.append(
                    {
                        way: {
                            f"{1 - part:g}": groups(task, moved(head, part, task, split.train), split.test)
                            for part in (1, 0.75, 0.5, 0.25, 0)
                        }
                        for way, head in balanced.items()
                    }
                )
            told[f"linear_probe on {model}"] = beside_plain(runs)
            told[f"trade-off on {model}"] = at_equal_head(curves)
            print(name, model, round(time.perf_counter() - clock), "s", flush=True)
            if not given.tuned or model != "efficientnet-lite0":
                continue
            runs = []
            for seed, split in enumerate(splits[: given.tuned]):
                tuned = {
                    way: lora(encoder, split.train, task, seed=seed, **how) for way, how in TUNED.items()
                }
                runs.append({way: groups(task, one, split.test) for way, one in tuned.items()})
                print(name, "lora", seed, round(time.perf_counter() - clock), "s", flush=True)
            told[f"lora on {model}"] = beside_plain(runs)
        result[name] = told
        save("long_tail", result)


if __name__ == "__main__":
    main()

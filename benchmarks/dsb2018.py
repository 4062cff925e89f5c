"""Nuclei told apart on the fluorescence images of the 2018 Data Science Bowl.

    python benchmarks/dsb2018.py DATA [METHOD[:STEPS[:CASES[:MODEL]]] ...]

DATA holds images/ and labels/ of the same names (16-bit maps that number nuclei). Images are dealt by a hash
of their id, for good: one in ten for the test, one in ten for validation, the rest to learn from. All methods
learn from the same images in the same number of steps and choose thresholds on a part of those that they
do not learn from; the test images are looked at once, at the end of each. ``border_unet`` is the peer: a
U-Net of the same size from scratch with the classes background, inside and border, and a watershed. STEPS are
of 8 tiles of 256 x 256; CASES learns from so many images only; MODEL is the encoder of methods that need one.
The result is written after every method.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from measurement import save
from medspectrum import registry
from medspectrum.case import Case
from medspectrum.datasets import load
from medspectrum.engine import openvino
from medspectrum.engine.effort import measured
from medspectrum.models import resolve
from medspectrum.tasks.instances import Instances

WANTED = {"f1_50": 0.90, "ap": 0.60}
METHODS = ("otsu", "distance_unet:200", "border_unet:200", "distance_decoder:200:0:efficientnet-lite0")


def part(case: Case) -> str:
    """test, val or train, by the digest of the image's id alone."""
    digest = hashlib.sha256(Path(case.id).stem.encode()).hexdigest()
    return {0: "test", 1: "val"}.get(int(digest, 16) % 10, "train")


def run(text: str, parts: dict[str, list[Case]], task: Instances) -> dict[str, Any]:
    name, steps, cases, encoder = (*text.split(":"), "", "", "")[:4]
    entry = registry.find("method", name)
    learn = parts["train"][: int(cases or 0) or None]
    settings = {"least_steps": int(steps), "most_steps": int(steps)} if steps else {}
    model = resolve(encoder, size=task.side) if encoder else None
    embedding = None
    if model is not None and entry.facts["trains"] == "head":
        with measured() as embedding:
            model.ensure(
                [tile for c in (*learn, *parts["val"], *parts["test"]) for tile in task.seen(c)], level="maps"
            )
    with measured() as fitting:
        predictor = entry.thing(model, learn, task, seed=0, **settings)
    found: dict[str, Any] = {
        "method": name,
        "model": encoder,
        "labelled_images": len(learn),
        "settings": settings,
        "rule": predictor.rule.settings() if hasattr(predictor, "rule") else None,
        "trained_parameters": predictor.trained_parameters,
        "embedding": embedding.seconds() if embedding else None,
        "fitting": fitting.seconds(),
    }
    for which in ("val", "test"):
        with measured() as predicting:
            answers = predictor.predict(parts[which])
        found[f"{which}_predicting"] = predicting.seconds()
        found[which] = task.score(answers, parts[which])["scores"]
    found["reached"] = {
        score: bool(found["test"][score]["value"] >= least) for score, least in WANTED.items()
    }
    return found


def main() -> None:
    cases = load(Path(sys.argv[1]), layout="pairs").cases
    parts = {name: [c for c in cases if part(c) == name] for name in ("train", "val", "test")}
    task = Instances.of(parts["train"])
    result: dict[str, Any] = {
        "images": {name: len(own) for name, own in parts.items()},
        "nuclei": {
            name: sum(len(set(task.target(c).ravel().tolist()) - {0}) for c in own)
            for name, own in parts.items()
        },
        "tile": task.tile,
        "wanted": WANTED,
        "bf16": openvino.native_bf16(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "methods": [],
    }
    for text in sys.argv[2:] or METHODS:
        begun = time.strftime("%H:%M")
        result["methods"].append(run(text, parts, task) | {"begun": begun})
        save("dsb2018", result)


if __name__ == "__main__":
    main()

"""One trial: a method adapts a model to one labelled set and is judged; finished ones are kept by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry, store
from medspectrum.case import Case, Model, Predictor, Task
from medspectrum.engine.effort import Effort, measured
from medspectrum.predictor import NO_MODEL, save_predictor
from medspectrum.synthetic import is_real

JUDGED_BY = ("engine", "methods", "tasks", "metrics", "transforms.py", "augment.py", "trial.py")
KEEP_STATE_MB = 20.0
PROMISE = ("epsilon", "delta")  # of a method that is differentially private, with its effort
JUDGING_SEED = 0  # every trial is judged on the same resamples of the test patients


@dataclass(frozen=True)
class Trial:
    """What is tried: a model (by name and input side), a method with settings, a labelled set."""

    model: str
    size: int | None
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: str = "full"
    draw: int = 0
    seed: int = 0

    @property
    def label(self) -> str:
        """For a person: ``lora on dinov2-s-derived, budget 5, draw 2``."""
        size = "full budget" if self.budget == "full" else f"budget {self.budget}, draw {self.draw}"
        return (
            f"{self.method} on {self.model}, {size}" if self.model != NO_MODEL else f"{self.method}, {size}"
        )


@dataclass(frozen=True)
class Parts:
    """The cases of a trial."""

    labelled: Sequence[Case]
    val: Sequence[Case]
    test: Sequence[Case]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the source that decides a trial's numbers: an upgrade never mixes with older results."""
    root = Path(__file__).parent
    files = sorted(
        found
        for name in JUDGED_BY
        for found in ((root / name).rglob("*.py") if (root / name).is_dir() else [root / name])
        if found.is_file()
    )
    whole = hashlib.sha256()
    for found in files:
        whole.update(found.relative_to(root).as_posix().encode() + b"\0" + found.read_bytes())
    return whole.hexdigest()[:16]


def case_digest(cases: Sequence[Case], task: Task) -> str:
    """Digest of images, labels, patients and centres of some cases, in order."""
    return store.digest(
        [
            [[role, image.key()] for role, image in sorted(c.images.items())]
            + [task.fingerprint(c), c.patient, c.centre]
            for c in cases
        ]
    )


def trial_id(trial: Trial, model_key: str, labelled: str, judged: str, classes: Sequence[str]) -> str:
    """Name of a trial by everything that decides its numbers."""
    return store.digest(
        [model_key, trial.method, dict(trial.settings), trial.seed, labelled, judged, list(classes)],
        code_digest(),
    )[:16]


def run_trial(
    trial: Trial, identity: str, model: Model | None, parts: Parts, task: Task, folder: Path
) -> dict[str, Any]:
    """Fit, predict, score; write predictions, then state, then the record, and give the record.

    ``folder`` is the trial's own. The record is written last and atomically, so a trial that was
    killed has none and is run again.
    """
    entry = registry.find("method", trial.method)
    reads_features = entry.facts.get("trains") in ("head", "nothing") and model is not None
    with measured() as fitting:
        predictor: Predictor = entry.thing(
            model, parts.labelled, task, seed=trial.seed, **dict(trial.settings)
        )
    with measured() as predicting:
        test = predictor.predict(parts.test)
    with measured() as validating:
        val = predictor.predict(parts.val)
    effort = _effort(model, parts, task, fitting, predicting, reads_features=reads_features)
    arrays, own = predictor.state()
    own_level = entry.facts.get("level", "control")
    stored_mb = sum(a.nbytes for a in arrays.values()) / 1e6
    judged = task.score(test, parts.test, seed=JUDGING_SEED)
    real = sum(map(is_real, parts.labelled))
    record = {
        "id": identity,
        "model": trial.model,
        "size": trial.size,
        "method": trial.method,
        "settings": dict(trial.settings),
        "budget": trial.budget,
        "draw": trial.draw,
        "seed": trial.seed,
        "labels": real if entry.facts.get("uses_labels", True) else 0,
        **({"synthetic": len(parts.labelled) - real} if real < len(parts.labelled) else {}),
        "trained_parameters": int(predictor.trained_parameters),
        "cpu_seconds": sum(step["cpu_seconds"] for step in effort.values()),
        "wall_seconds": sum(step["wall_seconds"] for step in effort.values()),
        "peak_memory_mb": max(fitting.peak_memory_mb, predicting.peak_memory_mb),
        "stored_mb": stored_mb,
        "ms_per_prediction": 1000 * effort["predicting"]["wall_seconds"] / max(len(parts.test), 1),
        "licence": model.card.licence if model else entry.facts.get("licence", "Apache-2.0"),
        "commercial_use": (model.card.commercial_use if model else entry.facts.get("commercial_use", True)),
        "level": model.card.level if model else own_level,
        **({n: own[n] for n in PROMISE} if entry.facts.get("private") else {}),
        "effort": effort,
        "spent_seconds": fitting.wall_seconds + predicting.wall_seconds + validating.wall_seconds,
        **judged,
        "selection": task.score(val, parts.val, seed=JUDGING_SEED, resamples=0)["scores"],
    }
    facts = {
        "method": trial.method,
        "settings": dict(trial.settings),
        "model": trial.model,
        "size": trial.size,
        "model_key": model.key if model else "",
        "task": task.name,
        "task_settings": task.settings(),
        # a number, and a digest of who was learned from, that a promise of privacy does not cover
        **({} if entry.facts.get("private") else {"trial": identity, "labels": record["labels"]}),
        "scores": record["scores"],
        "licence": record["licence"],
    }
    _write_predictions(folder / "predictions.npz", task.pack(val), task.pack(test))
    if stored_mb <= KEEP_STATE_MB or trial.budget == "full":
        save_predictor(folder / "predictor", predictor, facts)
    store.write_json(folder / "record.json", record)
    return record


def _effort(
    model: Model | None,
    parts: Parts,
    task: Task,
    fitting: Effort,
    predicting: Effort,
    *,
    reads_features: bool,
) -> dict[str, dict[str, float]]:
    """Embedding, fitting and predicting seconds; features from the cache count what they once cost."""
    embedding = {"wall_seconds": 0.0, "cpu_seconds": 0.0}
    predict = predicting.seconds()
    if reads_features and model is not None:
        wall, cpu = model.seconds_per_image(task.level)
        labelled = sum(len(task.seen(c)) for c in parts.labelled)
        tested = sum(len(task.seen(c)) for c in parts.test)
        embedding = {"wall_seconds": wall * labelled, "cpu_seconds": cpu * labelled}
        predict = {
            "wall_seconds": predict["wall_seconds"] + wall * tested,
            "cpu_seconds": predict["cpu_seconds"] + cpu * tested,
        }
    return {"embedding": embedding, "fitting": fitting.seconds(), "predicting": predict}


def _write_predictions(path: Path, val: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> None:
    arrays = {f"val/{name}": a for name, a in val.items()} | {f"test/{name}": a for name, a in test.items()}
    with store.atomic(path) as partial, partial.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]


def read_predictions(folder: Path, task: Task, part: str) -> Any:
    """Predictions of a finished trial for the part ``val`` or ``test``, as the task has them."""
    with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
        own = {name.removeprefix(f"{part}/"): saved[name] for name in saved if name.startswith(f"{part}/")}
    return task.unpack(own)


def finished(folder: Path) -> dict[str, Any] | None:
    """The record of a trial that was finished before, or None."""
    path = folder / "record.json"
    return store.read_json(path) if path.is_file() else None

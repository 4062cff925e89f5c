"""A predictor as a folder that can be handed over: plain JSON and safetensors, checksummed, no code in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry, store
from medspectrum.case import Case, Model, Prediction, Predictor
from medspectrum.errors import UserError

FORMAT = 1
CARD, WEIGHTS, SUMS = "predictor.json", "weights.safetensors", "checksums.json"
ATTACK = "attack.json"
NO_MODEL = "none"
Resolve = Callable[..., Any]


@dataclass(frozen=True)
class SavedPredictor:
    """A predictor with what is known of it: model, method, settings, classes, scores, licence."""

    predictor: Predictor
    facts: dict[str, Any]
    model: Model | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probability columns."""
        return tuple(self.facts["classes"])

    def __call__(self, cases: Sequence[Case]) -> list[Prediction]:
        """Predictions of the cases, in their order. Images that cannot be read must be left out before."""
        probabilities = self.predictor.predict(cases) if cases else np.zeros((0, len(self.classes)))
        return [
            Prediction(c.id, c.patient, self.classes, tuple(map(float, row)))
            for c, row in zip(cases, probabilities, strict=True)
        ]


def save_predictor(folder: Path, predictor: Predictor, facts: dict[str, Any]) -> None:
    """Write a predictor folder; ``facts`` name its method, model, model_key, size, task and scores."""
    from safetensors.numpy import save

    arrays, settings = predictor.state()
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    card = {"format": FORMAT, **facts, "classes": list(predictor.classes), "state": settings}
    store.write_bytes(folder / WEIGHTS, save(contiguous))
    store.write_json(folder / CARD, card)
    store.write_json(folder / SUMS, {name: file_sum(folder / name) for name in (CARD, WEIGHTS)})


def read_facts(folder: Path) -> dict[str, Any]:
    """What a predictor folder says of itself, after its checksums were verified.

    Raises UserError where a file is missing or does not match its checksum.
    """
    for name in (SUMS, CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is no predictor: {name} is missing; give the folder 'predictor' of a finished run"
            )
    try:
        sums = store.read_json(folder / SUMS)
        for name in (CARD, WEIGHTS):
            if sums.get(name) != file_sum(folder / name):
                raise UserError(
                    f"{folder / name} was altered after it was saved (its checksum does not match "
                    f"{SUMS}); copy the predictor again from its run"
                )
        facts = store.read_json(folder / CARD)
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} cannot be read as a predictor: {error}; copy it again from its run"
        ) from None
    if facts.get("format") != FORMAT:
        raise UserError(
            f"{folder} has predictor format {facts.get('format')}; this version reads format {FORMAT}"
        )
    if ATTACK in sums:
        if not (folder / ATTACK).is_file() or sums[ATTACK] != file_sum(folder / ATTACK):
            raise UserError(f"{folder / ATTACK} was altered; copy the predictor again from its run")
        facts = {**facts, "attack": store.read_json(folder / ATTACK)}
    return facts


def write_attack(folder: Path, found: dict[str, Any]) -> None:
    """Put what an attack found beside a predictor's weights, for whoever opens it.

    It counts from the moment that its checksum is there: a writer that was killed leaves none.
    """
    sums = {name: value for name, value in store.read_json(folder / SUMS).items() if name != ATTACK}
    store.write_json(folder / SUMS, sums)
    store.write_json(folder / ATTACK, found)
    store.write_json(folder / SUMS, {**sums, ATTACK: file_sum(folder / ATTACK)})


def load_predictor(
    folder: str | Path, *, resolve: Resolve | None = None, cache: Path | None = None
) -> SavedPredictor:
    """Read a predictor folder and its model.

    Raises UserError where a checksum fails, or where the model found here is not the one it was made with.
    """
    from safetensors.numpy import load_file

    folder = Path(folder)
    facts = read_facts(folder)
    model: Model | None = None
    if facts["model"] != NO_MODEL:
        if resolve is None:
            from medspectrum.models import resolve as registered

            resolve = registered
        model = resolve(facts["model"], size=facts["size"], cache=cache)
        if model is not None and model.key != facts["model_key"]:
            raise UserError(
                f"{folder} was made with other weights or preprocessing of {facts['model']} than the ones "
                "found here; install the versions listed in its predictor.json"
            )
    entry = registry.find("method", facts["method"])
    predictor = entry.facts["restore"](model, load_file(folder / WEIGHTS), facts["state"])
    return SavedPredictor(predictor, facts, model)


def file_sum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

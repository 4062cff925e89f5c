"""Class means over sites, exactly: the prototypes are those of all cases together.

1. ``table``: as in ``ridge_plan``.
2. ``sums``: features summed by class give the centre, the mean of the classes' means.
3. ``directions``: features about the centre, each brought to length 1, summed by class give the prototypes.
4. ``sharpness``: the log loss of held-out patients as a function of the temperature.

For the last, both sums are told without each of five folds of patients too. Folds are made within sites, as
nobody knows all patients: this alone differs from ``methods.prototype``, and it touches how sure the answers
are, not which class is nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medspectrum.engine.threads import one_blas_thread
from medspectrum.federate.curve import at_nodes, through_nodes
from medspectrum.federate.packet import Holding, Packet
from medspectrum.federate.ridge_plan import balance_of, take_tables, tell_table
from medspectrum.methods._folds import patient_folds
from medspectrum.methods._probabilities import drawn_to_one
from medspectrum.methods.prototype import SHARPNESS, unit

FOLDS = 5


def begin(settings: Mapping[str, Any]) -> Packet:
    """The server's state before anything was asked. settings: ``seed``, of the folds."""
    return Packet("table", facts={"seed": int(settings.get("seed", 0))})


def question(state: Packet) -> Packet | None:
    """What the server asks every site next; None where all is known."""
    sent = {"table": (), "sums": (), "directions": ("centres",), "sharpness": ("cases", "centres", "ways")}
    if state.purpose not in sent:
        return None
    return Packet(state.purpose, {n: state.arrays[n] for n in sent[state.purpose]}, state.facts)


def answer(own: Holding, asked: Packet) -> Packet:
    """What a site says to that."""
    if asked.purpose == "table":
        return tell_table(own, asked)
    steps = {"sums": _tell_sums, "directions": _tell_directions, "sharpness": _tell_sharpness}
    return steps[asked.purpose](own, asked)


def absorb(state: Packet, answers: Mapping[str, Packet]) -> Packet:
    """The server's state after all answers, taken in the order of the sites' names."""
    told = [answers[name] for name in sorted(answers)]
    if state.purpose == "table":
        return replace(take_tables(state, told), purpose="sums")
    steps = {"sums": _take_sums, "directions": _take_directions, "sharpness": _take_sharpness}
    return steps[state.purpose](state, told)


def learned(state: Packet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The prototypes as ``methods.prototype`` saves them."""
    arrays = {
        "centre": state.arrays["centres"][0],
        "directions": state.arrays["ways"][0],
        "present": np.arange(len(state.facts["classes"])),
    }
    return arrays, {
        "classes": state.facts["classes"],
        "labelled": int(state.arrays["cases"].sum()),
        "sharpness": state.facts["sharpness"],
    }


def _within(own: Holding, asked: Packet) -> tuple[np.ndarray, list[np.ndarray]]:
    """(n,) classes, and (n,) which cases are learned from: in all, and without each fold."""
    labels = own.indices(tuple(asked.facts["classes"]))
    fold = patient_folds(own.patients, labels, folds=FOLDS, seed=asked.facts["seed"])
    fold = np.full(len(labels), -1) if fold is None else fold
    return labels, [np.ones(len(labels), bool), *(fold != i for i in range(FOLDS))]


def _summed(rows: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([rows[labels == c].sum(axis=0) for c in range(classes)])


@one_blas_thread
def _tell_sums(own: Holding, asked: Packet) -> Packet:
    labels, parts = _within(own, asked)
    k, rows = len(asked.facts["classes"]), own.rows.astype(np.float64)
    return Packet(
        "sums",
        {
            "sums": np.stack([_summed(rows[part], labels[part], k) for part in parts]),
            "counts": np.stack([np.bincount(labels[part], minlength=k) for part in parts]),
        },
    )


def _total(told: list[Packet], name: str) -> np.ndarray:
    whole = told[0].arrays[name]
    for one in told[1:]:
        whole = whole + one.arrays[name]
    return whole


def _take_sums(state: Packet, told: list[Packet]) -> Packet:
    sums, counts = _total(told, "sums"), _total(told, "counts")
    known = counts > 0
    means = sums / np.maximum(counts, 1)[:, :, None]
    centres = means.sum(axis=1) / np.maximum(known.sum(axis=1), 1)[:, None]
    return Packet("directions", {**state.arrays, "centres": centres}, state.facts)


@one_blas_thread
def _tell_directions(own: Holding, asked: Packet) -> Packet:
    labels, parts = _within(own, asked)
    k = len(asked.facts["classes"])
    ways = [
        _summed(unit(own.rows[part] - centre), labels[part], k)
        for part, centre in zip(parts, asked.arrays["centres"], strict=True)
    ]
    return Packet("directions", {"ways": np.stack(ways)})


def _take_directions(state: Packet, told: list[Packet]) -> Packet:
    ways = _total(told, "ways")
    return Packet("sharpness", {**state.arrays, "ways": np.stack([unit(own) for own in ways])}, state.facts)


@one_blas_thread
def _tell_sharpness(own: Holding, asked: Packet) -> Packet:
    """A class is known without a fold where its direction is no row of zeros."""
    labels, parts = _within(own, asked)
    balance = balance_of(asked.arrays["cases"])
    losses = at_nodes(np.zeros((0, 2)), labels[:0], balance[:0])
    held = 0
    told = zip(parts, asked.arrays["centres"], asked.arrays["ways"], strict=True)
    for part, centre, ways in list(told)[1:]:
        known = np.abs(ways).sum(axis=1) > 0
        here = ~part & known[labels]
        if known.sum() < 2 or not here.any():
            continue
        logits = SHARPNESS * (unit(own.rows[here] - centre) @ ways.T)
        logits[:, ~known] = -1e3  # classes that this fold could not learn
        losses = losses + at_nodes(logits, labels[here], balance[labels[here]])
        held += int(here.sum())
    return Packet("sharpness", {"losses": losses, "held": np.array([held])})


def _take_sharpness(state: Packet, told: list[Packet]) -> Packet:
    temperature = drawn_to_one(through_nodes(_total(told, "losses"))) if _total(told, "held")[0] else 1.0
    arrays = {"cases": state.arrays["cases"]} | {n: state.arrays[n][:1] for n in ("centres", "ways")}
    return Packet("done", arrays, {**state.facts, "sharpness": SHARPNESS * temperature})

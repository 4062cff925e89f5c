"""Ridge regression over sites, exactly: sums replace cases, and the head is that of all cases together.

1. ``table``: each site tells how many cases and patients of each class it has; the classes' union is agreed.
2. ``statistics``: sums of features by class and the weighted sum of their outer products. From these follow
   centring, scaling and the regressions for every penalty, as ``methods.ridge`` finds them from the cases.
3. ``choice``: each site says how well its patients are answered when left out one at a time, which needs no
   one else's cases (see ``engine.ridge.left_out``): a squared error for each penalty, and the log loss as a
   function of the temperature, as its values at Chebyshev nodes.

Something is learned in step 2 alone. No row of features leaves a site; but the sums of very few cases say
much about them, and those of one case are its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import label_order
from medspectrum.engine.ridge import class_targets, left_out
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.federate.curve import at_nodes, through_nodes
from medspectrum.federate.packet import Holding, Packet
from medspectrum.methods._probabilities import drawn_to_one
from medspectrum.methods._scale import scale_of_moments
from medspectrum.methods.ridge import DEFAULT_PENALTY, PENALTIES, SHARPNESS

Answers = Mapping[str, Packet]


def begin(settings: Mapping[str, Any]) -> Packet:
    """The server's state before anything was asked. settings: ``penalty``, None or absent to choose."""
    penalty = settings.get("penalty")
    if penalty is not None and not penalty > 0:
        raise UserError(f"penalty must be above 0, not {penalty}.")
    return Packet("table", facts={"penalty": penalty})


def question(state: Packet) -> Packet | None:
    """What the server asks every site next; None where all is known."""
    if state.purpose == "table":
        return Packet("table")
    if state.purpose == "statistics":
        return Packet("statistics", {"cases": state.arrays["cases"]}, {"classes": state.facts["classes"]})
    if state.purpose == "choice":
        names = ("cases", "patients", "mean", "factor", "axes", "spread", "along", "middle", "penalties")
        return Packet("choice", {n: state.arrays[n] for n in names}, {"classes": state.facts["classes"]})
    return None


def answer(own: Holding, asked: Packet) -> Packet:
    """What a site says to that."""
    return {"table": tell_table, "statistics": _tell_statistics, "choice": _tell_choice}[asked.purpose](
        own, asked
    )


def absorb(state: Packet, answers: Answers) -> Packet:
    """The server's state after all answers, taken in the order of the sites' names."""
    told = [answers[name] for name in sorted(answers)]
    return {"table": take_tables, "statistics": _take_statistics, "choice": _take_choice}[state.purpose](
        state, told
    )


def learned(state: Packet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The head as ``methods.ridge`` saves it."""
    arrays = {name: state.arrays[name] for name in ("weights", "intercepts", "present")}
    return arrays, {
        "chosen_penalty": state.facts["chosen_penalty"],
        "classes": state.facts["classes"],
        "labelled": int(state.arrays["cases"].sum()),
    }


def tell_table(own: Holding, asked: Packet) -> Packet:  # noqa: ARG001 - every answer has this form
    """Classes of the site with their numbers of cases and patients."""
    classes = sorted(set(own.labels), key=label_order)
    labels = np.array(own.labels)
    people = np.array(own.patients)
    return Packet(
        "table",
        {
            "cases": np.array([(labels == c).sum() for c in classes], np.int64),
            "patients": np.array([len(np.unique(people[labels == c])) for c in classes], np.int64),
        },
        {"classes": classes, "width": int(own.rows.shape[1]), "model": own.model_key},
    )


def take_tables(state: Packet, told: list[Packet]) -> Packet:
    """Agree on the union of the classes. Raises UserError where sites see through different models."""
    if len({t.facts["model"] for t in told}) > 1 or len({t.facts["width"] for t in told}) > 1:
        raise UserError(
            "the sites' features come from different models or preparations; install the same versions"
        )
    classes = sorted({c for t in told for c in t.facts["classes"]}, key=label_order)
    if len(classes) < 2:
        raise UserError(f"the sites hold only the class {', '.join(classes) or 'none'}; two are needed")
    place = {c: i for i, c in enumerate(classes)}
    totals = {name: np.zeros(len(classes), np.int64) for name in ("cases", "patients")}
    for one in told:
        here = [place[c] for c in one.facts["classes"]]
        for name, total in totals.items():
            total[here] += one.arrays[name]
    return Packet("statistics", totals, {**state.facts, "classes": classes})


def balance_of(cases: np.ndarray) -> np.ndarray:
    """(k,) weight of a case of each class: classes count the same, the mean over all cases is 1."""
    return cases.sum() / (len(cases) * cases.astype(np.float64))


@one_blas_thread
def _tell_statistics(own: Holding, asked: Packet) -> Packet:
    classes = tuple(asked.facts["classes"])
    labels, rows = own.indices(classes), own.rows.astype(np.float64)
    sums = np.stack([rows[labels == c].sum(axis=0) for c in range(len(classes))])
    weights = balance_of(asked.arrays["cases"])[labels]
    gram = (rows.T * weights) @ rows
    return Packet("statistics", {"sums": sums, "products": gram[np.triu_indices(len(gram))]})


@one_blas_thread
def _take_statistics(state: Packet, told: list[Packet]) -> Packet:
    sums = sum((t.arrays["sums"] for t in told[1:]), told[0].arrays["sums"])
    products = sum((t.arrays["products"] for t in told[1:]), told[0].arrays["products"])
    cases = state.arrays["cases"]
    balance, total, k, d = balance_of(cases), int(cases.sum()), len(cases), sums.shape[1]
    gram = np.zeros((d, d))
    gram[np.triu_indices(d)] = products
    gram = gram + np.triu(gram, 1).T
    mean = balance @ sums / total
    squares = np.diag(gram) - total * mean**2
    inner = np.diag(gram) - balance @ (sums**2 / cases[:, None])
    factor = scale_of_moments(np.maximum(squares, 0), np.maximum(inner, 0), total, max(total - k, 0))
    scaled = factor[:, None] * (gram - total * np.outer(mean, mean)) * factor
    spread, axes = np.linalg.eigh(scaled)
    targets = class_targets(np.arange(k), k)  # (k, c)
    middle = (balance * cases) @ targets / total
    cross = factor[:, None] * ((sums - cases[:, None] * mean).T @ (balance[:, None] * targets))
    penalty = state.facts["penalty"]
    penalties = np.array(PENALTIES if penalty is None else (penalty,))
    if penalty is None and not (state.arrays["patients"] > 1).any():
        penalties = np.array([DEFAULT_PENALTY])
    arrays = {
        **state.arrays,
        "mean": mean,
        "factor": factor,
        "axes": axes,
        "spread": np.maximum(spread, 0.0),
        "along": axes.T @ cross,
        "middle": middle,
        "penalties": penalties,
    }
    return Packet("choice", arrays, state.facts)


@dataclass(frozen=True)
class _Fits:
    """Regressions for all penalties as a site gets them."""

    weights: np.ndarray  # (m, r, c) along the axes
    inverse: np.ndarray  # (m, r)

    @classmethod
    def of(cls, told: Packet) -> _Fits:
        a = told.arrays
        inverse = 1.0 / (a["spread"] + a["penalties"][:, None])
        return cls(inverse[:, :, None] * a["along"], inverse)


@one_blas_thread
def _tell_choice(own: Holding, asked: Packet) -> Packet:
    a, classes = asked.arrays, tuple(asked.facts["classes"])
    labels = own.indices(classes)
    weights = balance_of(a["cases"])[labels]
    root = np.sqrt(weights)[:, None]
    fits = _Fits.of(asked)
    rows = root * ((own.rows - a["mean"]) * a["factor"]) @ a["axes"]
    targets = class_targets(labels, len(classes))
    residual = root * (targets - a["middle"]) - np.matmul(rows, fits.weights)
    _, patients = np.unique(own.patients, return_inverse=True)
    apart = left_out(rows, -fits.inverse, root[:, 0] / np.sqrt(a["cases"].sum()), residual, patients, True)
    answers = targets - apart / root
    held = (a["patients"] > 1)[labels]
    errors = np.square(answers[:, held] - targets[held]).sum(axis=2) @ weights[held]
    losses = np.stack([at_nodes(SHARPNESS * one[held], labels[held], weights[held]) for one in answers])
    return Packet("choice", {"errors": errors, "losses": losses})


@one_blas_thread
def _take_choice(state: Packet, told: list[Packet]) -> Packet:
    a = state.arrays
    errors = sum((t.arrays["errors"] for t in told[1:]), told[0].arrays["errors"])
    losses = sum((t.arrays["losses"] for t in told[1:]), told[0].arrays["losses"])
    best, temperature = 0, 1.0
    if (a["patients"] > 1).any():
        best = int(np.argmin(errors))
        temperature = drawn_to_one(through_nodes(losses[best]))
    fit = a["axes"] @ _Fits.of(state).weights[best]
    weights = SHARPNESS * temperature * a["factor"][:, None] * fit
    arrays = {
        "weights": weights,
        "intercepts": SHARPNESS * temperature * a["middle"] - a["mean"] @ weights,
        "present": np.arange(len(state.facts["classes"])),
        "cases": a["cases"],
    }
    return Packet("done", arrays, {**state.facts, "chosen_penalty": float(a["penalties"][best])})

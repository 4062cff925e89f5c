"""A model beside the readers of the same cases: does it agree with them as they do with each other?

Each reader is left out in turn. What the others say most often is held against the left-out reader's label
and against the model's answer, on the same cases, by Cohen's kappa (see ``metrics.agreement``). Where others
tie, the case counts for each label that ties in equal parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.metrics import agreement
from medspectrum.metrics.bootstrap import RESAMPLES, resampled

MOST_READERS = 12
"""Readers of whom each has a row; of more, only what they say together is told."""


def against_others(
    ratings: np.ndarray, answers: np.ndarray, left_out: int, values: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, values, values) tables of a left-out reader, and of the model, against what the others say.

    ratings: (n, readers) below ``values``, -1 where a reader gave none. answers: (n,) of the model. Both
    tables of a case add up to 1 where the reader and another one labelled it, else they are 0.
    """
    each = np.arange(values)
    others = (np.delete(ratings, left_out, axis=1)[:, :, None] == each).sum(axis=1)
    own = ratings[:, left_out]
    most = others.max(axis=1, keepdims=True)
    best = (others == most) & (most > 0) & (own >= 0)[:, None]
    share = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    reader, model = ((told[:, None] == each)[:, :, None] * share[:, None] for told in (own, answers))
    return reader, model


def beside_readers(
    ratings: np.ndarray,
    answers: np.ndarray,
    labels: Sequence[str],
    readers: Sequence[str],
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The model's agreement with readers beside their own, with intervals over patients, as JSON values.

    ratings: (n, readers) indices into ``labels``, -1 for none, two or more a case. answers: (n,) of the
    model. ``kappa`` has ``readers`` and ``model``, over all readers left out in turn, and ``difference``, the
    model less the readers. ``weighted_kappa`` is the same with quadratic weights, where there are three
    labels or more and all are numbers; else None. ``equal`` is the share of equal labels. ``per_reader``
    tells each apart.
    """
    levels = _numbers(labels)
    shape = (len(ratings), len(labels), len(labels))
    theirs, models = np.zeros(shape), np.zeros(shape)
    rows = []
    for r, name in enumerate(readers):
        reader, model = against_others(ratings, answers, r, len(labels))
        theirs += reader
        models += model
        here = np.flatnonzero(reader.any(axis=(1, 2)))
        if len(here) and len(readers) <= MOST_READERS:
            own = [patients[int(i)] for i in here]
            told = _compared(reader[here], model[here], levels, own, resamples, seed)
            rows.append({"reader": name, "cases": len(here), **told})
    counts = np.sort((ratings[:, :, None] == np.arange(len(labels))).sum(axis=1), axis=1)
    return {
        "cases": len(ratings),
        "patients": len(set(patients)),
        "readers": len(readers),
        "labels": list(labels),
        "ties": int((counts[:, -1] == counts[:, -2]).sum()),
        **_compared(theirs, models, levels, patients, resamples, seed),
        "per_reader": rows,
    }


def _numbers(labels: Sequence[str]) -> np.ndarray | None:
    """What the labels stand for as numbers; None where they are no grades."""
    try:
        levels = np.array([float(word) for word in labels])
    except ValueError:
        return None
    return levels if len(levels) > 2 and np.isfinite(levels).all() else None


def _compared(
    theirs: np.ndarray,
    models: np.ndarray,
    levels: np.ndarray | None,
    patients: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Kappa, plain and weighted, and the share of equal labels of two tables (n, k, k)."""
    places = np.arange(theirs.shape[1], dtype=float)

    def several(weights: np.ndarray | None) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for who, table in (("readers", theirs), ("model", models)):
            found[f"kappa.{who}"] = agreement.kappa(table, places, "nominal", weights)
            if levels is not None:
                found[f"weighted_kappa.{who}"] = agreement.kappa(table, levels, "interval", weights)
            found[f"equal.{who}"] = agreement.observed(table, weights)
        for name in {key.partition(".")[0] for key in found}:
            found[f"{name}.difference"] = found[f"{name}.model"] - found[f"{name}.readers"]
        return found if weights is not None else {key: value[0] for key, value in found.items()}

    flat = resampled(several, patients, resamples=resamples, seed=seed)
    parts = ("readers", "model", "difference")
    return {
        name: {who: flat[f"{name}.{who}"] for who in parts} if f"{name}.model" in flat else None
        for name in ("kappa", "weighted_kappa", "equal")
    }

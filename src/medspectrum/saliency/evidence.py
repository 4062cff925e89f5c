"""The labelled cases that look most alike to the frozen encoder: evidence that a reader can judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case, ClassTarget
from medspectrum.methods._features import mean_features

MOST = 5


def nearest(
    model: Any, cases: Sequence[Case], labelled: Sequence[Case], *, most: int = MOST
) -> list[list[dict[str, Any]]]:
    """Of each case the nearest labelled ones of other patients, the nearest first.

    Nearness is the cosine of features around the labelled cases' mean. A row has ``case``, ``label``
    and ``nearness``.
    """
    known = mean_features(model, labelled)
    asked = mean_features(model, cases)
    mean = known.mean(axis=0)
    known, asked = _unit(known - mean), _unit(asked - mean)
    alike = asked @ known.T
    patients = np.array([c.patient for c in labelled])
    keys = [{image.key() for image in c.images.values()} for c in labelled]
    found = []
    for row, case in zip(alike, cases, strict=True):
        own = {image.key() for image in case.images.values()}
        row = np.where(patients == case.patient, -np.inf, row)
        order = [int(i) for i in np.argsort(-row, kind="stable") if np.isfinite(row[i]) and not keys[i] & own]
        found.append(
            [
                {"case": labelled[i].id, "label": _label(labelled[i]), "nearness": float(row[i])}
                for i in order[:most]
            ]
        )
    return found


def _label(case: Case) -> str:
    target = case.asked(ClassTarget)
    return target.label if target is not None else ""


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)

"""What a model's frozen features are worth on some labelled cases, before anything is trained.

The features of few cases are enough: a ridge regression says of each patient what it would without that
patient, in closed form, and the task's own score of these answers is what can be expected of a head on frozen
features. For outlines the cases are points of their planes. LogME stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.budgets import nested_budgets
from medspectrum.case import Case, Task

POINTS = 24
"""Points of a plane whose features are looked at."""
MOST_POINTS = 6000
PENALTIES = tuple(10.0 ** (e / 2) for e in range(6, -7, -1))
_LOGIT = 3.0


@dataclass(frozen=True)
class Worth:
    """score: what can be expected of a head, in the units of ``of``. evidence: LogME, per case."""

    score: float
    evidence: float
    of: str
    cases: int


def some_cases(train: Sequence[Case], task: Task, count: int, seed: int) -> tuple[Case, ...]:
    """About so many training cases, as evenly over classes and patients as there are."""
    kinds = len({task.stratum(c) for c in train})
    each = max(2, count // max(1, kinds))
    return tuple(nested_budgets(train, [str(each)], draws=1, seed=seed, stratum=task.stratum)[0].cases)


def worth(model: Any, cases: Sequence[Case], task: Task) -> Worth | None:
    """Of a model's features on these labelled cases; None for tasks or cases that tell nothing.

    Every case must be known by another patient too, else nothing can be left out.
    """
    if task.name == "classify":
        return _of_classes(model, cases, task)
    if task.name == "segment":
        return _of_outlines(model, cases, task)
    return None


def _of_classes(model: Any, cases: Sequence[Case], task: Task) -> Worth | None:
    from medspectrum.methods._head import labelled_cases
    from medspectrum.methods._probabilities import softmax, spread_to_all

    given = labelled_cases(model, cases, task)
    answers = patients_left_out(given.rows, given.labels, given.patients)
    if answers is None:
        return None
    scores, held, evidence = answers
    logits = _LOGIT * scores
    probabilities = spread_to_all(softmax(logits), given.present, len(task.classes), len(cases))
    judged = [c for c, own in zip(cases, held, strict=True) if own]
    found = task.score(probabilities[held], judged, resamples=0)["scores"][task.primary]["value"]
    return None if found is None else Worth(float(found), evidence, task.primary, len(judged))


def _of_outlines(model: Any, cases: Sequence[Case], task: Task) -> Worth | None:
    """Dice over points: each class's points told right, as ``metrics.segmentation`` counts voxels."""
    import torch

    from medspectrum.methods import _dense

    if _dense.marked_as(cases, task) is not None:
        return None
    given = _dense.labelled_planes(cases, task)
    each = max(1, min(POINTS, MOST_POINTS // max(1, len(given))))
    rng = np.random.default_rng(0)
    rows, labels, patients = [], [], []
    for some in _dense.in_batches(given):
        maps = _dense.maps_of(model, [plane.images for plane in some])
        for place, plane in enumerate(some):
            where, own = _points(plane.labels, each, rng)
            grid = torch.from_numpy(where.astype(np.float32))[None, :, None]
            parts = [
                torch.nn.functional.grid_sample(
                    level[place : place + 1].float(), grid, mode="bilinear", align_corners=False
                )[0, :, :, 0].T.numpy()
                for level in maps
            ]
            rows.append(np.concatenate(parts, axis=1))
            labels.append(own)
            patients += [plane.patient] * len(own)
    present, numbers = np.unique(np.concatenate(labels), return_inverse=True)
    if len(present) < 2:
        return None
    answers = patients_left_out(np.concatenate(rows), numbers, patients)
    if answers is None:
        return None
    scores, held, evidence = answers
    if len(present) == 2:
        scores = np.concatenate([-scores, scores], axis=1)
    told, true = scores.argmax(axis=1)[held], numbers[held]
    dice = [
        2 * ((told == k) & (true == k)).sum() / ((told == k).sum() + (true == k).sum())
        for k in range(len(present))
        if present[k] > 0 and (true == k).any()
    ]
    return Worth(float(np.mean(dice)), evidence, "dice of points", len(cases)) if dice else None


def _points(labels: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) places x, y from -1 to 1 and (n,) labels: half anywhere, half shared out to what is outlined."""
    height, width = labels.shape
    chosen = [rng.integers(0, labels.size, max(1, count // 2))]
    flat = labels.ravel()
    for label in np.unique(flat[flat > 0]):
        inside = np.flatnonzero(flat == label)
        chosen.append(rng.choice(inside, max(1, count // (2 * len(np.unique(flat)))), replace=True))
    found = np.concatenate(chosen)
    y, x = np.divmod(found, width)
    return np.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], axis=1), flat[found].astype(int)


def patients_left_out(
    rows: np.ndarray, labels: np.ndarray, patients: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """(n, c) scores of each case by the fit without its patient, which of them hold, and LogME.

    None where no class is known from two patients.
    """
    from medspectrum.engine.evidence import log_evidence
    from medspectrum.engine.ridge import class_targets, ridge
    from medspectrum.engine.solvers import class_weights
    from medspectrum.methods._scale import scale_features

    classes = int(labels.max()) + 1
    _, numbers = np.unique(patients, return_inverse=True)
    pairs = np.unique(np.stack([labels, numbers], axis=1), axis=0)
    held = np.bincount(pairs[:, 0], minlength=classes)[labels] > 1
    if classes < 2 or len(np.unique(labels[held])) < 2:
        return None
    balance = class_weights(labels, classes)
    mean, factor = scale_features(rows, labels, balance)
    scaled = (rows - mean) * factor
    targets = class_targets(labels, classes)
    _, left = ridge(scaled, targets, penalties=PENALTIES, weights=balance, groups=numbers)
    errors = np.square(left[:, held] - targets[held]).sum(axis=2) @ balance[held]
    return left[int(np.argmin(errors))], held, log_evidence(scaled, labels, classes)

"""Splits inside the labelled cases, by which a method chooses its settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def patient_folds(
    patients: Sequence[str], labels: np.ndarray, *, folds: int = 5, seed: int = 0
) -> np.ndarray | None:
    """(n,) fold of each case: no patient is in two folds, each class is spread over them.

    There are as many folds as the class with most patients allows, at most ``folds``. None where no
    two patients share a class: then nothing can be learned from one part and checked on the other.
    """
    names, of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    # A patient with several classes is dealt out with the rarest of them.
    count = np.bincount(labels)
    order = np.argsort(-count[labels], kind="stable")
    of_patient = np.empty(len(names), dtype=np.int64)
    of_patient[of_case[order]] = labels[order]
    folds = min(folds, int(np.bincount(of_patient).max()))
    if folds < 2 or len(np.unique(labels)) < 2:
        return None
    rng = np.random.default_rng([seed, len(names)])
    fold = np.empty(len(names), dtype=np.int64)
    dealt = 0
    for label in np.unique(of_patient):
        here = rng.permutation(np.flatnonzero(of_patient == label))
        fold[here] = (np.arange(len(here)) + dealt) % folds
        dealt += len(here)
    return fold[of_case]

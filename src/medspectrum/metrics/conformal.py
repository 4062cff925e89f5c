"""Sets of classes that hold the true one as often as was promised, and when to abstain.

Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005): scores of cases that
were not learned from say how improbable a true class may look. Two scores:

* ``lac``: 1 minus the true class's probability; the smallest sets (Sadinle et al., "Least ambiguous
  set-valued classifiers with bounded error levels", JASA 114:223, 2019). Sets may be empty: nothing fits.
* ``aps``: the probability of all classes down to the true one, the last drawn in part (Romano et al.,
  "Classification with valid and adaptive coverage", NeurIPS 2020): sets grow where a case is hard.

Cases of one patient are alike, so patients are what is exchangeable: each patient weighs 1, shared by its
cases, and a patient more stands for the new one (Lee, Barber and Willett, "Distribution-free inference with
hierarchical data", 2023). Where every patient has one case, it is the usual split conformal threshold. The
promise holds on average over calibration and new patients *of the same kind*; another hospital is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SCORES = ("lac", "aps")
_TOUCH = 1e-12


def set_scores(probabilities: np.ndarray, kind: str, *, seed: int = 0) -> np.ndarray:
    """(n, k) how little each class conforms: a class belongs to the set where it is not above the threshold.

    seed: of what ``aps`` draws, once a case.
    """
    if kind == "lac":
        return 1.0 - probabilities
    if kind != "aps":
        raise ValueError(f"conformal scores are {' and '.join(SCORES)}; got {kind!r}")
    order = np.argsort(-probabilities, axis=1, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=1)
    part = np.random.default_rng(seed).random((len(probabilities), 1))
    reached = np.cumsum(falling, axis=1) - part * falling
    scores = np.empty_like(reached)
    np.put_along_axis(scores, order, reached, axis=1)
    return scores


def patient_shares(patients: Sequence[str]) -> tuple[np.ndarray, int]:
    """(n,) what each case weighs, 1 a patient; and how many patients there are."""
    _, of_case, cases = np.unique(np.asarray(patients, dtype=str), return_inverse=True, return_counts=True)
    return 1.0 / cases[of_case], len(cases)


def threshold(scores_of_truth: np.ndarray, patients: Sequence[str], *, alpha: float = 0.1) -> float:
    """The score that 1 - alpha of the patients' weight stays within; infinite where patients are too few."""
    shares, count = patient_shares(patients)
    order = np.argsort(scores_of_truth, kind="stable")
    reached = np.cumsum(shares[order])
    enough = np.flatnonzero(reached >= (1 - alpha) * (count + 1) - 1e-9)
    return float(scores_of_truth[order[enough[0]]]) if len(enough) else float("inf")


def calibrated(
    probabilities: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[str],
    kind: str,
    *,
    alpha: float = 0.1,
    seed: int = 0,
) -> float:
    """The threshold from cases (n, k) with known classes (n,) that were not learned from."""
    scores = set_scores(probabilities, kind, seed=seed)
    return threshold(scores[np.arange(len(truth)), truth], patients, alpha=alpha)


def sets(probabilities: np.ndarray, limit: float, kind: str, *, seed: int = 0) -> np.ndarray:
    """(n, k) whether a class belongs to a case's set."""
    return set_scores(probabilities, kind, seed=seed) <= limit + _TOUCH

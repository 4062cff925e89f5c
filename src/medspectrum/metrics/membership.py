"""Who was learned from: likelihood ratios against refits, and what an attack by them is worth.

After Carlini et al. 2022 (arXiv:2112.03570): the log odds of a case's true class are compared with those that
refits give it, learned with it and learned without. Nothing here is chosen on the predictor that is attacked:
a threshold is 0 where the score is a log ratio, and else the one that is best on the refits, so that an
advantage of 0 is 0 in the mean, however few patients there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.metrics.bootstrap import resampled

SURE = 1e-6
"""Probabilities are held off 0 and 1 by as much: log odds stay within 14."""
SHARED = 8.0
"""A case's variance is drawn to the mean one as by so many refits more."""
FEWEST = 3
"""Refits with a patient, and without, below which nothing is said of the patient."""
FALSE_ALARMS = 0.01


def log_odds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) log odds of the true classes, from probabilities (n, k)."""
    found = np.clip(probabilities[np.arange(len(truth)), truth], SURE, 1 - SURE)
    return np.log(found) - np.log1p(-found)


def log_ratios(refits: np.ndarray, inside: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n,) log likelihood of normal odds with the case learned from, less that without (online attack).

    refits: (s, n) log odds; inside: (s, n) whether the refit learned from the case; asked: (n,) log odds by
    the predictor. NaN where fewer than FEWEST refits have the case, or lack it.
    """
    (mean_in, var_in), (mean_out, var_out) = _normal(refits, inside), _normal(refits, ~inside)
    found = np.log(var_out / var_in) + (asked - mean_out) ** 2 / var_out - (asked - mean_in) ** 2 / var_in
    return 0.5 * found


def surprise(refits: np.ndarray, inside: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Deviations by which log odds (n,) or (s, n) are above those of refits without the case (offline)."""
    mean, variance = _normal(refits, ~inside)
    return (asked - mean) / np.sqrt(variance)


def _normal(refits: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (n,) over the chosen refits; the variance drawn to the mean one, never 0."""
    count = chosen.sum(axis=0)
    some = np.where(count >= FEWEST, count, np.nan)
    mean = np.where(chosen, refits, 0.0).sum(axis=0) / some
    squares = np.where(chosen, np.square(refits - mean), 0.0).sum(axis=0)
    whole = np.nansum(squares) / max(np.nansum(some - 1), 1.0)
    return mean, np.maximum((squares + SHARED * whole) / (some - 1 + SHARED), 1e-6)


def best_threshold(scores: np.ndarray, inside: np.ndarray) -> float:
    """The threshold whose true less false alarms are most on refits whose members are known; flat arrays."""
    order = np.argsort(-scores, kind="stable")
    ranked, members = scores[order], inside[order]
    gain = np.cumsum(members) / max(members.sum(), 1) - np.cumsum(~members) / max((~members).sum(), 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    best = int(np.argmax(np.where(ends, gain, -np.inf)))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1.0
    return float((ranked[best] + below) / 2)


def roc(scores: np.ndarray, members: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true alarm rates (t, R) at every threshold from the highest; weights: (n, R) of patients."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)
    rates = []
    for chosen in (~members, members):
        some = np.cumsum(weights[order] * chosen[order, None], axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = some[ends] / some[-1]
        rates.append(np.concatenate([np.zeros((1, weights.shape[1])), share]))
    return rates[0], rates[1]


def worth(
    scores: np.ndarray, members: np.ndarray, patients: Sequence[str], *, threshold: float, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Advantage, AUC and true alarms at 1 % false ones, each with a 95 % interval over patients.

    scores: (n,) of patients, higher for members. Advantage: the share of members above ``threshold`` less
    that of others (Yeom et al. 2018, arXiv:1709.01604); 0 is chance, 1 tells everybody.
    """

    def several(weights: np.ndarray | None) -> dict[str, Any]:
        given = np.ones((len(scores), 1)) if weights is None else weights
        false, true = roc(scores, members, given)
        with np.errstate(invalid="ignore", divide="ignore"):
            above = [
                (given * (chosen & (scores > threshold))[:, None]).sum(axis=0)
                / (given * chosen[:, None]).sum(axis=0)
                for chosen in (members, ~members)
            ]
        found = {
            "advantage": above[0] - above[1],
            "auc": (np.diff(false, axis=0) * (true[1:] + true[:-1]) / 2).sum(axis=0),
            "tpr_at_1_fpr": np.where(false <= FALSE_ALARMS, true, 0.0).max(axis=0),
        }
        return {name: own[0] for name, own in found.items()} if weights is None else found

    return resampled(several, patients, seed=seed)

"""A logistic regression on frozen features that is differentially private: no patient's part can be told.

What is promised, by (epsilon, delta): whoever sees the head, and knows everything of all other patients, can
hardly tell whether a patient was among those learned from, with all of the patient's cases or with none.
Every step follows the sum of the patients' gradients, each shortened to the length ``clip``, with normal
noise (Abadi et al. 2016, arXiv:1607.00133); the number of patients, how common classes are, and the mean of
the features get noise too. All patients take part in each step (Mehta et al. 2022, arXiv:2205.02973, find
that best for heads), and all that is published together is one Gaussian mechanism, so that the noise is the
least for the promise (see ``engine.privacy``). Features are brought to length 1 case by case, which looks at
nobody else, and centred on their noisy mean; the encoder was made from other data. The number that is kept
with the head is the noisy one of patients.

Not covered: answers about the patients who were learned from, the scores of validation patients, and choices
by looking at these. Settings have one usual value, found on malaria cells; nothing is chosen here.
The ``seed`` makes noise that repeats: who knows it can take the noise away, so that a head for others is made
with a secret one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.privacy import strength
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.methods._head import (
    Labelled,
    LinearHead,
    labelled_cases,
    only_class,
    restore_linear,
    unit_rows,
)
from medspectrum.methods._probabilities import softmax
from medspectrum.registry import method

COUNTING, CENTRING = 0.1, 0.1  # of mu^2: to numbers of patients and classes, to the mean; the rest to steps
CONSTANT = 0.5  # what stands beside the features for the intercept: about as long as they are once centred
MOMENTUM = 0.9
RAREST = 0.05  # of an equal share, at least, is how common a class is taken for: counts of few are noise


@method(
    "private_probe",
    trains="head",
    cost=0,
    restore=restore_linear,
    needs_model=True,
    named_only=True,
    private=True,
)
@one_blas_thread
def private_probe(
    model: Model,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    epsilon: float = 3.0,
    delta: float = 1e-5,
    clip: float = 0.2,
    steps: int = 400,
    learning_rate: float = 16.0,
) -> LinearHead:
    """Logistic regression on frozen features by noisy gradients: (epsilon, delta) holds for each patient.

    clip: most that a patient adds to a gradient. steps: each sees all cases. Which classes the labelled
    cases have is taken for known to all. Raises UserError where the promise is none.
    """
    mu = strength(epsilon, delta)
    if not clip > 0 or steps < 1 or not learning_rate > 0:
        raise UserError("clip and learning_rate are above 0, and steps 1 or more; leave them as they are.")
    given = labelled_cases(model, cases, task)
    settings = {"epsilon": epsilon, "delta": delta, "clip": clip, "steps": steps}
    rng = np.random.default_rng([seed, 61])
    if len(given.present) == 1:
        about = len(set(given.patients)) + rng.normal(0, 1 / mu)
        return replace(only_class(model, given, settings), labelled=max(round(about), 1))
    weights, intercepts, about = _descended(given, mu, clip, steps, learning_rate, rng)
    return LinearHead(
        model, given.classes, weights, intercepts, given.present, round(about), settings, unit_length=True
    )


def _descended(
    given: Labelled, mu: float, clip: float, steps: int, learning_rate: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights (d, c), intercepts (c,) for unit features and equally common classes; patients with noise."""
    k = len(given.present)
    patients, owner = np.unique(given.patients, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    owner, labels = owner[order], given.labels[order]
    rows = unit_rows(given.rows[order]).astype(np.float32)
    starts = np.searchsorted(owner, np.arange(len(patients)))
    truth = np.eye(k, dtype=np.float32)[labels]
    shares = np.add.reduceat(truth.astype(np.float64), starts, axis=0)
    shares /= shares.sum(axis=1, keepdims=True)
    counts = shares.sum(axis=0) + rng.normal(0, 1 / (mu * COUNTING**0.5), k)
    total = max(float(counts.sum()), 1.0)
    own = np.add.reduceat(rows.astype(np.float64), starts, axis=0) / np.bincount(owner)[:, None]
    centre = (own.sum(axis=0) + rng.normal(0, 1 / (mu * CENTRING**0.5), rows.shape[1])) / total
    rows = np.concatenate([rows - centre, np.full((len(rows), 1), CONSTANT)], axis=1).astype(np.float32)
    prior = np.log(np.maximum(counts, RAREST * total / k) / total).astype(np.float32)
    noise = clip * (steps / (1 - COUNTING - CENTRING)) ** 0.5 / mu
    here, speed, kept = (np.zeros((rows.shape[1], k)) for _ in range(3))
    for step in range(steps):
        wrong = softmax(rows @ here.astype(np.float32) + prior) - truth
        gradient = clipped_gradient(rows, wrong, starts, clip) + rng.normal(0, noise, here.shape)
        speed = MOMENTUM * speed + gradient / total
        here = here - learning_rate * speed
        if step >= steps // 2:
            kept += here
    kept /= steps - steps // 2
    if k == 2:
        kept = kept[:, 1:] - kept[:, :1]
    return kept[:-1], CONSTANT * kept[-1] - centre @ kept[:-1], total


def clipped_gradient(rows: np.ndarray, wrong: np.ndarray, starts: np.ndarray, clip: float) -> np.ndarray:
    """(d, k): the patients' gradients, each shortened to the length ``clip``, added up.

    rows: (n, d), sorted by patient. wrong: (n, k) residuals. starts: (p,) each patient's first row.
    """
    if len(starts) == len(rows):
        length = np.linalg.norm(rows, axis=1) * np.linalg.norm(wrong, axis=1)
        return rows.T @ (wrong * np.minimum(1.0, clip / np.maximum(length, 1e-30))[:, None])
    of_each = [np.add.reduceat(rows * wrong[:, c : c + 1], starts, axis=0) for c in range(wrong.shape[1])]
    length = np.sqrt(sum(np.square(own).sum(axis=1, dtype=np.float64) for own in of_each))
    share = np.minimum(1.0, clip / np.maximum(length, 1e-30))
    return np.stack([share @ own for own in of_each], axis=1)

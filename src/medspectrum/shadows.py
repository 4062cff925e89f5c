"""Refits of a predictor by its own method and settings on other patients, as an attacker would make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.card import Card
from medspectrum.case import Case, Features, LazyImage, Task
from medspectrum.metrics.membership import best_threshold, log_odds, log_ratios, roc, surprise, worth
from medspectrum.trial import case_digest, code_digest

ATTACKS = ("online", "offline", "loss_threshold")


@dataclass(frozen=True)
class AtHand:
    """A model whose features of some images are in memory. rows: by the image's ``id``."""

    card: Card
    key: str
    rows: Mapping[int, np.ndarray]

    def embed(self, images: Sequence[LazyImage], level: str = "pooled") -> Features:
        """Features of images that were given to ``at_hand``; pooled ones alone."""
        if level != "pooled":
            raise ValueError(f"pooled features are at hand, not {level}")
        return Features(np.stack([self.rows[id(image)] for image in images]))


def at_hand(model: Any, cases: Sequence[Case]) -> AtHand:
    """The model with the features of the cases' images in memory: each refit asks for them."""
    images = [image for case in cases for image in case.images.values()]
    found = np.asarray(model.embed(images, "pooled").pooled)
    return AtHand(model.card, model.key, {id(i): row for i, row in zip(images, found, strict=True)})


@dataclass(frozen=True)
class People:
    """Cases of patients who were learned from, and of others to compare them with.

    owner: (n,) each case's patient, an index into names. member: (p,) whether learned from. stratum: (p,)
    the patient's rarest class.
    """

    cases: tuple[Case, ...]
    names: tuple[str, ...]
    owner: np.ndarray
    member: np.ndarray
    stratum: np.ndarray

    def drawn(self, rng: np.random.Generator) -> np.ndarray:
        """(p,) of each class as many patients as were learned from."""
        inside = np.zeros(len(self.names), bool)
        for label in np.unique(self.stratum):
            own = np.flatnonzero(self.stratum == label)
            inside[rng.permutation(own)[: int(self.member[own].sum())]] = True
        return inside

    def of_patients(self, values: np.ndarray) -> np.ndarray:
        """(..., p) sums of (..., n) over each patient's cases."""
        order = np.argsort(self.owner, kind="stable")
        starts = np.searchsorted(self.owner[order], np.arange(len(self.names)))
        return np.add.reduceat(values[..., order], starts, axis=-1)

    @property
    def counts(self) -> np.ndarray:
        """(p,) cases of each patient."""
        return np.bincount(self.owner, minlength=len(self.names))


def people(learned: Sequence[Case], others: Sequence[Case], task: Task, *, seed: int = 0) -> People:
    """The patients learned from and, class by class, at most as many of the others, drawn by ``seed``.

    A patient of whom some cases were learned from is a member with these cases. Members of a class that
    no other patient has are in every refit: nothing can be said of them.
    """
    of: dict[str, list[Case]] = {}
    inside = {c.patient for c in learned}
    for case in (*learned, *(c for c in others if c.patient not in inside)):
        of.setdefault(case.patient, []).append(case)
    frequency = np.bincount([int(task.target(c)) for c in learned], minlength=len(task.classes))
    stratum = {
        p: min((int(task.target(c)) for c in own), key=lambda t: frequency[t]) for p, own in of.items()
    }
    rng = np.random.default_rng([seed, 73])
    kept: list[str] = []
    for label in sorted(set(stratum.values())):
        own = sorted(p for p in of if stratum[p] == label)  # whatever the order of the data
        known, rest = [p for p in own if p in inside], [p for p in own if p not in inside]
        if known and rest:
            kept += [*known, *(rest[i] for i in sorted(rng.permutation(len(rest))[: len(known)]))]
        else:
            kept += known  # always learned from, as the predictor did; nothing is said of them
    place = {name: i for i, name in enumerate(kept)}
    cases = tuple(c for name in kept for c in of[name])
    return People(
        cases,
        tuple(kept),
        np.array([place[c.patient] for c in cases]),
        np.array([name in inside for name in kept]),
        np.array([stratum[name] for name in kept]),
    )


def refitted(
    method: Callable[..., Any],
    name: str,
    settings: Mapping[str, Any],
    model: AtHand,
    some: People,
    task: Task,
    *,
    shadows: int,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds (s, n) that refits give each case's class, and the patients (s, p) each learned from.

    Each refit has its own patients and its own seed, since an attacker knows neither. Those in ``cache`` are
    not computed again.
    """
    truth = np.array([task.target(c) for c in some.cases])
    known = [model.key, name, dict(settings), list(task.classes), some.member.tolist(), seed]
    folder = (
        cache / "attacks" / store.digest(known, case_digest(some.cases, task), code_digest())[:16]
        if cache
        else None
    )
    odds = np.zeros((shadows, len(some.cases)))
    inside = np.zeros((shadows, len(some.names)), bool)
    for s in range(shadows):
        rng = np.random.default_rng([seed, 71, s])
        inside[s] = some.drawn(rng)
        own_seed = int(rng.integers(2**31))
        kept = folder / f"{s:04d}.npy" if folder else None
        if kept is not None and kept.is_file():
            odds[s] = np.load(kept, allow_pickle=False)
        else:
            learned = [c for c, p in zip(some.cases, some.owner, strict=True) if inside[s, p]]
            predictor = method(model, learned, task, seed=own_seed, **dict(settings))
            odds[s] = log_odds(predictor.predict(some.cases), truth)
            if kept is not None:
                with store.atomic(kept) as partial, partial.open("wb") as opened:
                    np.save(opened, odds[s])
        progress(s + 1, shadows)
    return odds, inside


def membership(
    asked: np.ndarray, odds: np.ndarray, inside: np.ndarray, some: People, *, seed: int = 0
) -> dict[str, Any]:
    """What each attack is worth against log odds (n,) of the predictor, and its curve.

    odds, inside: as of ``refitted``. Scores of a patient's cases are added up for the likelihood ratio, and
    averaged for the loss.
    """
    of_case = inside[:, some.owner]
    counts = some.counts
    ratio = some.of_patients(log_ratios(odds, of_case, asked))
    root = np.sqrt(counts)
    above = some.of_patients(surprise(odds, of_case, asked)) / root
    above_refits = some.of_patients(surprise(odds, of_case, odds)) / root
    loss, loss_refits = (some.of_patients(-np.logaddexp(0, -o)) / counts for o in (asked, odds))
    judged = np.isfinite(ratio) & np.isfinite(above)
    if not (judged & some.member).any() or not (judged & ~some.member).any():
        return {}
    flat = inside[:, judged].ravel()
    scores = {
        "online": (ratio, 0.0),
        "offline": (above, best_threshold(above_refits[:, judged].ravel(), flat)),
        "loss_threshold": (loss, best_threshold(loss_refits[:, judged].ravel(), flat)),
    }
    members = some.member[judged]
    names = [n for n, kept in zip(some.names, judged, strict=True) if kept]
    found: dict[str, Any] = {
        "patients": {"learned_from": int(members.sum()), "held_out": int((~members).sum())},
        "not_judged": int((~judged).sum()),
        "attacks": {},
        "curves": {},
    }
    for name in ATTACKS:
        own, threshold = scores[name]
        found["attacks"][name] = worth(own[judged], members, names, threshold=threshold, seed=seed)
        false, true = roc(own[judged], members, np.ones((len(members), 1)))
        found["curves"][name] = {"false": false[:, 0].tolist(), "true": true[:, 0].tolist()}
    return found

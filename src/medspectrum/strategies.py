"""Ways of choosing cases by what encoders see of them: each gives cases in order, with a figure and a reason.

A strategy is a function of a ``Pool`` and a number. The choosing itself is in ``engine.selection``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum.case import Case, ClassTarget, label_order
from medspectrum.engine import selection
from medspectrum.engine.selection import Room
from medspectrum.errors import UserError
from medspectrum.pool import Pool

EDGE = 3
"""Corner cases are spread over so many times as many of the strangest."""
LOOKED_AT = 10
"""Neighbours that two models are asked about."""
OUTLINED = 2 / 3
"""Share of the baseline that shows what is to be outlined, where it is known what does."""

SHARPNESS = 3.0
"""Turns the answers of a regression on labels of -1 and 1 into logits."""


@dataclass(frozen=True)
class Chosen:
    """place: of the case in the pool. score: the figure that it was chosen by. reason: in words."""

    place: int
    score: float
    reason: str


Strategy = Callable[[Pool, int], list[Chosen]]


def representative(pool: Pool, count: int) -> list[Chosen]:
    """Cases that all others are near to (facility location): what to label first, or to keep."""
    chosen = selection.facility_location(pool.rows, count, pool.room(count), given=pool.given, seed=pool.seed)
    stands_for = np.bincount(
        selection.nearest(pool.rows, [*chosen, *pool.given])[0], minlength=len(chosen) + len(pool.given)
    )
    return [
        Chosen(place, float(number), f"stands for {_cases(int(number))}")
        for place, number in zip(chosen, stands_for, strict=False)
    ]


def spread(pool: Pool, count: int) -> list[Chosen]:
    """Each case the farthest from all before it (k-centre): nothing is left far from a chosen one."""
    chosen = selection.k_centre(pool.rows, count, pool.room(count), given=pool.given)
    return [
        Chosen(place, far, f"distance {far:.2f} from all that was chosen before" if np.isfinite(far) else
               "nearest to the middle of all")
        for place, far in zip(chosen, _distances_before(pool, chosen), strict=True)
    ]  # fmt: skip


def typical(pool: Pool, count: int) -> list[Chosen]:
    """The most typical case of each cluster: what to begin with where few labels can be paid for."""
    chosen = selection.typical(pool.rows, count, pool.room(count), given=pool.given, seed=pool.seed)
    near = selection.neighbour_distances(pool.rows, seed=pool.seed)
    return [
        Chosen(
            place, float(1 - near[place]), f"typical of its cluster: its neighbours lie at {near[place]:.2f}"
        )
        for place in chosen
    ]


def corner(pool: Pool, count: int) -> list[Chosen]:
    """Cases at the edge: few like them, in rare clusters, or seen differently by two models."""
    near = selection.neighbour_distances(pool.rows, seed=pool.seed)
    kinds = max(2, int(np.sqrt(len(pool.rows))))
    clusters = selection.clusters_of(pool.rows, min(kinds, selection.MOST_CLUSTERS), seed=pool.seed)
    sizes = np.bincount(clusters)[clusters]
    signs = {
        "few are like it: its neighbours lie at {0:.2f}, those of half the cases within {1:.2f}": near,
        "its cluster has {2} of the cases": -sizes.astype(float),
    }
    if pool.others:
        signs["two models see different neighbours: they share {3:.0%}"] = 1 - _agreement(pool)
    ranks = np.stack([_rank(values) for values in signs.values()])
    strange = ranks.max(axis=0) + ranks.mean(axis=0)
    room = pool.room(min(len(pool.rows), EDGE * count))
    free = np.flatnonzero(room.open)
    strangest = np.zeros(len(pool.rows), bool)
    strangest[free[np.argsort(-strange[free], kind="stable")][: EDGE * count]] = True
    chosen = selection.k_centre(
        pool.rows, count, pool.room(count, strangest), given=pool.given, weights=strange
    )
    shared = _agreement(pool) if pool.others else np.ones(len(pool.rows))
    words = list(signs)
    return [
        Chosen(
            place,
            float(strange[place] / 2),
            words[int(ranks[:, place].argmax())].format(
                near[place], float(np.median(near)), int(sizes[place]), shared[place]
            ),
        )
        for place in chosen
    ]


def balanced(pool: Pool, count: int) -> list[Chosen]:
    """As many of each class, centre or value of a column as there are, each part by what represents it."""
    values = [value_of(case, pool.by) for case in pool.cases]
    names = sorted({v for v in values if v is not None}, key=label_order)
    if not names:
        raise UserError(
            f"no case tells its {pool.by}, so there is nothing to balance by; give --by class, --by centre "
            "or --by and the name of a column of the table"
        )
    inside = {name: np.array([v == name for v in values]) for name in names}
    there = {name: int(pool.room(count, own).open.sum()) for name, own in inside.items()}
    shares = _shared_out(there, count)
    parts: dict[str, list[Chosen]] = {}
    for name in names:
        if not shares[name]:
            continue
        room = pool.room(shares[name], inside[name])
        own = np.flatnonzero(inside[name])
        place_of = {int(row): i for i, row in enumerate(own)}
        part = Room(len(own), [pool.patients[i] for i in own], room.limit)
        part.close(np.flatnonzero(~room.open[own]))
        rows = selection.unit_rows(pool.rows[own])
        given = [place_of[g] for g in pool.given if g in place_of]
        taken = selection.facility_location(rows, shares[name], part, given=given, seed=pool.seed)
        reason = f"one of {shares[name]} of {{}} with {pool.by} {name}"
        parts[name] = [
            Chosen(int(own[i]), shares[name] / len(own), reason.format(_cases(len(own)))) for i in taken
        ]
    depth = max(map(len, parts.values()), default=0)
    return [part[turn] for turn in range(depth) for part in parts.values() if turn < len(part)]


def next_to_label(pool: Pool, count: int) -> list[Chosen]:
    """What the predictor is least sure of, and far from what is labelled: uncertainty times distance."""
    if pool.unsure is None:
        raise UserError(
            "the strategy next asks a predictor what it is unsure of: give --predictor with the folder "
            "'predictor' of a finished run (several, separated by commas, are asked how they disagree)"
        )
    chosen = selection.k_centre(
        pool.rows, count, pool.room(count), given=pool.given, weights=np.maximum(pool.unsure, 1e-6)
    )
    far = _distances_before(pool, chosen)
    return [
        Chosen(
            place,
            float(pool.unsure[place]),
            f"unsure {pool.unsure[place]:.2f}"
            + (f" ({pool.told[place]})" if pool.told else "")
            + (f", distance {distance:.2f} from what is labelled or chosen" if np.isfinite(distance) else ""),
        )
        for place, distance in zip(chosen, far, strict=True)
    ]


def mislabelled(pool: Pool, count: int) -> list[Chosen]:
    """Labels that other patients' cases speak against: what a second reader should look at, worst first.

    A ridge regression on the features says of each patient what it would without that patient. The figure is
    the normalised margin of confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021): the probability
    of the best other class less that of the given one; who is not contradicted is not named.
    """
    from medspectrum.transfer import patients_left_out

    labels = [value_of(case, "class") for case in pool.cases]
    known = np.array([i for i, label in enumerate(labels) if label is not None], int)
    names, numbers = np.unique([labels[i] or "" for i in known], return_inverse=True)
    patients = [pool.patients[i] for i in known]
    answers = patients_left_out(pool.rows[known], numbers, patients) if len(known) else None
    if answers is None:
        raise UserError(
            "no two classes are known from two patients each, so no label can be held against others"
        )
    scores, held, _ = answers
    own, other, against = margins(scores, numbers)
    order = [i for i in np.argsort(own - other, kind="stable") if held[i] and other[i] > own[i]]
    return [
        Chosen(
            int(known[i]),
            float(other[i] - own[i]),
            f"labelled {names[numbers[i]]} ({own[i]:.2f}), but {names[against[i]]} ({other[i]:.2f}) by other "
            "patients' cases",
        )
        for i in order[:count]
    ]


def margins(scores: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of the given class, that of the best other one, and which it is; each (n,).

    scores: (n, classes), or (n, 1) for the second of two.
    """
    both = np.concatenate([-scores, scores], axis=1) if scores.shape[1] == 1 else scores
    likely = np.exp(SHARPNESS * (both - both.max(axis=1, keepdims=True)))
    likely /= likely.sum(axis=1, keepdims=True)
    rows = np.arange(len(likely))
    own = likely[rows, numbers]
    likely[rows, numbers] = -1
    return own, likely.max(axis=1), likely.argmax(axis=1)


def at_random(pool: Pool, count: int) -> list[Chosen]:
    """By chance, patient by patient; where outlines are known of, two of three show something."""
    return [Chosen(place, 0.0, reason) for place, reason in baseline(pool, count, pool.seed)]


def baseline(pool: Pool, count: int, seed: int) -> list[tuple[int, str]]:
    """A choice by chance under the same rules: places and why."""
    rng = np.random.default_rng([seed, 3])
    room = pool.room(count)
    if pool.foreground is None:
        return [(place, "by chance") for place in selection.at_random(rng, count, room)]
    empty = room.copy()
    empty.close(np.flatnonzero(~pool.foreground))
    shown = selection.at_random(rng, round(OUTLINED * count), empty)
    for place in shown:
        room.take(place)
    rest = selection.at_random(rng, count - len(shown), room)
    return [(p, "by chance among those where something is outlined") for p in shown] + [
        (p, "by chance") for p in rest
    ]


STRATEGIES: Mapping[str, Strategy] = {
    "representative": representative,
    "spread": spread,
    "typical": typical,
    "corner": corner,
    "balanced": balanced,
    "next": next_to_label,
    "mislabelled": mislabelled,
    "random": at_random,
}


def value_of(case: Case, by: str) -> str | None:
    """A case's class, centre, or value in a column of its table; None where it has none."""
    if by == "class":
        found = case.asked(ClassTarget)
        return None if found is None else found.label
    if by == "centre":
        return case.centre
    value = case.record.get(by)
    return None if value is None else str(value)


def _shared_out(there: Mapping[str, int], count: int) -> dict[str, int]:
    """Equal numbers of each, as far as there are so many; the rest goes to those that have more."""
    shares = dict.fromkeys(there, 0)
    while sum(shares.values()) < min(count, sum(there.values())):
        name = min((n for n in there if shares[n] < there[n]), key=lambda n: (shares[n], there[n]))
        shares[name] += 1
    return shares


def _agreement(pool: Pool) -> np.ndarray:
    """(n,) the share of nearest neighbours that the first model and each of the others have in common."""
    found = np.zeros(len(pool.rows))
    own = _neighbours(pool.rows)
    for rows in pool.others:
        other = _neighbours(rows)
        found += [len(np.intersect1d(a, b)) for a, b in zip(own, other, strict=True)]
    return found / (own.shape[1] * len(pool.others))


def _neighbours(rows: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    count = max(1, min(LOOKED_AT, len(rows) - 1))
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(rows)
    return found.kneighbors(return_distance=False)


def _rank(values: np.ndarray) -> np.ndarray:
    """(n,) place in the order of values from 0 to 1, equal ones at their mean."""
    from scipy.stats import rankdata

    return (rankdata(values) - 1) / max(len(values) - 1, 1)


def _distances_before(pool: Pool, chosen: Sequence[int]) -> list[float]:
    """Of each chosen one, the distance to what was there when it was taken; infinite for the very first."""
    anchors = pool.rows[np.array([*pool.given, *chosen], int)]
    first = len(pool.given)
    return [
        float((1 - (anchors[:turn] @ anchors[turn]).max(initial=-np.inf)) / 2)
        for turn in range(first, first + len(chosen))
    ]


def _cases(number: int) -> str:
    return f"{number:,} case" + ("" if number == 1 else "s")

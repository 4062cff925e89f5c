"""Choosing few rows of many by their features: to cover them, to span them, the densest, or the edge.

Rows are unit vectors (``unit_rows``); how alike two rows are is (1 + cosine) / 2, from 0 to 1. Every function
gives indices in the order in which they were taken, begins from rows that are ``given`` already, and takes
only what the ``Room`` still has. None holds a matrix of all rows by all rows.

Sources: greedy k-centre, Gonzalez, Theor. Comput. Sci. 38, 1985, and Sener and Savarese, ICLR 2018; facility
location by lazy greedy, Minoux 1978; alternation of medoids, Park and Jun, Expert Syst. Appl. 36, 2009;
typicality, Hacohen, Dekel and Weinshall, ICML 2022.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Sequence

import numpy as np

EXACT = 8192
"""Up to so many rows the greedy sees all of them; of more it sees a sample, and then goes over all."""
MOST_HELD = 200_000_000
"""Numbers of the largest matrix that is held (0.8 GB)."""
BLOCK = 2048
NEIGHBOURS = 20
MOST_CLUSTERS = 500
PASSES = 4
DEAR = 4e11
"""Multiplications and additions of a pass over all rows from which one pass has to do."""


class Room:
    """Which rows may still be taken: none twice, and of each group at most a number.

    open: (n,) bool. slots: (n,) numbers of the groups, or None where there is no limit.
    """

    def __init__(self, count: int, groups: Sequence[object] | np.ndarray | None, limit: int | None) -> None:
        self.open = np.ones(count, bool)
        self.limit, self.slots = limit, None
        if groups is not None and limit is not None:
            _, self.slots = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
            self.taken = np.zeros(int(self.slots.max(initial=-1)) + 1, int)
            order = np.argsort(self.slots, kind="stable")
            self._members = np.split(order, np.cumsum(np.bincount(self.slots))[:-1])

    def copy(self) -> Room:
        """The same state, to go on from apart."""
        made = copy.copy(self)
        made.open = self.open.copy()
        if self.slots is not None:
            made.taken = self.taken.copy()
        return made

    def close(self, rows: Sequence[int] | np.ndarray) -> None:
        """Take rows out of the choice without counting them."""
        self.open[np.asarray(rows, int)] = False

    def take(self, row: int) -> None:
        """Count a row as taken."""
        self.open[row] = False
        if self.slots is None or self.limit is None:
            return
        group = self.slots[row]
        self.taken[group] += 1
        if self.taken[group] >= self.limit:
            self.open[self._members[group]] = False


def unit_rows(features: np.ndarray) -> np.ndarray:
    """(n, d) float32 rows of length one around the mean; a row without a direction is zero.

    Encoders share a large common part over all images, beside which nothing else would count.
    """
    rows = np.asarray(features, np.float32)
    rows = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows


def fair_limit(groups: Sequence[object] | np.ndarray, count: int) -> int:
    """The least number per group with which ``count`` rows can be had: every group gives, none gives more."""
    _, sizes = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    limit = 1
    while np.minimum(sizes, limit).sum() < min(count, sizes.sum()):
        limit += 1
    return limit


def at_random(rng: np.random.Generator, count: int, room: Room) -> list[int]:
    """Rows by chance within what there is room for."""
    taken: list[int] = []
    for row in rng.permutation(len(room.open)):
        if len(taken) == count:
            break
        if room.open[row]:
            room.take(int(row))
            taken.append(int(row))
    return taken


def k_centre(
    rows: np.ndarray,
    count: int,
    room: Room,
    *,
    given: Sequence[int] = (),
    weights: np.ndarray | None = None,
) -> list[int]:
    """Always the row that is farthest from all taken ones; the first is the one nearest to all others.

    weights: (n,) by which distances count, such as how unsure something is of a row; the first row is then
    the one of most weight.
    """
    far = np.full(len(rows), np.inf, np.float32)
    for row in given:
        np.minimum(far, _distances(rows, int(row)), out=far)
    taken: list[int] = []
    while len(taken) < count and room.open.any():
        if np.isinf(far[0]):
            worth = rows @ rows.sum(axis=0) if weights is None else weights
        else:
            worth = far if weights is None else far * weights
        row = int(np.argmax(np.where(room.open, worth, -np.inf)))
        room.take(row)
        taken.append(row)
        np.minimum(far, _distances(rows, row), out=far)
    return taken


def _distances(rows: np.ndarray, row: int) -> np.ndarray:
    return np.maximum((1 - rows @ rows[row]) / 2, 0)


def facility_location(
    rows: np.ndarray,
    count: int,
    room: Room,
    *,
    given: Sequence[int] = (),
    seed: int = 0,
    exact: int = EXACT,
    passes: int = PASSES,
) -> list[int]:
    """Rows so that every row is as near as can be to one of them: the sum of ``coverage`` is made large.

    Lazy greedy over all rows, or over a sample of more than ``exact``; then each taken row gives way to the
    best of those it stands for, which never lowers the sum, and all are dealt out anew.
    """
    rng = np.random.default_rng(seed)
    own = room.copy()
    columns = np.flatnonzero(room.open)
    if len(rows) > exact:
        columns = _some(columns, max(exact, 2 * count), own, rng)
    seen = np.arange(len(rows))
    most = max(1, MOST_HELD // max(1, len(columns)))
    if len(rows) > min(exact, most):
        seen = np.sort(rng.choice(len(rows), min(max(exact, 2 * count), most, len(rows)), replace=False))
    chosen = _greedy(rows, columns, seen, count, own, given)
    if len(chosen) < count:  # what is left adds nothing, or was not in the sample
        chosen += at_random(rng, count - len(chosen), own)
    once = 2.0 * len(rows) * len(chosen) * rows.shape[1]
    for _ in range(passes if once < DEAR else min(passes, 1)):
        better = _medoids(rows, chosen, given, room)
        if better == chosen:
            break
        chosen = better
    for row in chosen:
        room.take(row)
    return chosen


def _some(columns: np.ndarray, count: int, room: Room, rng: np.random.Generator) -> np.ndarray:
    """So many of the rows; where groups are limited, from all of them by turns."""
    if len(columns) <= count:
        return columns
    mixed = columns[rng.permutation(len(columns))]
    if room.slots is not None:
        slots = room.slots[mixed]
        order = np.argsort(slots, kind="stable")
        starts = np.searchsorted(slots[order], slots[order])
        turn = np.empty(len(mixed), int)
        turn[order] = np.arange(len(mixed)) - starts
        mixed = mixed[np.argsort(turn, kind="stable")]
    return np.sort(mixed[:count])


def _greedy(
    rows: np.ndarray, columns: np.ndarray, seen: np.ndarray, count: int, room: Room, given: Sequence[int]
) -> list[int]:
    """Always the column that adds most to the coverage of what is seen; what adds nothing is not taken."""
    alike = np.empty((len(columns), len(seen)), np.float32)
    observed = rows[seen].T
    for start in range(0, len(columns), BLOCK):
        np.matmul(rows[columns[start : start + BLOCK]], observed, out=alike[start : start + BLOCK])
    alike += 1
    alike *= 0.5
    best = np.zeros(len(seen), np.float32)
    for start in range(0, len(given), BLOCK):
        near = rows[np.asarray(given[start : start + BLOCK], int)] @ observed
        np.maximum(best, (near.max(axis=0) + 1) / 2, out=best)
    bounds = np.empty(len(columns), np.float64)
    for start in range(0, len(columns), BLOCK):
        part = np.maximum(alike[start : start + BLOCK] - best, 0)
        bounds[start : start + BLOCK] = part.sum(axis=1, dtype=np.float64)
    heap = [(-float(bound), place) for place, bound in enumerate(bounds)]
    heapq.heapify(heap)
    chosen: list[int] = []
    held = np.empty(len(seen), np.float32)
    while heap and len(chosen) < count:
        _, place = heapq.heappop(heap)
        row = int(columns[place])
        if not room.open[row]:
            continue
        np.subtract(alike[place], best, out=held)
        np.maximum(held, 0, out=held)
        gain = float(held.sum())
        if gain <= 0:
            continue
        if heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, place))
            continue
        room.take(row)
        chosen.append(row)
        np.maximum(best, alike[place], out=best)
    return chosen


def nearest(rows: np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) place in ``chosen`` of the row that is most like each row, and how like it is, from 0 to 1."""
    anchors = rows[np.asarray(chosen, int)].T
    place, alike = np.empty(len(rows), int), np.empty(len(rows), np.float32)
    step = max(1, min(BLOCK, 32_000_000 // max(1, anchors.shape[1])))
    for start in range(0, len(rows), step):
        part = rows[start : start + step] @ anchors
        place[start : start + step] = part.argmax(axis=1)
        alike[start : start + step] = part[np.arange(len(part)), place[start : start + step]]
    return place, np.clip((1 + alike) / 2, 0, 1)


def coverage(rows: np.ndarray, chosen: Sequence[int], *, most: int = 0, seed: int = 0) -> np.ndarray:
    """(n,) how like each row is to the chosen one that is most like it, from 0 to 1.

    most: of a sample of so many rows where there are more; 0 for all.
    """
    anchors = rows[np.asarray(chosen, int)]
    if most and len(rows) > most:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))]
    return nearest(np.concatenate([anchors, rows]), range(len(anchors)))[1][len(anchors) :]


def _medoids(rows: np.ndarray, chosen: list[int], given: Sequence[int], room: Room) -> list[int]:
    """Each taken row gives way to the best of those that are nearer to it than to any other.

    Likeness is linear in either row, so the sum over a part is the product with the part's sum. Where a
    group has given its number, the next best is taken, or the row stays.
    """
    slots = nearest(rows, [*chosen, *given])[0]
    order = np.argsort(slots, kind="stable")
    numbers, starts = np.unique(slots[order], return_index=True)
    sums = np.add.reduceat(rows[order], starts, axis=0)
    worth = np.empty(len(rows), np.float32)
    members = np.split(order, starts[1:])
    counts = np.zeros(0, int)
    if room.slots is not None and room.limit is not None:
        counts = room.taken + np.bincount(room.slots[chosen], minlength=len(room.taken))
    better, used = list(chosen), set(chosen)
    for number, own, total in zip(numbers, members, sums, strict=True):
        if number >= len(chosen):
            continue  # stands for one that was given
        worth[own] = rows[own] @ total
        now = chosen[number]
        least = worth[now] if slots[now] == number else -np.inf
        candidates = own[room.open[own] & (worth[own] > least + 1e-6)]
        for row in candidates[np.argsort(-worth[candidates], kind="stable")]:
            if int(row) in used:
                continue
            if room.slots is not None and room.limit is not None:
                if counts[room.slots[row]] >= room.limit and room.slots[row] != room.slots[now]:
                    continue
                counts[room.slots[now]] -= 1
                counts[room.slots[row]] += 1
            used.remove(now)
            used.add(int(row))
            better[number] = int(row)
            break
    return better


def neighbour_distances(
    rows: np.ndarray, *, neighbours: int = NEIGHBOURS, seed: int = 0, against: int = 2 * EXACT
) -> np.ndarray:
    """(n,) mean distance to the nearest others: large where there are few like it.

    Of more than ``against`` rows the others are a sample of so many.
    """
    rng = np.random.default_rng(seed)
    others = np.arange(len(rows))
    if len(rows) > against:
        others = np.sort(rng.choice(len(rows), against, replace=False))
    most = max(1, min(neighbours, len(others) - 1))
    found = np.zeros(len(rows), np.float32)
    if len(rows) < 2:
        return found
    own = np.full(len(rows), -1)
    own[others] = np.arange(len(others))
    for start in range(0, len(rows), BLOCK // 2):
        part = rows[start : start + BLOCK // 2] @ rows[others].T
        here = own[start : start + len(part)]
        inside = np.flatnonzero(here >= 0)
        part[inside, here[inside]] = -np.inf
        near = -np.partition(-part, most - 1, axis=1)[:, :most]
        found[start : start + len(part)] = (1 - near.mean(axis=1)) / 2
    return np.maximum(found, 0)


def clusters_of(rows: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """(n,) the number of each row's cluster, by k-means; in batches where there are many rows."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = min(count, len(np.unique(rows, axis=0)) if len(rows) <= EXACT else len(rows))
    if len(rows) <= EXACT:
        return KMeans(count, n_init="auto", random_state=seed).fit_predict(rows)
    return MiniBatchKMeans(count, n_init="auto", batch_size=4096, random_state=seed).fit_predict(rows)


def typical(
    rows: np.ndarray, count: int, room: Room, *, given: Sequence[int] = (), seed: int = 0
) -> list[int]:
    """The most typical row of each cluster, largest cluster first, then the next ones of those least served.

    A row is the more typical the nearer its neighbours in its cluster are.
    """
    clusters = clusters_of(rows, min(count + len(given), MOST_CLUSTERS), seed=seed)
    sizes = np.bincount(clusters)
    served = np.bincount(clusters[np.asarray(given, int)], minlength=len(sizes))
    queues: list[list[int]] = []
    for number in range(len(sizes)):
        own = np.flatnonzero(clusters == number)
        spread = neighbour_distances(rows[own], seed=seed)
        queues.append([int(row) for row in own[np.argsort(-spread, kind="stable")]])
    taken: list[int] = []
    while len(taken) < count:
        for queue in queues:
            while queue and not room.open[queue[-1]]:
                queue.pop()
        waiting = [number for number, queue in enumerate(queues) if queue]
        if not waiting:
            break
        number = min(waiting, key=lambda c: (served[c], -sizes[c]))
        row = queues[number].pop()
        room.take(row)
        served[number] += 1
        taken.append(row)
    return taken

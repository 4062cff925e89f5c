"""Choosing rows: against the written-out definitions, with limits, with what is given, and on many rows."""

from __future__ import annotations

import numpy as np
import pytest

from medspectrum.engine import selection
from medspectrum.engine.selection import Room


def free(count: int, groups=None, limit=None) -> Room:
    return Room(count, groups, limit)


def lumps(count: int, kinds: int, seed: int = 0, width: int = 24) -> np.ndarray:
    """Unit rows in lumps of unequal size."""
    rng = np.random.default_rng(seed)
    middles = 3 * rng.standard_normal((kinds, width))
    kind = rng.choice(kinds, count, p=np.arange(1, kinds + 1) / np.arange(1, kinds + 1).sum())
    return selection.unit_rows(middles[kind] + rng.standard_normal((count, width)))


def covered(rows: np.ndarray, chosen) -> float:
    """The sum over all rows of how like the nearest chosen one is, from the whole matrix."""
    return float(((1 + rows @ rows[list(chosen)].T) / 2).max(axis=1).sum())


def plain_greedy(rows: np.ndarray, count: int, best: np.ndarray) -> list[int]:
    """Facility location by its definition: every gain anew at every step."""
    alike = (1 + rows @ rows.T) / 2
    chosen: list[int] = []
    for _ in range(count):
        gains = np.maximum(alike - best, 0).sum(axis=1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, alike[chosen[-1]])
    return chosen


def test_lazy_greedy_takes_what_the_plain_one_takes():
    rows = lumps(150, 7)
    lazy = selection.facility_location(rows, 12, free(150), passes=0)
    assert lazy == plain_greedy(rows, 12, np.zeros(150))


def test_what_is_given_is_covered_already():
    rows = lumps(150, 7)
    given = [int(i) for i in np.argsort(-(rows @ rows[3]))[:40]]
    room = free(150)
    room.close(given)
    lazy = selection.facility_location(rows, 5, room, given=given, passes=0)
    assert lazy == plain_greedy(rows, 5, ((1 + rows @ rows[given].T) / 2).max(axis=1))
    assert not set(lazy) & set(given)


def test_medoids_never_lower_the_coverage_and_a_sample_comes_near_to_all():
    rows = lumps(3000, 40)
    exact = covered(rows, selection.facility_location(rows, 60, free(3000), passes=0))
    better = covered(rows, selection.facility_location(rows, 60, free(3000)))
    by_sample = [
        covered(rows, selection.facility_location(rows, 60, free(3000), exact=400, passes=p))
        for p in (0, 1, 4)
    ]
    assert exact <= better
    assert by_sample[0] < by_sample[1] <= by_sample[2]
    assert by_sample[2] > 0.999 * exact
    by_chance = covered(rows, np.random.default_rng(0).choice(3000, 60, replace=False))
    assert by_chance < 0.99 * exact


def test_no_group_gives_more_than_its_fair_number():
    rows = lumps(400, 5)
    groups = np.random.default_rng(1).choice(30, 400, p=np.r_[0.5, np.full(29, 0.5 / 29)])
    limit = selection.fair_limit(groups, 60)
    sizes = np.bincount(groups)
    assert np.minimum(sizes, limit).sum() >= 60 > np.minimum(sizes, limit - 1).sum()
    ways = {
        "facility": lambda room: selection.facility_location(rows, 60, room),
        "sampled": lambda room: selection.facility_location(rows, 60, room, exact=80),
        "k-centre": lambda room: selection.k_centre(rows, 60, room),
        "typical": lambda room: selection.typical(rows, 60, room),
        "chance": lambda room: selection.at_random(np.random.default_rng(0), 60, room),
    }
    for name, choose in ways.items():
        chosen = choose(free(400, groups, limit))
        assert len(chosen) == len(set(chosen)) == 60, name
        assert np.bincount(groups[chosen]).max() <= limit, name
    unlimited = selection.k_centre(rows, 60, free(400))
    assert np.bincount(groups[unlimited]).max() > limit


def test_k_centre_leaves_nothing_farther_than_twice_the_best_can():
    rows = lumps(14, 4, width=5)
    chosen = selection.k_centre(rows, 3, free(14))
    from itertools import combinations

    def radius(some) -> float:
        return float(np.sqrt(np.maximum(2 - 2 * (rows @ rows[list(some)].T).max(axis=1), 0)).max())

    best = min(radius(some) for some in combinations(range(14), 3))
    assert best <= radius(chosen) <= 2 * best + 1e-5
    weights = np.zeros(14)
    weights[5], weights[9] = 1, 0.5
    assert selection.k_centre(rows, 2, free(14), weights=weights) == [5, 9]


def test_typical_rows_are_of_all_clusters_and_not_at_their_rims():
    rng = np.random.default_rng(0)
    middles = np.eye(5) * 8
    kind = np.repeat(np.arange(5), [60, 40, 30, 20, 10])
    rows = selection.unit_rows(middles[kind] + rng.standard_normal((160, 5)))
    chosen = selection.typical(rows, 5, free(160))
    assert [kind[i] for i in chosen] == [0, 1, 2, 3, 4]
    for place in chosen:
        own = np.flatnonzero(kind == kind[place])
        near = selection.neighbour_distances(rows[own])
        assert near[own == place] == near.min()


def test_distances_to_neighbours_are_those_of_the_whole_matrix():
    rows = lumps(90, 3)
    whole = (1 - rows @ rows.T) / 2
    np.fill_diagonal(whole, np.inf)
    wanted = np.sort(whole, axis=1)[:, :7].mean(axis=1)
    assert np.allclose(selection.neighbour_distances(rows, neighbours=7), wanted, atol=1e-6)
    sampled = selection.neighbour_distances(rows, neighbours=7, against=60)
    assert np.corrcoef(sampled, wanted)[0, 1] > 0.9


def test_equal_rows_and_more_asked_for_than_there_are():
    rows = np.zeros((6, 3), np.float32)
    for choose in (selection.facility_location, selection.k_centre, selection.typical):
        assert sorted(choose(rows, 9, free(6))) == list(range(6))


@pytest.mark.parametrize("count", [20_000])
def test_no_matrix_of_all_by_all_is_held(count):
    import tracemalloc

    rows = lumps(count, 30)
    tracemalloc.start()
    chosen = selection.facility_location(rows, 50, free(count), exact=1000)
    selection.neighbour_distances(rows, against=1000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(chosen) == 50
    assert most < count * count * 4 / 8

"""Pictures that are there twice though a hand went over one: turned, inverted, cropped, redrawn, cut out.

``duplicates`` finds copies that stay alike as a whole among any number of pictures. Here, among up to
``MOST`` of them, the pictures most like each one are looked at again, larger and in detail, so that a
copy is found after turns, strong changes of contrast, writing, frames and cropping, and a picture that is
a plane of a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum.leakage.looks import SIDE, alike, lies_within, turn_word, turned

MOST = 8000
"""Pictures, beyond which the closer search is left out (and said to be)."""
MOST_FOR_CROPS = 3000
LIKELY = 0.86
"""Least correlation of the 16 x 16 pictures for a second look."""
LIKELY_CROP = 0.70
NEIGHBOURS = 3
ALIKE = 0.90
"""Least median correlation of detail for two pictures to be the same one."""
ALIKE_CROP = 0.90
"""The same for a part of one and another; it shows less, but has been laid in its best place."""
SAFE = 2.0
FINE_ENOUGH = 40
"""Pixels of the shorter side below which parts of pictures are not looked for: too many would fit."""
SCALES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
NEAR = 0.12
"""How far off the scale may be at which small pictures are most alike."""
MOST_CROPS = 500
MANY = 1000
"""Pictures beyond which parts are looked for on a coarser grid."""
KEPT = 0.98
"""Share of what differs between the small pictures that the search keeps."""
ROWS = 1024

Load = Callable[[int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Again:
    """Two rows that show the same picture, and what was done to one of them."""

    first: int
    second: int
    kind: str
    alike: float


def again(
    thumbs: np.ndarray,
    load: Load,
    owner: np.ndarray,
    *,
    sides: np.ndarray | None = None,
    known: Sequence[tuple[int, int]] = (),
    planes: np.ndarray | None = None,
) -> list[Again]:
    """Pairs of rows of different owners that show the same picture.

    thumbs: (n, 32, 32) int8 of ``scan``. load: row -> (SIDE, SIDE) of ``looks.grey``. owner: (n,) whom a
    row belongs to (pairs of one owner are not looked for). sides: (n,) shorter side in pixels, where known.
    known: pairs that are found already.
    planes: which rows are planes of a volume; two planes are never compared.
    """
    from threadpoolctl import threadpool_limits

    if len(thumbs) < 2:
        return []
    plane = np.zeros(len(thumbs), bool) if planes is None else planes
    held = _Held(load)
    taken = {(min(p), max(p)) for p in known}
    with threadpool_limits(limits=1, user_api="blas"):
        small = _halved(thumbs.astype(np.float32))
        basis = _basis(small)
        points = _points(small, basis)
        wholes = [(a, b, t) for a, b, t in _likely(small, points, basis, owner, plane) if (a, b) not in taken]
        least = _by_chance(owner, plane, held)
        found = _confirmed(wholes, held, max(ALIKE, least))
        taken |= {(p.first, p.second) for p in found}
        if len(thumbs) <= MOST_FOR_CROPS:
            fine = np.ones(len(thumbs), bool) if sides is None else np.asarray(sides) >= FINE_ENOUGH
            crops = [c for a, b, turn in wholes if turn == 0 for c in ((a, b, 0.93), (b, a, 0.93))]
            crops = crops[:MOST_CROPS] + _likely_crops(thumbs, points, basis, owner, plane)
            crops = [c for c in crops if (min(c[:2]), max(c[:2])) not in taken and fine[c[0]] and fine[c[1]]]
            found += _confirmed_crops(crops, held, max(ALIKE_CROP, least))
    best: dict[tuple[int, int], Again] = {}
    for pair in sorted(found, key=lambda p: -p.alike):
        best.setdefault((pair.first, pair.second), pair)
    return [best[key] for key in sorted(best)]


class _Held(dict[int, np.ndarray]):
    """Larger pictures by row, each read once."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self.load = load

    def __missing__(self, row: int) -> np.ndarray:
        self[row] = self.load(row).astype(np.float16)
        return self[row]

    def all(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([self[row] for row in rows]).astype(np.float32)


def _halved(thumbs: np.ndarray) -> np.ndarray:
    n, side, _ = thumbs.shape
    return thumbs.reshape(n, side // 2, 2, side // 2, 2).mean(axis=(2, 4))


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(len(rows), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _basis(small: np.ndarray) -> np.ndarray:
    """(256, k): most of what the pictures, turned in every way, differ in."""
    step = max(1, len(small) // 1000)
    both = np.concatenate([_unit(turned(small[::step], turn)) for turn in range(8)])
    values, vectors = np.linalg.eigh(both.T @ both)
    share = np.cumsum(values[::-1]) / values.sum()
    count = int(np.searchsorted(share, KEPT)) + 1
    return np.ascontiguousarray(vectors[:, ::-1][:, :count]).astype(np.float32)


def _points(small: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return (_unit(small) @ basis).astype(np.float32)


def _likely(
    small: np.ndarray, points: np.ndarray, basis: np.ndarray, owner: np.ndarray, plane: np.ndarray
) -> list[tuple[int, int, int]]:
    """(first, second, turn): each row's nearest others over all turns; ``first`` is what is turned."""
    found: dict[tuple[int, int], tuple[float, int]] = {}
    ways = [(_points(turned(small, turn), basis), turn) for turn in range(8)]
    for start in range(0, len(points), ROWS):
        rows = np.arange(start, min(start + ROWS, len(points)))
        apart = (owner[rows, None] != owner[None]) & ~(plane[rows, None] & plane[None])
        for way, turn in ways:
            near = way[rows] @ points.T
            most = NEIGHBOURS if turn == 0 else 1
            for sign, told in ((1.0, turn), (-1.0, turn + 8)):
                signed = np.where(apart, sign * near, -1.0)
                places, scores = _top(signed, most if sign > 0 else 1)
                for i, k in np.argwhere(scores >= LIKELY):
                    a, b = int(rows[i]), int(places[i, k])
                    key = (a, b)
                    if scores[i, k] > found.get(key, (0.0, 0))[0]:
                        found[key] = (float(scores[i, k]), told)
    by_row: dict[int, list[tuple[float, int, int]]] = {}
    for (a, b), (score, told) in found.items():
        by_row.setdefault(a, []).append((score, b, told))
    chosen: dict[tuple[int, int], tuple[int, int, int]] = {}
    for a, others in by_row.items():
        for _, b, told in sorted(others, reverse=True)[: 2 * NEIGHBOURS]:
            chosen.setdefault((min(a, b), max(a, b)), (a, b, told))
    return list(chosen.values())


def _by_chance(owner: np.ndarray, plane: np.ndarray, held: _Held, count: int = 200) -> float:
    """The likeness that no two different pictures of this set reach.

    Pairs at random, each in the turn that suits it best, tell how alike different pictures are here: much,
    where all show one organ from one side, or round cells. Of their likeness (Fisher's z), taken as normal,
    the largest of all pairs is expected at sqrt(2 ln N) standard deviations; ``SAFE`` more are asked for.
    """
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(~plane) if (~plane).sum() > 1 else np.arange(len(owner))
    rows = rows[rng.permutation(len(rows))[:count]]
    one, two = rows, np.roll(rows, 1)
    apart = owner[one] != owner[two]
    if apart.sum() < 10:
        return 0.0
    first, second = held.all(one[apart].tolist()), held.all(two[apart].tolist())
    best = np.max([np.abs(alike(turned(first, turn), second)) for turn in range(8)], axis=0)
    z = np.arctanh(best.clip(max=0.999))
    middle = np.median(z)
    spread = 1.4826 * np.median(np.abs(z - middle))  # copies among the pairs must not count
    return float(np.tanh(middle + spread * (np.sqrt(2 * np.log(len(owner) ** 2 / 2)) + SAFE)))


def _top(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the largest ones of each row, the largest first."""
    places = np.empty((len(scores), count), int)
    values = np.empty((len(scores), count), scores.dtype)
    rows = np.arange(len(scores))
    for k in range(count):
        places[:, k] = scores.argmax(axis=1)
        values[:, k] = scores[rows, places[:, k]]
        scores[rows, places[:, k]] = -2
    return places, values


def _confirmed(likely: Sequence[tuple[int, int, int]], held: _Held, least: float) -> list[Again]:
    found = []
    for start in range(0, len(likely), 256):
        part = likely[start : start + 256]
        one = np.stack([turned(held[a].astype(np.float32), turn) for a, _, turn in part])
        two = held.all([b for _, b, _ in part])
        for (a, b, turn), score in zip(part, alike(one, two), strict=True):
            if score >= least:
                word = turn_word(turn) or "redrawn"
                found.append(Again(min(a, b), max(a, b), word, float(score)))
    return found


def _likely_crops(
    thumbs: np.ndarray, points: np.ndarray, basis: np.ndarray, owner: np.ndarray, plane: np.ndarray
) -> list[tuple[int, int, float]]:
    """(whole, part, scale), best first: parts of each row that are much like another row."""
    side = thumbs.shape[1]
    found: dict[tuple[int, int], tuple[float, float]] = {}
    steps, scales = (5, SCALES) if len(thumbs) <= MANY else (3, SCALES[1::2])
    for scale in scales:
        cut = round(side * scale)
        places = sorted({round(p) for p in np.linspace(0, side - cut, steps)})
        for y in places:
            for x in places:
                part = _points(_shrunk(thumbs[:, y : y + cut, x : x + cut]), basis)
                for start in range(0, len(part), ROWS):
                    rows = np.arange(start, min(start + ROWS, len(part)))
                    near = part[rows] @ points.T
                    near[(owner[rows, None] == owner[None]) | (plane[rows, None] & plane[None])] = -1
                    top = near.argmax(axis=1)
                    for i in np.flatnonzero(near[np.arange(len(rows)), top] >= LIKELY_CROP):
                        key = (int(rows[i]), int(top[i]))
                        score = float(near[i, top[i]])
                        if score > found.get(key, (0.0, 0.0))[0]:
                            found[key] = (score, scale)
    order = sorted(found.items(), key=lambda item: -item[1][0])[:MOST_CROPS]
    return [(a, b, scale) for (a, b), (_, scale) in order]


def _shrunk(parts: np.ndarray) -> np.ndarray:
    """(n, s, s) resampled to (n, 16, 16) by the area each pixel covers."""
    side = parts.shape[1]
    edges = np.linspace(0, side, 17)
    weights = np.clip(
        np.minimum(edges[1:, None], np.arange(1, side + 1)) - np.maximum(edges[:-1, None], np.arange(side)),
        0,
        None,
    ).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("iy,nyx,jx->nij", weights, parts.astype(np.float32), weights, optimize=True)


def _confirmed_crops(likely: Sequence[tuple[int, int, float]], held: _Held, least: float) -> list[Again]:
    found = []
    for whole, part, scale in likely:
        near = [s for s in np.arange(scale - NEAR, scale + NEAR + 1e-4, 0.03) if s < 0.985]
        score, _ = lies_within(held[whole].astype(np.float32), held[part].astype(np.float32), near)
        if score >= least:
            found.append(Again(min(whole, part), max(whole, part), "cropped", score))
    return found


__all__ = ["SIDE", "Again", "again"]

"""Images that are there twice: the same pixels, or the same picture mirrored, resized or recompressed.

Exact duplicates have equal digests of their pixels. Near duplicates are searched among small grey
pictures by their principal components (a projection never lengthens a distance, so no pair is lost by
it), in blocks of matrix products; each candidate must then agree as a whole and in its fine detail.
Chest X-rays of 28 pixels, alike as they are, stay apart by that.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile

import numpy as np

from medspectrum.scan import THUMB

WHOLE = 0.985
"""Least correlation of the 32 x 32 pictures."""
DETAIL = 0.85
"""Least correlation of what is left of them without their local mean."""
COARSE = 0.98
"""Least correlation of the 16 x 16 pictures, for the search."""
COMPONENTS = 32
MAX_CANDIDATES = 2_000_000
BLOCK = 2048
SIDE = 1024


@dataclass(frozen=True, slots=True)
class Near:
    """Two rows that show the same picture, and how they differ: mirrored, resized or recompressed."""

    first: int
    second: int
    kind: str


def exact(pixels: np.ndarray) -> list[list[int]]:
    """Groups of rows whose (n, 2) pixel digests are equal, each group and the list in order."""
    if len(pixels) == 0:
        return []
    _, group, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    rows = np.flatnonzero(counts[group] > 1)
    order = rows[np.argsort(group[rows], kind="stable")]
    edges = np.flatnonzero(np.diff(group[order])) + 1
    return sorted(part.tolist() for part in np.split(order, edges) if len(part))


def near(
    thumbs: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    sizes: np.ndarray,
    *,
    seed: int = 0,
) -> tuple[list[Near], bool]:
    """Pairs among ``rows`` (one of each exact group, none constant) that show the same picture.

    thumbs: rows -> (n, 32, 32) int8; asked for in blocks, so that memory stays small. sizes: (n, 3) of
    all rows. Returns the pairs and whether the search was complete (it stops at ``MAX_CANDIDATES``).
    """
    from threadpoolctl import threadpool_limits

    if len(rows) < 2:
        return [], True
    # the products are too small to be worth waking threads for
    with TemporaryFile() as place, threadpool_limits(limits=1, user_api="blas"):
        for start in range(0, len(rows), BLOCK):
            place.write(thumbs(rows[start : start + BLOCK]).tobytes())
        place.flush()
        mapped = mmap.mmap(place.fileno(), 0, access=mmap.ACCESS_READ)
        kept = np.frombuffer(mapped, np.int8).reshape(len(rows), THUMB, THUMB)
        basis = _basis(kept, seed)
        straight = np.empty((len(rows), basis.shape[1]), np.float32)
        mirrored = np.empty_like(straight)
        for start in range(0, len(rows), BLOCK):
            block = kept[start : start + BLOCK]
            straight[start : start + BLOCK] = _coarse(block) @ basis
            mirrored[start : start + BLOCK] = _coarse(block[:, :, ::-1]) @ basis
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)  # pages that were read would count as memory in use
        found: list[Near] = []
        candidates, whole = 0, True
        for other, flipped in ((straight, False), (mirrored, True)):
            for first, second in _close(other, straight):
                candidates += len(first)
                if candidates > MAX_CANDIDATES:
                    whole = False
                    break
                found += _confirmed(kept, rows, sizes, first, second, flipped)
    # a symmetric picture is its own mirror image: name the plain kind first
    best: dict[tuple[int, int], Near] = {}
    for pair in found:
        best.setdefault((pair.first, pair.second), pair)
    return [best[key] for key in sorted(best)], whole


def _close(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i of one, j of two, i < j) nearer than the least coarse correlation allows, block by block.

    |p - q|^2 <= 2 (1 - c) is one matrix product once the halves of the squared lengths are columns.
    """
    reach = np.float32(-(1 - COARSE))
    for i in range(0, len(one), SIDE):
        part = one[i : i + SIDE]
        ones = np.ones((len(part), 1), np.float32)
        left = np.hstack([part, -(part**2).sum(axis=1, keepdims=True) / 2, -ones])
        for j in range(i, len(two), SIDE):
            part = two[j : j + SIDE]
            ones = np.ones((len(part), 1), np.float32)
            right = np.hstack([part, ones, (part**2).sum(axis=1, keepdims=True) / 2])
            # flat, since the search for two indices at once costs more than the product
            first, second = np.divmod(np.flatnonzero(left @ right.T >= reach), len(part))
            kept = first + i < second + j
            if kept.any():
                yield first[kept] + i, second[kept] + j


def _basis(kept: np.ndarray, seed: int) -> np.ndarray:
    """(256, k) orthonormal directions in which the coarse pictures differ most."""
    chosen = np.arange(len(kept))
    if len(kept) > BLOCK:
        chosen = np.sort(np.random.default_rng(seed).choice(len(kept), BLOCK, replace=False))
    block = kept[chosen]
    both = np.concatenate([_coarse(block), _coarse(block[:, :, ::-1])])
    centred = both - both.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(vectors[:, ::-1][:, :COMPONENTS])


def _coarse(block: np.ndarray) -> np.ndarray:
    """(n, 256) unit vectors of mean zero: the 16 x 16 reduction."""
    half = THUMB // 2
    small = block.astype(np.float32).reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return _unit(small.reshape(len(block), -1))


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(lengths, 1e-9)


def _detail(block: np.ndarray) -> np.ndarray:
    """(n, 1024) unit vectors of what differs from the local mean of 3 x 3."""
    from scipy.ndimage import uniform_filter1d

    values = block.astype(np.float32)
    local = uniform_filter1d(uniform_filter1d(values, 3, axis=1), 3, axis=2)
    return _unit((values - local).reshape(len(block), -1))


def _confirmed(
    kept: np.ndarray,
    rows: np.ndarray,
    sizes: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    flipped: bool,
) -> list[Near]:
    """The candidate pairs that agree as a whole and in detail."""
    found = []
    for start in range(0, len(first), BLOCK):
        i, j = first[start : start + BLOCK], second[start : start + BLOCK]
        one, two = kept[i], kept[j]
        one = one[:, :, ::-1] if flipped else one
        whole = np.einsum("ij,ij->i", _unit(_rows(one)), _unit(_rows(two)))
        likely = np.flatnonzero(whole >= WHOLE)
        if not len(likely):
            continue
        detail = np.einsum("ij,ij->i", _detail(one[likely]), _detail(two[likely]))
        for n in likely[detail >= DETAIL]:
            a, b = int(rows[i[n]]), int(rows[j[n]])
            kind = "mirrored" if flipped else "recompressed" if (sizes[a] == sizes[b]).all() else "resized"
            found.append(Near(min(a, b), max(a, b), kind))
    return found


def _rows(block: np.ndarray) -> np.ndarray:
    return block.astype(np.float32).reshape(len(block), -1)

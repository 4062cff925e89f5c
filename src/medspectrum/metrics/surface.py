"""Distances between the surfaces of two label maps, for all labels in one pass.

Two definitions of a surface are in use; ``definition`` names the package whose numbers are meant:

* ``"monai"``: the voxels of a label that have a neighbour of another label, or none (the map's border),
  across a face. Every voxel counts the same.
* ``"deepmind"`` (the package ``surface-distance``, Nikolov et al. 2018, arXiv:1809.04430): the corners
  between voxels of which some but not all are of the label. A corner counts by the area of surface there
  (``metrics/surfels.py``).

Both agree with their package to 1e-6 (``tests/test_metrics_segmentation.py``).

How: labels become bits, so that one array says which labels' surfaces pass through a place, and one look
into it answers for whichever label is asked. Looks go outwards from each surface element in order of
distance, so the first hit is the nearest; most hits of a usable segmentation come within a few voxels. What
is still without one after ``LOOKS`` places asks a KD-tree. This is exact, and several times quicker than
distance maps or trees alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from medspectrum.metrics.surfels import surfel_sizes

Definition = Literal["monai", "deepmind"]
DEFINITIONS = ("monai", "deepmind")
MOST_LABELS = 64
"""Labels that one call can take: the bits of the widest integer."""
LOOKS = 250
_FARTHEST = 16
_LEAF = 32


class Distances(NamedTuple):
    """From each surface element of one map to the nearest of the other map, in mm; inf if it has none.

    ``*_size`` is the area in mm2 (2-D: length in mm) of each element, 1 for "monai".
    """

    predicted_mm: np.ndarray
    truth_mm: np.ndarray
    predicted_size: np.ndarray
    truth_size: np.ndarray


def surface_distances(
    predicted: np.ndarray,
    truth: np.ndarray,
    count: int,
    *,
    spacing_mm: Sequence[float],
    definition: Definition = "monai",
) -> list[Distances]:
    """Per label 1 to ``count`` of two maps (unsigned, 2-D or 3-D, 0 is outside) their surfaces' distances.

    Raises ValueError for more than 64 labels or another definition.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f'there is no surface definition "{definition}"; choose one of {DEFINITIONS}')
    if count > MOST_LABELS:
        raise ValueError(f"{count} labels at once are too many; give at most {MOST_LABELS}")
    spacing = tuple(float(v) for v in spacing_mm)
    shells = _shells(spacing)
    pad = [
        1 + max(int(np.abs(steps[:, axis]).max()) for _, steps in shells)  # corners lie half outside
        for axis in range(len(spacing))
    ]
    both = np.zeros((2, *(n + 2 * p for n, p in zip(truth.shape, pad, strict=True))), truth.dtype)
    inner = tuple(slice(p, -p) for p in pad)
    both[0][inner], both[1][inner] = predicted, truth
    strides = tuple(s // both.itemsize for s in both.strides[1:])
    half = both[0].size

    found = [_elements(side.reshape(-1), strides, definition, spacing) for side in both]
    slices, start = [], 0
    for _, label, _ in found:
        ends = start + np.searchsorted(label, np.arange(1, count + 2))
        slices.append([slice(a, b) for a, b in pairwise(ends.tolist())])
        start += len(label)
    place = np.concatenate([found[0][0], found[1][0] + half])
    bits = np.zeros(2 * half, np.uint8 if count <= 8 else np.uint16 if count <= 16 else np.uint64)
    bit = np.left_shift(
        bits.dtype.type(1), np.concatenate([f[1] for f in found]).astype(bits.dtype) - bits.dtype.type(1)
    )
    for mine in (*slices[0], *slices[1]):
        bits[place[mine]] |= bit[mine]  # a place occurs once in a label's surface
    middle = len(found[0][0])
    opposite = np.concatenate([place[:middle] + half, place[middle:] - half])
    away = _nearest_by_looking(bits, opposite, bit, shells, strides)

    size = np.concatenate([sizes for _, _, sizes in found])
    result = []
    for mine, other in zip(*slices, strict=True):
        for one, to in ((mine, other), (other, mine)):
            lost = one.start + np.flatnonzero(np.isinf(away[one]))
            if len(lost) and to.stop > to.start:
                away[lost] = _nearest_by_tree(place[lost] % half, place[to] % half, both.shape[1:], spacing)
        result.append(Distances(away[mine], away[other], size[mine], size[other]))
    return result


def _elements(
    flat: np.ndarray, strides: tuple[int, ...], definition: Definition, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface elements of one padded map, ordered by label: place (flat index), label, size."""
    if definition == "monai":
        place = np.flatnonzero(_edge_voxels(flat, strides))
        label, size = flat[place], np.ones(len(place))
    else:
        place, label, code = _corners(flat, strides)
        size = surfel_sizes(spacing)[code]
    order = np.argsort(label, kind="stable")
    return place[order], label[order], size[order]


def _edge_voxels(flat: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """Whether each voxel has a label and, across one of its faces, another one beside it."""
    edge = np.zeros(flat.size, bool)
    for stride in strides:
        differs = flat[stride:] != flat[:-stride]
        edge[stride:] |= differs
        edge[:-stride] |= differs
    edge &= flat != 0
    return edge


def _corners(flat: np.ndarray, strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners at which labels meet: place (of the voxel at the high end), label, pattern of the label.

    A corner comes once for each label (not 0) among its voxels.
    """
    mixed = np.zeros(flat.size, bool)
    for stride in reversed(strides):
        wider = mixed.copy()
        wider[stride:] |= mixed[:-stride]
        wider[stride:] |= flat[stride:] != flat[:-stride]
        mixed = wider
    place = np.flatnonzero(mixed)
    around = [place]  # in the order of the bits: the voxel at the high end of every axis first
    for stride in reversed(strides):
        around += [voxel - stride for voxel in around]
    labels = [flat[voxel] for voxel in around]
    places, members, codes = [], [], []
    for i, label in enumerate(labels):
        fresh = label != 0
        for earlier in labels[:i]:
            fresh &= label != earlier
        rows = np.flatnonzero(fresh)
        label = label[rows]
        code = np.zeros(len(rows), np.uint8)
        for bit, other in enumerate(labels[i:], start=i):
            code |= (other[rows] == label).view(np.uint8) << bit
        places.append(place[rows])
        members.append(label)
        codes.append(code)
    return np.concatenate(places), np.concatenate(members), np.concatenate(codes)


@lru_cache(maxsize=64)
def _shells(spacing: tuple[float, ...]) -> tuple[tuple[float, np.ndarray], ...]:
    """Steps on the grid by distance, nearest first: (distance in mm, (k, dims) steps of that distance).

    Complete up to the distance within which about ``LOOKS`` steps lie, or ``_FARTHEST`` steps along the
    closest axis: maps are padded by as much.
    """
    sides = np.asarray(spacing)
    ball = {2: math.pi, 3: 4 / 3 * math.pi}[len(spacing)]
    reach = float((LOOKS * sides.prod() / ball) ** (1 / len(spacing)))
    reach = min(reach, _FARTHEST * float(sides.min()))
    ranges = [np.arange(-int(reach / side), int(reach / side) + 1) for side in spacing]
    steps = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(spacing))
    away = _lengths(steps, sides)
    order = np.argsort(away, kind="stable")
    order = order[away[order] <= reach]
    starts = np.flatnonzero(np.diff(away[order], prepend=-1.0))
    return tuple((float(away[part[0]]), steps[part]) for part in np.split(order, starts[1:]))


def _lengths(steps: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(n,) mm of steps (n, dims) on the grid."""
    return np.sqrt(((steps * sides) ** 2).sum(axis=1))


def _nearest_by_looking(
    bits: np.ndarray,
    places: np.ndarray,
    bit: np.ndarray,
    shells: Sequence[tuple[float, np.ndarray]],
    strides: tuple[int, ...],
) -> np.ndarray:
    """Distance from each place to the nearest one that has its bit; inf where no shell holds one."""
    away = np.full(len(places), np.inf)
    asking = np.arange(len(places))
    for distance, steps in shells:
        found = np.zeros(len(asking), bool)
        for step in (steps @ np.asarray(strides)).tolist():
            found |= (bits.take(places + step) & bit) != 0
        away[asking[found]] = distance
        left = ~found
        asking, places, bit = asking[left], places[left], bit[left]
        if not len(asking):
            break
    return away


def _nearest_by_tree(
    places: np.ndarray, others: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> np.ndarray:
    """The same by a KD-tree of the other surface."""
    from scipy.spatial import KDTree

    sides = np.asarray(spacing)
    here, there = (np.stack(np.unravel_index(flat, shape), axis=1) for flat in (places, others))
    tree = KDTree(there * sides, leafsize=_LEAF, balanced_tree=False, compact_nodes=False)  # asked once
    _, nearest = tree.query(here * sides)
    return _lengths(here - there[nearest], sides)

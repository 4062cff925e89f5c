"""How much surface lies at a corner between voxels, by which of the voxels around it are inside.

Between voxel centres the surface of a mask is that of marching cubes (Lorensen and Cline 1987) with
vertices halfway between a voxel inside and one outside. The pattern of the 8 voxels (4 pixels) around a
corner then fixes the area (length) there, which ``surface-distance`` (Nikolov et al. 2018, "Deep learning
to achieve clinically applicable segmentation", arXiv:1809.04430) reads from a table of 256 patterns. Here
the table is worked out from the geometry:

* what is cut off does not hang on which side is called inside: the side with fewer voxels is drawn;
* on a face whose inside voxels lie diagonally across, they are kept apart;
* a polygon of more than three vertices is cut into triangles the way that gives the largest area on cubic
  voxels, and of equal ones the way with the largest single triangle. Only polygons that are not flat
  depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

_CORNERS = tuple(product((1, 0), repeat=3))
"""Where voxel of bit b lies: bit 0 is the voxel at the high end of every axis, bit 7 at the low end."""
_Edge = tuple[int, int]
_Triangle = tuple[_Edge, _Edge, _Edge]


@lru_cache(maxsize=64)
def surfel_sizes(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Area in mm2 of each of 256 patterns (three spacings), or length in mm of each of 16 (two).

    Bit b of a pattern stands for the voxel at position b of the neighbourhood read backwards: the last
    voxel (highest on every axis) is bit 0, the first one the highest bit.
    """
    if len(spacing_mm) == 2:
        return _lengths(spacing_mm)
    z, y, x = spacing_mm
    sizes = np.zeros(256)
    stretch = np.array([y * x, z * x, z * y])  # of the area a triangle shows along each axis
    for code, normals in enumerate(_normals()):
        sizes[code] = np.sqrt(((normals * stretch) ** 2).sum(axis=1)).sum()
    sizes.flags.writeable = False
    return sizes


def _lengths(spacing_mm: Sequence[float]) -> np.ndarray:
    """(16,) contour length: half a pixel's diagonal for each corner cut off, or a pixel's side."""
    y, x = spacing_mm
    diagonal = 0.5 * np.sqrt(y**2 + x**2)
    sizes = np.zeros(16)
    for code in range(1, 15):
        first, second, third, last = ((code >> bit) & 1 for bit in (3, 2, 1, 0))
        if first == second and third == last:
            sizes[code] = x
        elif first == third and second == last:
            sizes[code] = y
        else:
            sizes[code] = 2 * diagonal if first == last and second == third else diagonal
    sizes.flags.writeable = False
    return sizes


@lru_cache(maxsize=1)
def _normals() -> tuple[np.ndarray, ...]:
    """Per pattern (t, 3): its triangles' normals on cubic voxels of side 1, as long as the areas."""
    half = []
    for code in range(128):  # four against four: the pattern with the lower number is drawn for both
        inside = code if code.bit_count() <= 4 else 255 - code
        triangles = [t for polygon in _polygons(inside) for t in _triangles(polygon)]
        half.append(np.array([_normal(t) for t in triangles]).reshape(-1, 3))
    return (*half, *half[::-1])


@lru_cache(maxsize=1)
def _faces() -> list[list[int]]:
    """The voxels of each of the six faces of the neighbourhood, in the order of going around it."""
    around = ((0, 0), (0, 1), (1, 1), (1, 0))
    faces = []
    for axis, side in product(range(3), (0, 1)):
        others = [a for a in range(3) if a != axis]
        placed = {tuple(p[a] for a in others): b for b, p in enumerate(_CORNERS) if p[axis] == side}
        faces.append([placed[where] for where in around])
    return faces


def _polygons(code: int) -> list[list[_Edge]]:
    """Closed polygons around the inside voxels; a vertex is the pair of voxels that it lies between."""
    links: dict[_Edge, list[_Edge]] = {}
    for face in _faces():
        is_inside = [(code >> voxel) & 1 for voxel in face]
        cuts = [
            (max(face[i], face[i - 3]), min(face[i], face[i - 3]))
            for i in range(4)
            if is_inside[i] != is_inside[i - 3]
        ]
        if len(cuts) == 4:  # diagonal: one segment around each inside voxel
            first = 0 if is_inside[0] else 1
            segments = [(cuts[first - 1], cuts[first]), (cuts[first + 1], cuts[first + 2])]
        else:
            segments = [(cuts[0], cuts[1])] if cuts else []
        for start, end in segments:
            links.setdefault(start, []).append(end)
            links.setdefault(end, []).append(start)
    polygons = []
    while links:
        polygon = [next(iter(links))]
        while True:
            following = [v for v in links.pop(polygon[-1]) if v in links]
            if not following:
                break
            polygon.append(following[0])
        polygons.append(polygon)
    return polygons


def _triangles(polygon: list[_Edge]) -> list[_Triangle]:
    """The triangulation with the largest area, then with the largest triangle."""

    def rank(triangles: list[_Triangle]) -> tuple[float, float]:
        areas = [math.hypot(*_normal(t)) for t in triangles]
        return round(sum(areas), 9), round(max(areas), 9)

    return max(_triangulations(polygon), key=rank)


def _triangulations(polygon: list[_Edge]) -> list[list[_Triangle]]:
    """Every way to cut a polygon into triangles: the triangle on its closing side, and what is left."""
    if len(polygon) < 3:
        return [[]]
    return [
        [(polygon[0], polygon[k], polygon[-1]), *left, *right]
        for k in range(1, len(polygon) - 1)
        for left in _triangulations(polygon[: k + 1])
        for right in _triangulations(polygon[k:])
    ]


@lru_cache(maxsize=4096)
def _normal(triangle: _Triangle) -> tuple[float, float, float]:
    """Half the cross product of two sides: its length is the area."""
    a, b, c = ([(p + q) / 2 for p, q in zip(_CORNERS[u], _CORNERS[v], strict=True)] for u, v in triangle)
    u, v = ([q - p for p, q in zip(a, end, strict=True)] for end in (b, c))
    return (u[1] * v[2] - u[2] * v[1]) / 2, (u[2] * v[0] - u[0] * v[2]) / 2, (u[0] * v[1] - u[1] * v[0]) / 2

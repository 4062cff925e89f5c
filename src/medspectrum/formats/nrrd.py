"""NRRD volumes through pynrrd; directions are turned from the file's space (LPS, LAS...) to RAS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import check_bytes, finite, remark
from medspectrum.image import Image

SIGNS = {"right": 1, "left": -1, "anterior": 1, "posterior": -1, "superior": 1, "inferior": -1}
SHORT = {"RAS": "right-anterior-superior", "LAS": "left-anterior-superior", "LPS": "left-posterior-superior"}
COLOUR_KINDS = ("list", "vector", "point", "rgb-color", "rgba-color", "3-color", "4-color")


def read(path: Path) -> Image:
    """Read a volume or a picture; axes that are not space (channels, time) become C."""
    import nrrd

    header: dict[str, Any] = dict(nrrd.read_header(str(path)))
    shape = tuple(int(side) for side in header.get("sizes", ()))
    check_bytes(shape or (0,), 8 if header.get("type") in ("double", "int64", "uint64") else 4, path)
    _stay_beside(header, path)
    array, header = nrrd.read(str(path), index_order="F")
    directions = header.get("space directions")
    space = _spatial_axes(header, array.ndim, directions)
    others = [axis for axis in range(array.ndim) if axis not in space]
    array = np.transpose(array, others + space[::-1])
    missing = 3 - len(space)
    if missing < 0:
        raise UnreadableFile(path, f"has {len(space)} axes in space; 2 or 3 are understood")
    array = array.reshape(-1, *(1,) * missing, *array.shape[len(others) :])
    affine, known = _affine(header, directions, space)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return Image(finite(np.ascontiguousarray(array), path), affine, spacing_known=known)


def _stay_beside(header: dict[str, Any], path: Path) -> None:
    """A detached header may name only files inside its own folder."""
    named = header.get("data file", header.get("datafile"))
    if named is None:
        return
    if not isinstance(named, str) or named.startswith("LIST") or "%" in named:
        raise UnreadableFile(path, "spreads its data over several files; save it as one NRRD file")
    target = (path.parent / named).resolve()
    if path.parent.resolve() not in target.parents:
        raise UnreadableFile(path, "names a data file outside its own folder; save it as one NRRD file")


def _spatial_axes(header: dict[str, Any], axes: int, directions: Any) -> list[int]:
    """Which axes of the file lie in space, fastest first."""
    if directions is not None:
        rows = [None if row is None else np.asarray(row, float) for row in directions]
        inside = [i for i, row in enumerate(rows) if row is not None and np.isfinite(row).all()]
        if inside:
            return inside
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    if len(kinds) == axes and any(kind in COLOUR_KINDS for kind in kinds):
        return [i for i, kind in enumerate(kinds) if kind not in COLOUR_KINDS]
    return list(range(min(axes, 3)))


def _affine(header: dict[str, Any], directions: Any, space: list[int]) -> tuple[np.ndarray, bool]:
    """Voxel (x, y, z) to RAS millimetres, and whether the file knew."""
    affine = np.eye(4)
    if directions is None:
        spacings = header.get("spacings")
        if spacings is None:
            return affine, False
        sides = np.asarray(spacings, float)[space]
        for axis, side in enumerate(sides):
            affine[axis, axis] = side if np.isfinite(side) and side > 0 else 1.0
        return affine, True
    name = str(header.get("space", ""))
    words = SHORT.get(name.upper(), name).lower().split("-")
    signs = np.array([SIGNS.get(word, 1) for word in words[:3]], float) if len(words) >= 3 else np.ones(3)
    if len(words) < 3 or any(word not in SIGNS for word in words[:3]):
        remark(f"names no patient space (space: {name or 'none'}); its axes were taken as RAS")
    for column, axis in enumerate(space):
        row = np.asarray(directions[axis], float)
        affine[: len(row), column] = row * signs[: len(row)]
    origin = header.get("space origin")
    if origin is not None and np.isfinite(np.asarray(origin, float)).all():
        affine[: len(origin), 3] = np.asarray(origin, float) * signs[: len(origin)]
    return affine, True

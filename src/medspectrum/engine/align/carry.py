"""Through a displacement field: images, label maps and points of the moving side onto the fixed grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medspectrum.engine.align.grid import Grid, lattice_points, lattice_slabs, linear, nearest
from medspectrum.image import Image


def warped(moving: Image, fixed: Grid, field: np.ndarray, *, fill: float | None = None) -> Image:
    """The moving image on the fixed grid, in its own type: (C, Z, Y, X).

    field: (Z, Y, X, 3) on the fixed grid, RAS mm. Values between voxels are linear; whole-number types are
    rounded. fill: what stands where the moving image does not reach; its lowest value where not given.
    """
    import torch

    kind = moving.array.dtype
    lowest = float(np.nanmin(moving.array)) if fill is None else fill
    source = torch.from_numpy(np.ascontiguousarray(moving.array, _reading_type(kind)))
    made = np.empty((moving.array.shape[0], *fixed.size), kind)
    for part, points in _points(moving, fixed, field):
        values = linear(source, points, fill=lowest).numpy()
        if kind.kind in "iu":
            values = np.rint(values)
        made[:, part] = values >= 0.5 if kind.kind == "b" else values
    return Image(made, fixed.affine, moving.modality, moving.spacing_known)


def carried(labels: Image, fixed: Grid, field: np.ndarray, *, smooth: bool = True) -> Image:
    """A label map of the moving side on the fixed grid, in its own type; 0 where it does not reach.

    smooth: each label's mask is read linearly and the largest share wins (the lower label where two tie),
    which keeps borders even; otherwise the nearest voxel's label is taken.
    """
    import torch

    map_ = labels.array[:1]
    made = np.empty((1, *fixed.size), map_.dtype)
    values, ranks = np.unique(map_, return_inverse=True)
    ranked = torch.from_numpy(ranks.reshape(map_.shape).astype(np.int64))
    empty = int(np.searchsorted(values, 0)) if 0 in values else -1
    for part, points in _points(labels, fixed, field):
        if not smooth:
            found = nearest(ranked, points, fill=-1)[0]
        else:
            most = torch.full(points.shape[:-1], -1.0)
            found = torch.full(points.shape[:-1], -1, dtype=torch.int64)
            for rank in range(len(values)):
                share = linear((ranked == rank).float(), points, fill=1.0 if rank == empty else -2.0)[0]
                better = share > most
                most, found = torch.where(better, share, most), torch.where(better, rank, found)
        found = found.numpy()
        made[0, part] = np.where(found < 0, 0, values[found])
    return Image(made, fixed.affine, labels.modality, labels.spacing_known)


def _reading_type(kind: np.dtype) -> type:
    """float32 holds 24 bits of a whole number; wider ones are read as float64."""
    return np.float64 if kind.itemsize > 2 and kind.kind in "iu" else np.float32


def _points(moving: Image, fixed: Grid, field: np.ndarray) -> Iterator[tuple[slice, Any]]:
    """Slabs of the fixed grid, and where their points lie among the moving image's voxels, float64."""
    import torch

    if tuple(field.shape) != (*fixed.size, 3):
        raise ValueError(f"a field of shape {(*fixed.size, 3)} is needed for this grid; got {field.shape}")
    inverse = np.linalg.inv(moving.affine)
    turn = torch.from_numpy(inverse[:3, :3].T.copy())
    for part in lattice_slabs(fixed.size):
        rest = lattice_points(part, fixed.size, inverse @ fixed.affine)
        yield part, rest + torch.from_numpy(np.ascontiguousarray(field[part], np.float64)) @ turn

"""How good a registration is: folding and evenness of its field, landmark errors, carried labels.

A displacement field is (Z, Y, X, 3): on each voxel of the fixed grid, in RAS mm (components x, y, z), how
far the point of the moving image lies that belongs there. Its Jacobian is that of the whole map
``p -> p + u(p)``, by central differences (one-sided at the edge, as ``numpy.gradient``) over the grid's
own axes and turned into mm by its affine; a determinant of 1 keeps the volume, 0 and less means that the
map folds. Axes of one voxel count as not deformed. SimpleITK's
``DisplacementFieldJacobianDeterminant`` gives the same values off the edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_DETERMINANT = 1e-9  # below this a determinant's logarithm is taken of this value


def jacobian_determinant(field: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(Z, Y, X) determinants of the map that a field (Z, Y, X, 3) in RAS mm describes.

    affine: (4, 4), voxel (x, y, z) of the field's grid to RAS mm; it may be oblique.
    """
    field = np.asarray(field)
    if field.ndim != 4 or field.shape[3] != 3:
        raise ValueError(f"a displacement field is (Z, Y, X, 3); got {field.shape}")
    inverse = np.linalg.inv(np.asarray(affine, np.float64)[:3, :3])
    slopes = np.zeros((3, 3, *field.shape[:3]))  # component, voxel axis x y z
    for axis in range(3):
        along = 2 - axis
        if field.shape[along] > 1:
            slopes[:, axis] = np.moveaxis(np.gradient(field.astype(np.float64), axis=along), -1, 0)
    jacobian = np.einsum("ca...,am->cm...", slopes, inverse)
    a, b, c = jacobian
    a[0] += 1
    b[1] += 1
    c[2] += 1
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def folding_fraction(field: np.ndarray, affine: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Share of voxels (of a mask (Z, Y, X), where given) whose Jacobian determinant is 0 or less."""
    return float((_within(jacobian_determinant(field, affine), mask) <= 0).mean())


def log_jacobian_std(field: np.ndarray, affine: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Standard deviation of ln det J: how unevenly the map swells and shrinks; 0 for any affine map.

    Determinants below 1e-9 count as 1e-9, so that every fold weighs heavily.
    """
    found = _within(jacobian_determinant(field, affine), mask)
    return float(np.log(np.maximum(found, LEAST_DETERMINANT)).std())


def landmark_errors_mm(
    fixed_mm: np.ndarray, moving_mm: np.ndarray, field: np.ndarray, affine: np.ndarray
) -> np.ndarray:
    """(n,) target registration errors: how far each mapped landmark ends from its counterpart, in mm.

    fixed_mm, moving_mm: (n, 3), RAS mm, equal rows are the same place. The field is read between voxels
    linearly and repeats its edge values outside of its grid.
    """
    fixed_mm, moving_mm = np.asarray(fixed_mm, float), np.asarray(moving_mm, float)
    if fixed_mm.shape != moving_mm.shape or fixed_mm.ndim != 2 or fixed_mm.shape[1] != 3:
        raise ValueError(f"landmarks come in pairs (n, 3); got {fixed_mm.shape} and {moving_mm.shape}")
    return np.linalg.norm(fixed_mm + displacement_at(fixed_mm, field, affine) - moving_mm, axis=1)


def displacement_at(points_mm: np.ndarray, field: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(n, 3): the field (Z, Y, X, 3) at points in RAS mm, linear between voxels, edges repeated."""
    inverse = np.linalg.inv(np.asarray(affine, np.float64))
    voxel = (np.asarray(points_mm, float) @ inverse[:3, :3].T + inverse[:3, 3])[:, ::-1]  # z, y, x
    last = np.array(field.shape[:3]) - 1
    voxel = np.clip(voxel, 0, last)
    low = np.floor(voxel).astype(int)
    high = np.minimum(low + 1, last)
    share = voxel - low
    made = np.zeros((len(voxel), 3))
    for corner in np.ndindex(2, 2, 2):
        at = np.where(corner, high, low)
        weight = np.where(corner, share, 1 - share).prod(axis=1)
        made += weight[:, None] * field[at[:, 0], at[:, 1], at[:, 2]]
    return made


def carried_dice(
    carried: np.ndarray, truth: np.ndarray, labels: Sequence[int] | None = None
) -> dict[int, float]:
    """``{label: Dice}`` of label maps of one shape: 2 |A and B| / (|A| + |B|).

    labels: those to score; all of the truth but 0 where not given. NaN where neither map has the label.
    """
    carried, truth = np.asarray(carried), np.asarray(truth)
    if carried.shape != truth.shape:
        raise ValueError(f"label maps to compare must have one shape; got {carried.shape} and {truth.shape}")
    wanted = [int(v) for v in np.unique(truth) if v != 0] if labels is None else labels
    made = {}
    for label in wanted:
        a, b = carried == label, truth == label
        both = int(a.sum()) + int(b.sum())
        made[int(label)] = 2 * int((a & b).sum()) / both if both else float("nan")
    return made


def _within(determinants: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        return determinants.reshape(-1)
    if mask.shape != determinants.shape or not mask.any():
        raise ValueError(
            f"a mask of shape {determinants.shape} with voxels inside is needed; got {mask.shape}"
        )
    return determinants[mask]

"""The grid that a volume is wanted on: turned axes, another spacing, a part of it. Geometry only.

The rules are those of MONAI's Orientation, Spacing (``diagonal=False``, ``scale_extent=False``) and
CenterSpatialCrop, so that arrays made by either can be mixed: axes are permuted and flipped to the nearest
of the six directions, an oblique volume stays oblique, voxel 0 stays where it is, and an axis of n voxels
gets round((n - 1) * old / new + 1). A spacing within 0.001 mm of the wanted one is left alone. A sheared
volume (a tilted gantry) gets axes at right angles that cover all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medspectrum.errors import UserError

ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
SAME_MM = 1e-3


@dataclass(frozen=True)
class TargetGrid:
    """Where the voxels of the wanted volume lie in the one that is there.

    size: (X, Y, Z) of the wanted volume. affine: (4, 4), its voxels (x, y, z) to RAS millimetres.
    source: (3, 4), its voxels (x, y, z, 1) to places (i, j, k) in the volume that is there.
    """

    size: tuple[int, int, int]
    affine: np.ndarray
    source: np.ndarray

    def axes(self) -> tuple[int, int, int] | None:
        """For each axis of the volume that is there, the wanted axis along it; None where it is sheared."""
        which = np.abs(self.source[:, :3]).argmax(axis=1)
        rest = self.source[:, :3].copy()
        rest[np.arange(3), which] = 0
        reach = np.abs(rest) @ (np.array(self.size) - 1)
        if sorted(which.tolist()) != [0, 1, 2] or reach.max() > SAME_MM:
            return None
        return int(which[0]), int(which[1]), int(which[2])

    def places(self, axis: int) -> np.ndarray:
        """Places along one axis of the volume that is there, in voxels; only where nothing is sheared."""
        along = self.axes()
        if along is None:
            raise ValueError("a sheared volume has no places along single axes")
        wanted = along[axis]
        return self.source[axis, wanted] * np.arange(self.size[wanted]) + self.source[axis, 3]

    def part(self, size_zyx: Sequence[int] | None, start_zyx: Sequence[int] | None = None) -> TargetGrid:
        """A part of at most that size, from ``start``, else from the middle; cut off at the grid's ends."""
        if size_zyx is None:
            return self
        size = [int(n) for n in size_zyx][::-1]
        if len(size) != 3 or min(size) < 1:
            raise UserError(f"a crop is three sides (Z, Y, X) of at least 1 voxel; got {tuple(size_zyx)}")
        if start_zyx is None:
            first = [max(n // 2 - s // 2, 0) for n, s in zip(self.size, size, strict=True)]
        else:
            first = [int(n) for n in start_zyx][::-1]
            if len(first) != 3 or any(not 0 <= f < n for f, n in zip(first, self.size, strict=True)):
                raise UserError(
                    f"a crop cannot start at {tuple(start_zyx)} of a volume of {self.size[::-1]} (Z, Y, X)"
                )
        left = tuple(min(s, n - f) for s, n, f in zip(size, self.size, first, strict=True))
        moved, source = self.affine.copy(), self.source.copy()
        moved[:3, 3] += self.affine[:3, :3] @ first
        source[:, 3] += self.source[:, :3] @ first
        return replace(self, size=left, affine=moved, source=source)


def target_grid(
    size: Sequence[int],
    affine: np.ndarray,
    *,
    spacing_mm: float | Sequence[float] | None,
    orientation: str | None,
) -> TargetGrid:
    """The whole grid for a volume of ``size`` (i, j, k) voxels with that affine (RAS mm).

    spacing_mm: (Z, Y, X) of the wanted volume, one number for all three, or None to keep it.
    orientation: where the wanted x, y and z grow to, such as ``RAS`` or ``LPS``; None keeps the axes.
    Raises UserError for an orientation or spacing that cannot be.
    """
    turn = np.eye(4) if orientation is None else _turn(size, affine, orientation)
    steps = turn[:3, :3]
    turned = np.abs(steps.T) @ np.asarray(size, dtype=float)
    size_now = np.rint(turned).astype(int)
    now = affine @ turn
    if spacing_mm is None:
        return TargetGrid(_three(size_now), now, turn[:3])
    old = np.linalg.norm(now[:3, :3], axis=0)
    given = np.broadcast_to(np.asarray(spacing_mm, dtype=float), (3,))[::-1]
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise UserError(f"a spacing is above 0 mm along each axis; got {spacing_mm}")
    new = np.where(np.abs(old - given) <= SAME_MM, old, given)
    wanted = np.eye(4)
    wanted[:3, :3] = _without_shear(now[:3, :3]) * new
    corners = np.array(np.meshgrid(*((0.0, n - 1.0) for n in size_now), indexing="ij")).reshape(3, -1)
    there = np.linalg.solve(wanted[:3, :3], now[:3, :3]) @ corners
    made = np.round(np.ptp(there, axis=1) + 1).astype(int)
    first = np.flatnonzero((there - there.min(axis=1, keepdims=True)).max(axis=0) < SAME_MM)
    if first.size:  # voxel 0, unless the volume is sheared
        wanted[:3, 3] = now[:3, :3] @ corners[:, first[0]] + now[:3, 3]
    else:  # no corner comes first along all axes: the middles are laid together
        wanted[:3, 3] = now[:3, :3] @ (size_now / 2) + now[:3, 3] - wanted[:3, :3] @ (made / 2)
    source = (turn @ np.linalg.solve(now, wanted))[:3]
    return TargetGrid(_three(made), wanted, source)


def _turn(size: Sequence[int], affine: np.ndarray, orientation: str) -> np.ndarray:
    """(4, 4): voxels of the turned volume to voxels of the one that is there."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    letters = tuple(orientation.upper())
    used = [next((n for n, pair in enumerate(ENDS) if letter in pair), -1) for letter in letters]
    if sorted(used) != [0, 1, 2]:
        raise UserError(
            f"{orientation!r} is no orientation: it names one end of L/R, P/A and I/S each, such as RAS"
        )
    change = ornt_transform(io_orientation(affine), axcodes2ornt(letters, ENDS))
    return inv_ornt_aff(change, tuple(size))


def _without_shear(directions: np.ndarray) -> np.ndarray:
    """Unit directions at right angles: the first axis kept, the others turned to it (QR)."""
    q, r = np.linalg.qr(directions)
    return q * np.sign(np.diag(r))


def _three(size: np.ndarray) -> tuple[int, int, int]:
    x, y, z = (int(n) for n in size)
    return x, y, z

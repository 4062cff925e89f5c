"""The one picture type: an array with its place in the patient.

Geometry lives here and nowhere else. Coordinates follow NIfTI: millimetres,
x to the patient's Right->Left negative (RAS+), see NIfTI-1 standard, section
"orientation and location in space".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

IDENTITY = np.eye(4)


@dataclass(frozen=True, slots=True)
class Image:
    """A 2-D picture or a volume.

    array: (C, Z, Y, X), any numeric type; a 2-D picture has Z = 1, colour C = 3.
    affine: (4, 4), maps voxel (x, y, z) to RAS millimetres.
    modality: a DICOM modality code (``CT``, ``MR``, ``CR``, ``US``, ``SM``...), or ``""``.
    spacing_known: False where the file carries no physical size (a PNG).
    """

    array: np.ndarray
    affine: np.ndarray = field(default_factory=IDENTITY.copy)
    modality: str = ""
    spacing_known: bool = True

    def __post_init__(self) -> None:
        if self.array.ndim != 4:
            raise ValueError(
                f"an Image holds (C, Z, Y, X); got {self.array.ndim} axes of shape {self.array.shape}"
            )
        if self.affine.shape != (4, 4):
            raise ValueError(f"an affine is 4 x 4; got {self.affine.shape}")

    @property
    def is_volume(self) -> bool:
        """True where there is more than one slice."""
        return self.array.shape[1] > 1

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (Z, Y, X)."""
        _, z, y, x = self.array.shape
        return z, y, x

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (Z, Y, X), in mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(z), float(y), float(x)


SHEARED_DEGREES = 0.5
"""Axes further than this from right angles count as sheared."""


def shear_degrees(affine: np.ndarray) -> float:
    """How far the axes of a grid are from right angles at most: 0, but for a tilted gantry its tilt."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes)[np.triu_indices(3, 1)]
    return float(np.rad2deg(np.arcsin(cosines.clip(max=1).max())))

"""Displacement fields as files: NIfTI, and transforms that ITK, SimpleITK and 3D Slicer read.

In memory a field is (Z, Y, X, 3) float32: at each voxel of the fixed grid, in RAS mm (components x, y, z),
how far the point of the moving image lies that belongs there.

* ``write_nifti``: five axes (X, Y, Z, 1, 3) with the intent "displacement vector" (1006). NIfTI keeps
  vectors in RAS; ITK turns those of this intent into its own LPS when it reads them.
* ``write_itk``: ITK's ``DisplacementFieldTransform`` in its MATLAB container (version 4), which needs no
  further library and keeps single precision. Components are LPS mm there, the grid in ITK's terms.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats import nifti
from medspectrum.store import write_bytes

INTENT = "displacement vector"
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_nifti(field: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a field (Z, Y, X, 3) with its grid's affine (voxel x, y, z to RAS mm)."""
    array = np.transpose(np.asarray(field, np.float32), (2, 1, 0, 3))[:, :, :, None, :]
    nifti.write_array(array, affine, path, intent=INTENT)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(field, affine) as given to ``write_nifti``. Raises UnreadableFile where the file holds no field."""
    import nibabel

    loaded = nibabel.load(path)
    code = int(loaded.header["intent_code"])  # type: ignore[index]
    shape = tuple(loaded.shape)  # type: ignore[attr-defined]
    if len(shape) != 5 or shape[3:] != (1, 3) or code not in (1006, 1007):
        raise UnreadableFile(
            path,
            f"is no displacement field: five axes (X, Y, Z, 1, 3) with a vector intent are needed, "
            f"found {shape} with intent {code}",
        )
    array = np.asarray(loaded.dataobj, np.float32)[:, :, :, 0]  # type: ignore[attr-defined]
    return np.ascontiguousarray(np.transpose(array, (2, 1, 0, 3))), np.asarray(loaded.affine, float)  # type: ignore[attr-defined]


def write_itk(field: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a field as an ITK transform of three dimensions; name it ``.mat``."""
    lps = _TO_LPS @ np.asarray(affine, float)
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    direction = lps[:3, :3] / spacing
    vectors = np.asarray(field, np.float32) * np.array([-1, -1, 1], np.float32)
    lattice = np.concatenate([field.shape[2::-1], lps[:3, 3], spacing, direction.ravel()])
    _write_matlab(vectors, lattice, path)


def write_itk_picture(field: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a field (1, Y, X, 3) of a picture as an ITK transform of two dimensions.

    ITK places a PNG or JPEG file without turning it: the first axis runs along the rows, its origin is
    the first pixel. So the vectors are told along the picture's own axes.
    """
    affine = np.asarray(affine, float)
    spacing = np.sqrt((affine[:3, :2] ** 2).sum(axis=0))
    along = affine[:3, :2] / spacing
    vectors = np.asarray(field[0], np.float64) @ along
    lattice = np.concatenate([field.shape[2:0:-1], np.zeros(2), spacing, np.eye(2).ravel()])
    _write_matlab(vectors.astype(np.float32), lattice, path)


def _write_matlab(vectors: np.ndarray, lattice: np.ndarray, path: Path) -> None:
    from scipy.io import savemat

    count = vectors.shape[-1]
    name = f"DisplacementFieldTransform_double_{count}_{count}"
    content = io.BytesIO()
    savemat(
        content,
        {name: np.ascontiguousarray(vectors).reshape(-1, 1), "fixed": lattice.astype(float)[:, None]},
        format="4",
    )
    write_bytes(path, content.getvalue())

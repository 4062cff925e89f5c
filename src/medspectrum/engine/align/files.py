"""A registration as files for people and other programs: warped image, field, transform."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.engine.align.carry import warped
from medspectrum.engine.align.pipeline import Alignment
from medspectrum.formats import displacement, nifti
from medspectrum.image import Image


def write_alignment(
    moving: Image, fixed: Image, found: Alignment, folder: Path, *, picture: bool
) -> dict[str, Any]:
    """Write warped image, field and transform; gives the facts of the registration, with the files' names.

    picture: the fixed image is a picture (PNG, JPEG): the warped one becomes a PNG where it can be one.
    """
    from medspectrum.metrics.registration import folding_fraction, log_jacobian_std

    files = {
        "warped": write_image(warped(moving, found.fixed, found.field), folder / "warped", picture=picture),
        "field": "field.nii.gz",
        "transform": "transform.mat",
    }
    displacement.write_nifti(found.field, fixed.affine, folder / files["field"])
    write = displacement.write_itk_picture if picture else displacement.write_itk
    write(found.field, fixed.affine, folder / files["transform"])
    return {
        **found.facts,
        "folding": round(folding_fraction(found.field, fixed.affine), 6),
        "log_jacobian_std": round(log_jacobian_std(found.field, fixed.affine), 5),
        "longest_move_mm": round(float(np.linalg.norm(found.field, axis=-1).max()), 3),
        "start_map": found.start.tolist(),
        "files": files,
    }


def write_image(image: Image, path: Path, *, picture: bool) -> str:
    """Write a PNG where a picture can be one, else NIfTI; gives the file's name."""
    array = image.array
    if (
        picture
        and array.shape[1] == 1
        and array.dtype in (np.uint8, np.bool_)
        and array.shape[0] in (1, 3, 4)
    ):
        from PIL import Image as Picture

        plane = np.moveaxis(array[:, 0].astype(np.uint8), 0, -1)
        content = io.BytesIO()
        Picture.fromarray(plane[..., 0] if plane.shape[2] == 1 else plane).save(content, "png")
        store.write_bytes(path.with_name(f"{path.name}.png"), content.getvalue())
        return f"{path.name}.png"
    nifti.write(image, path.with_name(f"{path.name}.nii.gz"))
    return f"{path.name}.nii.gz"

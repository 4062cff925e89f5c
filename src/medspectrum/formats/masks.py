"""Writing a label map on the grid of the image it belongs to."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from medspectrum import store
from medspectrum.image import Image


def mask_suffix(image: Image) -> str:
    """``.png`` for a picture without physical size, else ``.nii.gz``."""
    return ".nii.gz" if image.is_volume or image.spacing_known else ".png"


def write_mask(labels: np.ndarray, image: Image, path: Path) -> None:
    """Write (Z, Y, X) label values in the image's place, whole or not at all; the suffix says how.

    ``.png``: one channel of 8 bits. ``.nii.gz``: 8 or 16 bits with the image's affine. Raises ValueError for
    labels of another shape than the image.
    """
    if labels.shape != image.size:
        raise ValueError(f"labels of shape {labels.shape} do not lie on a grid of {image.size}")
    small = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    if path.suffix == ".png":
        from PIL import Image as Pillow

        written = io.BytesIO()
        Pillow.fromarray(small[0]).save(written, "PNG", optimize=True)
        store.write_bytes(path, written.getvalue())
        return
    import gzip

    import nibabel

    made = nibabel.Nifti1Image(small.T, image.affine)
    made.header.set_xyzt_units("mm" if image.spacing_known else "unknown")
    # no time of writing in the header of the archive: equal labels give equal files
    store.write_bytes(path, gzip.compress(made.to_bytes(), 6, mtime=0))

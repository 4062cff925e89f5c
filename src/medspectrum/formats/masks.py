"""Writing a label map on the grid of the image it belongs to: NIfTI, PNG, COCO RLE or DICOM SEG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medspectrum import store
from medspectrum.errors import UserError
from medspectrum.image import Image

FORMATS = {"nifti": ".nii.gz", "png": ".png", "rle": ".json", "dicom-seg": ".dcm"}
"""Names of the formats and the suffix of each."""


def mask_suffix(image: Image, format: str | None = None) -> str:
    """The suffix of the format; without one ``.png`` for a picture without physical size, else ``.nii.gz``.

    Raises UserError for a format that there is not.
    """
    if format is None:
        return ".nii.gz" if image.is_volume or image.spacing_known else ".png"
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r} of masks; use {', '.join(FORMATS)}")
    return FORMATS[format]


def write_mask(
    labels: np.ndarray,
    image: Image,
    path: Path,
    *,
    format: str | None = None,
    names: Mapping[int, str] | None = None,
    sources: Sequence[str] = (),
) -> Path:
    """Write (Z, Y, X) label values in the image's place, whole or not at all; gives the file written.

    format: a key of ``FORMATS``, whose suffix the file gets; where None, the suffix of ``path`` tells, and
    one without gets the usual one for the image. ``nifti``: 8 or 16 bits with the image's affine. ``png``:
    one plane, one channel of 8 or 16 bits. ``rle``: COCO JSON, see ``coco_rle``. ``dicom-seg``: see
    ``dicom_seg_writer``. names: what label values stand for (RLE and SEG keep it). sources: the image's DICOM
    files, which a SEG refers to.
    Raises ValueError for labels of another shape than the image or below 0, UserError where the format
    cannot hold this mask.
    """
    if labels.shape != image.size:
        raise ValueError(f"labels of shape {labels.shape} do not lie on a grid of {image.size}")
    if labels.size and (labels.min() < 0 or labels.max() >= 1 << 16):
        raise ValueError(f"labels go from 0 to 65535; got {labels.min()} to {labels.max()}")
    path = _with_suffix(path, mask_suffix(image, format) if format or not _suffix(path) else "")
    small = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    suffix = _suffix(path)
    if suffix == ".png":
        store.write_bytes(path, _png(small, path))
    elif suffix == ".json":
        from medspectrum.formats import coco_rle

        store.write_bytes(path, coco_rle.document(small, names or {}, path.name.removesuffix(suffix)))
    elif suffix == ".dcm":
        from medspectrum.formats import dicom_seg_writer

        dicom_seg_writer.write(small, path, sources=sources, names=names or {})
    else:
        store.write_bytes(path, _nifti(small, image, packed=suffix == ".nii.gz"))
    return path


def _suffix(path: Path) -> str:
    """The suffix that stands for a format, or ''."""
    return next((s for s in (*FORMATS.values(), ".nii") if path.name.lower().endswith(s)), "")


def _with_suffix(path: Path, suffix: str) -> Path:
    if not suffix or path.name.lower().endswith(suffix):
        return path
    return path.with_name(path.name[: len(path.name) - len(_suffix(path))] + suffix)


def _png(labels: np.ndarray, path: Path) -> bytes:
    from PIL import Image as Pillow

    if len(labels) > 1:
        raise UserError(
            f"{path.name}: a PNG holds one plane, this mask has {len(labels)}; use the format nifti or rle"
        )
    written = io.BytesIO()
    Pillow.fromarray(labels[0]).save(written, "PNG", optimize=True)
    return written.getvalue()


def _nifti(labels: np.ndarray, image: Image, *, packed: bool) -> bytes:
    import gzip

    import nibabel

    made = nibabel.Nifti1Image(labels.T, image.affine)
    made.header.set_xyzt_units("mm" if image.spacing_known else "unknown")
    # no time of writing in the header of the archive: equal labels give equal files
    return gzip.compress(made.to_bytes(), 6, mtime=0) if packed else made.to_bytes()

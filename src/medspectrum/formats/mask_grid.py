"""A label map brought onto its image's grid without moving a voxel, or refused with the reason."""

from __future__ import annotations

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.errors import UserError
from medspectrum.formats.safety import NOT_FINITE, remarks
from medspectrum.image import Image

_SAME_PLACE_MM = 1e-2


def on_grid(mask: Image, image: Image, mask_source: str, image_source: str) -> np.ndarray:
    """The mask's labels on the image's grid, (Z, Y, X) integers.

    Axes that were stored in another order or direction are turned back, which moves no voxel. Raises
    UserError where shape, spacing or place differ otherwise, and where the mask is no label map.
    """
    labels = label_values(mask, mask_source)
    known = mask.spacing_known and image.spacing_known
    if not known:
        if labels.shape != image.size:
            raise UserError(_differs("shape", mask_source, labels.shape, image_source, image.size))
        if image.spacing_known and image.is_volume:
            raise UserError(
                f"{mask_source}: tells no voxel size and directions while its image {image_source} does, so "
                "it is not known which way round it lies; save it with its image's affine"
            )
        return labels
    # where each voxel of the image lies in the mask: a permutation with signs, where the grids are one
    turn = np.linalg.inv(mask.affine) @ image.affine
    whole = np.rint(turn[:3, :3])
    steps = np.abs(turn[:3, :3] - whole).max() * max(image.size)
    if np.abs(whole).sum() != 3 or abs(abs(np.linalg.det(whole)) - 1) > 1e-6 or steps > 0.5:
        raise UserError(
            f"{mask_source}: spacing or direction ({_mm(mask)}) differs from its image {image_source} "
            f"({_mm(image)}); resample the mask to its image's grid"
        )
    source = [int(np.flatnonzero(whole[:, axis])[0]) for axis in range(3)]  # x, y, z of the mask
    turned = labels.transpose([2 - source[2 - axis] for axis in range(3)])
    for axis in range(3):
        if whole[source[2 - axis], 2 - axis] < 0:
            turned = np.flip(turned, axis)
    if turned.shape != image.size:
        raise UserError(_differs("shape", mask_source, turned.shape, image_source, image.size))
    first = (turn @ np.array([0, 0, 0, 1.0]))[:3]
    expected = [
        0.0 if whole[s, axis] > 0 else labels.shape[2 - s] - 1.0
        for axis, s in sorted(((a, source[a]) for a in range(3)), key=lambda pair: pair[1])
    ]
    away = float(np.linalg.norm((first - expected) * np.array(mask.spacing_mm[::-1])))
    if away > 0.5 * min(mask.spacing_mm) + _SAME_PLACE_MM:
        raise UserError(
            f"{mask_source}: lies {away:.1f} mm away from its image {image_source}; check that they belong "
            "together, or resample the mask to its image's grid"
        )
    return np.ascontiguousarray(turned)


def read_mask(mask: LazyImage) -> Image:
    """The mask as it lies in its file. Raises UserError where it holds NaN, which stand for no label."""
    with remarks() as said:
        image = mask.load()
    if NOT_FINITE in said:
        raise UserError(
            f"{mask.source}: holds NaN or infinite values; a mask holds whole numbers: save 0 for nothing"
        )
    return image


def label_values(mask: Image, source: str) -> np.ndarray:
    """The label map of a mask file. Equal colour channels are taken for one, fractions of none refused."""
    array = mask.array
    if array.shape[0] in (3, 4) and all(np.array_equal(array[0], c) for c in array[1:3]):
        array = array[:1]
    if array.shape[0] != 1:
        raise UserError(
            f"{source}: a mask has one channel, this has {array.shape[0]}; save label values, not colours"
        )
    labels = array[0]
    if labels.dtype.kind == "f":
        if not np.array_equal(labels, np.rint(labels)):
            raise UserError(f"{source}: holds fractions; a mask holds whole numbers")
        labels = labels.astype(np.int32)
    return labels


def _differs(what: str, mask: str, found: tuple[int, ...], image: str, wanted: tuple[int, ...]) -> str:
    ours, theirs = (" x ".join(map(str, size)) for size in (found, wanted))
    return f"{mask}: has the {what} {ours}, its image {image} has {theirs}; give the mask on its image's grid"


def _mm(image: Image) -> str:
    return " x ".join(f"{s:.3g}" for s in image.spacing_mm) + " mm"

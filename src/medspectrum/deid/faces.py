"""Volumes of the head without what a face could be drawn from: only the brain and a rim around it stay.

A surface drawn from the skin of a head volume can be matched with photographs (Schwarz et al. 2019, NEJM
381:1684). Where the brain lies is told by deepbet (Fisch et al. 2024).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medspectrum.deid import volumes
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.image import Image

RIM_MM = 8.0
"""Stays around the brain: the skull's inner side, no skin of the face."""
LABELS = 64
"""A volume of at most so many values, all whole, is a label map."""
HEAD = frozenset(
    ("", "HEAD", "BRAIN", "SKULL", "FACE", "NECK", "HEADNECK", "EYE", "EAR", "NOSE", "JAW", "ORBIT")
)
SHOWING = frozenset(("CT", "MR", "PT", "NM"))
_KEEP = "leave it out, or say --faces keep if it shows no face"


def lacking() -> str:
    """What is missing to find the brain, in a sentence; empty where nothing is."""
    from medspectrum.models import brain_deepbet

    return brain_deepbet.lacking()


def refuse_object(modality: str, body_part: str, shown: str) -> None:
    """Raises UnreadableFile for a slice that may show a head: none shows the brain as a whole."""
    if modality in SHOWING and body_part.replace(" ", "").upper() in HEAD:
        raise UnreadableFile(
            shown,
            f"may show a face, and is taken out of NIfTI and NRRD volumes only; convert it first, {_KEEP}",
        )


def nifti(content: bytes, path: Path, shown: str) -> tuple[bytes, bool]:
    """A NIfTI file as ``volumes.nifti`` left it, of ``path``: without a face, and whether there was one."""
    from medspectrum.formats import nifti as reading

    packed = content[:2] == b"\x1f\x8b"
    whole = volumes.unpacked(content, shown) if packed else content
    start = volumes.HEAD_BYTES[whole[:4]]
    blanked = _blanked(whole[start:], reading.read(path), shown)
    if blanked is None:
        return content, False
    whole = whole[:start] + blanked
    return (volumes.packed_again(whole) if packed else whole), True


def nrrd(content: bytes, path: Path, shown: str) -> tuple[bytes, bool]:
    """An NRRD file as ``volumes.nrrd`` left it; see ``nifti``."""
    from medspectrum.formats import nrrd as reading

    head, _, data = content.partition(b"\n\n")
    image = reading.read(path)
    if len(image.array) > 1:
        raise UnreadableFile(shown, f"has several values a voxel, where a face is not looked for; {_KEEP}")
    blanked = _blanked(volumes.unpacked(data, shown), image, shown)
    if blanked is None:
        return content, False
    return head + b"\n\n" + volumes.packed_again(blanked), True


def _blanked(voxels: bytes, image: Image, shown: str) -> bytes | None:
    """Coded voxels, X fastest, all of which outside of the brain's surroundings are as the darkest one.

    None for a label map and a single picture. Raises UnreadableFile where there is no brain.
    """
    first = image.array[0]
    if not image.is_volume or _is_label_map(first):
        return None
    inside = _surroundings(image, shown)
    coded = np.frombuffer(voxels, np.uint8).reshape(len(image.array), first.size, -1).copy()
    for channel, values in zip(coded, image.array, strict=True):
        channel[~inside.ravel()] = channel[np.nanargmin(values)]
    return coded.tobytes()


def _is_label_map(volume: np.ndarray) -> bool:
    if volume.dtype.kind == "f" and not np.array_equal(volume, np.round(volume)):
        return False
    return len(np.unique(volume)) <= LABELS


def _surroundings(image: Image, shown: str) -> np.ndarray:
    """(Z, Y, X) bool: the brain and ``RIM_MM`` around it."""
    from scipy import ndimage

    from medspectrum.models.brain_deepbet import brain_mask

    try:
        mask = brain_mask(image)
    except UserError:
        raise UnreadableFile(
            shown, f"no brain was found, so a face could not be taken out; {_KEEP}"
        ) from None
    away = np.asarray(ndimage.distance_transform_edt(~mask, sampling=image.spacing_mm))
    return away <= RIM_MM

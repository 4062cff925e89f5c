"""Maps over the original pixels: a picture at its own size, of a volume three planes through the highest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.image import Image

STRENGTH = 0.72
SIDE = 176
AXES = ("axial", "coronal", "sagittal")


def drawn(
    image: Image,
    heat: np.ndarray | None,
    inside: np.ndarray | None = None,
    *,
    through: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """RGB pictures (h, w, 3) uint8 by plane, right side up, one pixel a voxel.

    A picture has one, ``picture``. Of a volume the planes meet where the map is highest (in the middle
    without a map): front or head at the top, the patient's right at the left, as radiologists look.
    heat: (Z, Y, X), not negative. inside: (Z, Y, X) bool, drawn as a line. through: a map whose highest
    place the planes go through in place of that of ``heat``.
    """
    pixels = _rgb(image)
    if not image.is_volume:
        return {"picture": _blend(pixels[:, 0], _flat(heat, 0), _flat(inside, 0))}
    turned = _turned(image, pixels)
    hot = None if heat is None else _turned(image, heat[None])[0]
    mask = None if inside is None else _turned(image, inside[None].astype(np.float32))[0] > 0.5
    size = turned.shape[1:]
    leading = heat if through is None else through
    top = [n // 2 for n in size]
    if leading is not None:
        top = list(np.unravel_index(int(_turned(image, leading[None])[0].argmax()), size))
    found = {}
    for axis, name in enumerate(AXES):
        own = np.take(turned, int(top[axis]), axis=axis + 1)
        parts = [None if m is None else np.take(m, int(top[axis]), axis=axis) for m in (hot, mask)]
        # rows grow to Superior or Anterior, columns to the Right of the patient in RAS: top is their end
        flip = (slice(None, None, -1), slice(None, None, -1))
        found[name] = _blend(
            own[(slice(None), *flip)], *(None if m is None else m[flip] for m in parts), whole=hot
        )
    return found


def _turned(image: Image, array: np.ndarray) -> np.ndarray:
    return transforms.oriented(Image(array, image.affine))


def _flat(array: np.ndarray | None, place: int) -> np.ndarray | None:
    return None if array is None else array[place]


def _rgb(image: Image) -> np.ndarray:
    """(3, Z, Y, X) on 0-255, float32; an 8-bit image as stored, others between their percentiles."""
    array = image.array
    if array.dtype != np.uint8:
        array = transforms.window(array, *transforms.finite_range(array)) * np.float32(255)
    return transforms.with_channels(array, 3).astype(np.float32)


def _blend(
    pixels: np.ndarray, heat: np.ndarray | None, inside: np.ndarray | None, whole: np.ndarray | None = None
) -> np.ndarray:
    """pixels: (3, h, w). whole: the map whose highest value is full strength; ``heat`` where None."""
    shown = np.moveaxis(pixels, 0, -1)
    if heat is not None:
        top = float((heat if whole is None else whole).max())
        share = np.clip(heat / top, 0, 1) if top > 0 else np.zeros_like(heat)
        strength = (STRENGTH * np.sqrt(share))[..., None]
        shown = shown * (1 - strength) + _tint(share) * strength
    if inside is not None:
        shown = np.where(_edge(inside)[..., None], np.array([88.0, 207.0, 165.0]), shown)
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def _tint(share: np.ndarray) -> np.ndarray:
    """(h, w, 3) from 0-1: dark violet over orange to pale yellow, matplotlib's inferno."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](share))[..., :3] * 255


def _edge(inside: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(inside) & ~inside


def png(picture: np.ndarray) -> bytes:
    """The pixels as they are."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    Pillow.fromarray(picture).save(out, "PNG", optimize=True)
    return out.getvalue()


def small(picture: np.ndarray, *, side: int = SIDE) -> bytes:
    """A JPEG of that longer side, for a page; small pictures are enlarged smoothly."""
    from PIL import Image as Pillow

    shown = Pillow.fromarray(picture)
    scale = side / max(shown.size)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    out = io.BytesIO()
    shown.resize(size, Pillow.Resampling.BICUBIC).save(out, "JPEG", quality=84)
    return out.getvalue()


def write_volume(path: Path, image: Image, heat: np.ndarray) -> None:
    """The map as NIfTI on the image's grid, up to 1."""
    from medspectrum.formats import nifti

    top = float(heat.max())
    made: Any = (heat / top if top > 0 else heat).astype(np.float32)
    nifti.write(Image(made[None], image.affine, spacing_known=image.spacing_known), path)

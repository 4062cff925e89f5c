"""Small made-up pictures for the fakes that each layout ships: two classes that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

CLASSES = ("dark", "light")


def pictures(
    seed: int, *, patients: int = 6, each: int = 2, side: int = 16
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(patient, label, (side, side) uint8) for made-up patients of alternating class."""
    rng = np.random.default_rng(seed)
    for number in range(patients):
        label = CLASSES[number % 2]
        middle = 70 if label == "dark" else 180
        for _ in range(each):
            noise = rng.normal(middle, 25, (side, side)).clip(0, 255)
            yield f"p{number:02d}", label, noise.astype(np.uint8)


def write_png(path: Path, array: np.ndarray) -> Path:
    """Write a grey or RGB picture."""
    from PIL import Image as pil

    path.parent.mkdir(parents=True, exist_ok=True)
    pil.fromarray(array).save(path)
    return path


def volume(rng: np.random.Generator, label: str, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A made-up (X, Y, Z) float32 volume and its mask of 0, 1, 2."""
    array = rng.normal(70 if label == "dark" else 180, 20, (side, side, side)).astype(np.float32)
    mask = np.zeros(array.shape, np.uint8)
    mask[2:4, 2:6, 2:6], mask[4:6, 2:6, 2:6] = 1, 2
    return array + 40 * mask, mask


def write_nifti(path: Path, array: np.ndarray) -> Path:
    """Write a volume with 1.0 x 1.0 x 1.5 mm voxels."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 1.5, 1.0])), path)
    return path

"""A small folder of made pictures for runs from end to end: textures of two kinds, several per patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow


def make_folder(folder: Path, *, patients: int = 24, each: int = 2, side: int = 40, seed: int = 0) -> Path:
    """A folder per class, files named PATIENT_NUMBER.png; coarse against fine grain, with noise."""
    rng = np.random.default_rng(seed)
    for patient in range(patients):
        label = ("coarse", "fine")[patient % 2]
        for number in range(each):
            grain = 8 if label == "coarse" else 4
            blocks = rng.normal(128, 40, (side // grain, side // grain))
            pixels = np.kron(blocks, np.ones((grain, grain))) + rng.normal(0, 30, (side, side))
            path = folder / label / f"p{patient:02d}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


PATTERN = r"(p\d+)_"
QUICK = {"models": "efficientnet-lite0", "size": 64, "patient_pattern": PATTERN, "quiet": True}


def words(settings: dict[str, object]) -> list[str]:
    """Settings as command line options."""
    found: list[str] = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        found += [flag] if value is True else [flag, str(value)]
    return found

"""Made pictures and volumes with something to outline: a bright core inside a grey ring, on noise."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.image import Image

SIZE = (36, 44)
DEPTH = 6
NAMES = {0: "background", 1: "core", 2: "ring"}


def plane(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8, labels uint8) of one picture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    centre = [rng.uniform(0.35, 0.65) * n for n in size]
    away = np.hypot(rows - centre[0], columns - centre[1])
    inner, outer = rng.uniform(4, 7), rng.uniform(9, 13)
    labels = np.where(away < inner, 1, np.where(away < outer, 2, 0)).astype(np.uint8)
    pixels = np.array([60, 220, 140])[labels] + rng.normal(0, 12, size)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(values uint8, labels uint8) of planes that follow each other, (Z, Y, X)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((DEPTH, *SIZE))
    centre = [rng.uniform(0.4, 0.6) * n for n in SIZE]
    away = np.sqrt((2.5 * (z - DEPTH / 2)) ** 2 + (y - centre[0]) ** 2 + (x - centre[1]) ** 2)
    labels = np.where(away < 6, 1, np.where(away < 12, 2, 0)).astype(np.uint8)
    values = np.array([60, 220, 140])[labels] + rng.normal(0, 12, labels.shape)
    return np.clip(values, 0, 255).astype(np.uint8), labels


def _affine() -> np.ndarray:
    return np.diag([1.0, 1.0, 2.5, 1.0])


def _image(seed: int, kind: str) -> Image:
    if kind == "volume":
        return Image(volume(seed)[0][None], _affine(), "MR", True)
    return Image(plane(seed)[0][None, None])


def _mask(seed: int, kind: str) -> Image:
    if kind == "volume":
        return Image(volume(seed)[1][None], _affine(), "", True)
    return Image(plane(seed)[1][None, None])


def _key(seed: int, kind: str, what: str) -> str:
    return f"{seed:08x}{kind}{what}"


def lazy(seed: int, kind: str, what: str) -> LazyImage:
    read = _image if what == "image" else _mask
    return LazyImage(
        f"made/{kind}{seed}_{what}.png",
        functools.partial(read, seed, kind),
        functools.partial(_key, seed, kind, what),
    )


def outlined(count: int, *, first: int = 0, kind: str = "plane", centre: bool = False) -> list[Case]:
    """Cases with a mask each; every second patient has two."""
    return [
        Case(
            f"{kind}{seed}",
            f"p{seed // 2}",
            {"image": lazy(seed, kind, "image")},
            MaskTarget(lazy(seed, kind, "mask"), NAMES),
            ("North", "Harbour")[seed % 2] if centre else None,
        )
        for seed in range(first, first + count)
    ]


def write_pairs(folder: Path, count: int) -> Path:
    """images/ and labels/ with the same names, as PNG."""
    for seed in range(count):
        pixels, labels = plane(seed)
        for name, array in (("images", pixels), ("labels", labels)):
            path = folder / name / f"p{seed:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(array).save(path)
    return folder

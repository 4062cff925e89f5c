"""Made pictures of discs that touch, with a mask that numbers them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.image import Image

SIZE = (72, 88)


def plane(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8, numbers uint16): pairs of discs that touch, dimmer towards their rims, on noise."""
    rng = np.random.default_rng([5, seed])
    rows, columns = np.indices(size)
    numbers = np.zeros(size, np.uint16)
    height = np.zeros(size)
    count = 0
    for centre in [(18, 20), (18, 62), (52, 22), (52, 64)]:
        radius = rng.uniform(7, 9)
        angle = rng.uniform(0, np.pi)
        step = np.array([np.sin(angle), np.cos(angle)]) * (radius + 0.3)
        middle = np.array(centre) + rng.uniform(-2, 2, 2)
        for place in (middle - step, middle + step) if rng.random() < 0.75 else (middle,):
            away = np.hypot(rows - place[0], columns - place[1])
            own = (away <= radius) & (numbers == 0)
            count += 1
            numbers[own] = count
            height[own] = np.sqrt(np.clip(1 - (away[own] / radius) ** 2, 0.05, 1))
    pixels = 20 + 60 * height + rng.normal(0, 3, size)
    return np.clip(pixels, 0, 255).astype(np.uint8), numbers


def _image(seed: int) -> Image:
    return Image(plane(seed)[0][None, None], spacing_known=False)


def _mask(seed: int) -> Image:
    return Image(plane(seed)[1][None, None], spacing_known=False)


def lazy(seed: int, what: str) -> LazyImage:
    read = _image if what == "image" else _mask
    return LazyImage(
        f"made/discs{seed}_{what}.png",
        functools.partial(read, seed),
        functools.partial(str, f"{seed:08x}discs{what}"),
    )


def discs(count: int, *, first: int = 0) -> list[Case]:
    """Cases with a mask each; every second patient has two."""
    return [
        Case(
            f"discs{seed}",
            f"p{seed // 2}",
            {"image": lazy(seed, "image")},
            MaskTarget(lazy(seed, "mask"), {}),
        )
        for seed in range(first, first + count)
    ]


def write_discs(folder: Path, count: int) -> Path:
    """images/ and labels/ with the same names, as PNG."""
    for seed in range(count):
        pixels, numbers = plane(seed)
        for name, array in (("images", pixels), ("labels", numbers)):
            path = folder / name / f"p{seed:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(array).save(path)
    return folder

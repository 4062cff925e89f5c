"""CT volumes as 3-D encoders take them: turned, cut to what is above air, fitted, windowed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.errors import UserError
from medspectrum.image import Image


def volume_input(
    image: Image, size: tuple[int, ...], *, window_hu: tuple[float, float], name: str
) -> np.ndarray:
    """(1, Z, Y, X) float32 in 0-1: turned to RAS, cut to what is above air, averaged to the size.

    Raises UserError for a single picture: such a network looks at volumes.
    """
    if not image.is_volume:
        raise UserError(f"{name} takes CT volumes; this is a single picture")
    low, high = window_hu
    volume = transforms.oriented(image)[0].astype(np.float32)
    volume = np.nan_to_num(volume, nan=low, posinf=high, neginf=low)
    inside = volume > low
    if inside.any():
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            found = np.flatnonzero(inside.any(axis=others))
            cut = slice(int(found[0]), int(found[-1]) + 1)
            volume = volume[(slice(None),) * axis + (cut,)]
            inside = inside[(slice(None),) * axis + (cut,)]
    return transforms.window(transforms.area_resize(volume, (size[0], size[1], size[2])), low, high)[None]


def taking(name: str, window_hu: tuple[float, float]) -> Callable[[Image, tuple[int, ...]], np.ndarray]:
    """``volume_input`` for one row."""
    return partial(volume_input, window_hu=window_hu, name=name)


def stages(ask: Callable[[Any], list[Any]], turned: Callable[[Any], Any], back: Callable[[Any], Any]) -> Any:
    """Maps are ``ask`` of a volume turned as the makers' are; the vector is the mean of the last one."""
    import torch

    class Stages(torch.nn.Module):
        def maps(self, volume: Any) -> list[Any]:
            return [back(made) for made in ask(turned(volume))]

        def forward(self, volume: Any) -> Any:
            return ask(turned(volume))[-1].mean(dim=(2, 3, 4))

        def read_level(self, volume: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(volume),)
            found = self.maps(volume)
            return (found[-1],) if level == "tokens" else tuple(found)

    return Stages()

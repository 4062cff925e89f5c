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
    volume = volume[filled(volume > low)]
    return transforms.window(transforms.area_resize(volume, (size[0], size[1], size[2])), low, high)[None]


def filled(inside: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box around what is True of (Z, Y, X); all where nothing is."""
    if not inside.any():
        return slice(None), slice(None), slice(None)
    found = []
    for axis in range(3):
        there = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(int(there[0]), int(there[-1]) + 1))
    return found[0], found[1], found[2]


def extent(own_input: Any, image: Image) -> tuple[slice, slice, slice] | None:
    """The part of the volume, turned to RAS, that a row's ``own_input`` shows to its network.

    None where it is not known: for inputs that are not turned, cut and averaged to the size.
    """
    if isinstance(own_input, partial) and own_input.func is volume_input:
        volume = transforms.oriented(image)[0].astype(np.float32)
        low, high = own_input.keywords["window_hu"]
        return filled(np.nan_to_num(volume, nan=low, posinf=high, neginf=low) > low)
    whole = slice(None), slice(None), slice(None)
    return whole if getattr(own_input, "shows_all", False) else None


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

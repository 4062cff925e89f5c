"""Boxes and masks as they were given: what can be used, and the sentence for what cannot."""

from __future__ import annotations

import numpy as np

from medspectrum.case import BoxTarget, MaskTarget
from medspectrum.errors import UserError
from medspectrum.tasks.segment import BACKGROUND

SPILL = 2.0
"""Pixels that a box may reach over the image's border, as careless ones do; it is cut there."""


def checked_boxes(given: BoxTarget, size: tuple[int, int, int], source: str) -> np.ndarray:
    """The boxes, (n, 4) or in a volume (n, 6), cut to the image of that size (Z, Y, X).

    Raises UserError for a box without a size, or one that reaches out of the image.
    """
    whole = size[2:0:-1] if size[0] == 1 else size[::-1]  # x, y(, z)
    axes = len(whole)
    made = np.empty((len(given.boxes), 2 * axes))
    extent = " x ".join(map(str, whole))
    for row, (box, label) in enumerate(zip(given.boxes, given.labels, strict=True)):
        named = f"{source}: its box {row + 1} ({label!r}, {', '.join(f'{v:g}' for v in box)})"
        if len(box) != 2 * axes:
            raise UserError(
                f"{named} has {len(box)} numbers; a {'picture' if axes == 2 else 'volume'}'s has {2 * axes}: "
                "starts, then ends"
            )
        low, high = np.array(box[:axes], float), np.array(box[axes:], float)
        if not np.isfinite([*low, *high]).all() or (high <= low).any():
            raise UserError(f"{named} has no size; correct or remove it")
        if (
            (low < -SPILL).any()
            or (high > np.array(whole) + SPILL).any()
            or (high <= 0).any()
            or (low >= whole).any()
        ):
            raise UserError(
                f"{named} reaches out of the image of {extent} pixels; check that it belongs to this image "
                "and its resolution, or remove it"
            )
        made[row] = [*np.clip(low, 0, whole), *np.clip(high, 0, whole)]
    return made


def named(mask: MaskTarget) -> list[str]:
    """The labels of a mask, background not among them; read from it where they have no names."""
    found: dict[int, str] = dict(mask.labels)
    if not found:
        try:
            found = {int(v): str(int(v)) for v in np.unique(mask.mask.load().array)}
        except UserError:
            return []  # named when the case is looked at by itself
    return [n for v, n in found.items() if v != 0 and n.strip().lower() not in BACKGROUND]


def name_of(mask: MaskTarget, value: int) -> str:
    """The label of a value, or the value itself where it has no name."""
    return mask.labels.get(value, str(value))

"""An image outlined from prompts, plane by plane: each plane is shown to the network once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import sam, sam_everything
from medspectrum.prompts import UNNAMED, Pointer

SOFT_TISSUE_HU = (-160.0, 240.0)
"""How CT is shown where no window is asked for, as MedSAM was trained: level 40, width 400."""


@dataclass(frozen=True, eq=False)
class Outlined:
    """The objects of one image. labels: (Z, Y, X), 0 where nothing is. rows: one for each pointer."""

    labels: np.ndarray
    rows: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Spot:
    """One prompt on one plane, in its pixels."""

    thing: int
    box: np.ndarray | None = None
    points: np.ndarray | None = None
    positive: np.ndarray | None = None
    mask: np.ndarray | None = None


def window_of(words: str | None) -> tuple[float, float] | None:
    """Two numbers of ``low,high``. Raises UserError for others."""
    if words is None:
        return None
    try:
        low, high = (float(part) for part in words.split(","))
    except ValueError:
        raise UserError(f"window {words!r} is not two numbers; write low,high such as -160,240") from None
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        raise UserError(f"window {words!r} has no width; write low,high such as -160,240")
    return low, high


def pixels_of(image: Image, window: tuple[float, float] | None = None) -> np.ndarray:
    """The image as it is shown to the network: (3, Z, Y, X) uint8.

    window: values that become black and white. Without one, 8-bit pictures stay as they are, CT is shown in
    its soft-tissue window, anything else from its 0.5 to its 99.5 percentile.
    """
    array = image.array
    if window is None and array.dtype == np.uint8:
        return transforms.with_channels(array, 3)
    if window is None and array.dtype == np.bool_:
        return transforms.with_channels(array.astype(np.uint8) * np.uint8(255), 3)
    if window is None:
        houndsfield = image.modality == "CT" and array.shape[0] == 1 and float(np.nanmin(array)) < 0
        window = SOFT_TISSUE_HU if houndsfield else transforms.finite_range(array)
    unit = transforms.window(array, *window)
    return transforms.with_channels(np.rint(unit * 255).astype(np.uint8), 3)


def axis_of(pointers: Sequence[Pointer], image: Image) -> int:
    """The axis of (Z, Y, X) along which a volume is cut: that in which some prompt is one plane thick.

    Points lie in planes of Z. Boxes and masks without such a plane are cut along the widest spacing.
    """
    if not image.is_volume or any(p.points for p in pointers):
        return 0
    for pointer in pointers:
        if pointer.box is not None:
            low, high = np.array(pointer.box[:3]), np.array(pointer.box[3:])
            flat = np.flatnonzero(high - low <= 1)
            if len(flat):
                return 2 - int(flat[-1])
    return transforms.through_plane_axis(image) - 1


def outlined(
    network: sam.Promptable,
    pixels: np.ndarray,
    pointers: Sequence[Pointer],
    values: Sequence[int],
    *,
    axis: int = 0,
) -> Outlined:
    """Outline what each pointer points at.

    pixels: (3, Z, Y, X) uint8. values: of each pointer, written where its object is; where objects overlap,
    that of the outline which the network trusts more. axis: see ``axis_of``.
    """
    made = np.zeros(pixels.shape[1:], np.uint16)
    area = np.zeros(len(pointers), np.int64)
    trust: list[list[float]] = [[] for _ in pointers]
    planes = np.moveaxis(made, axis, 0)
    shown = np.moveaxis(pixels, axis + 1, 0)
    by_plane: dict[int, list[_Spot]] = {}
    for place, spot in _spots(pointers, axis, made.shape):
        by_plane.setdefault(place, []).append(spot)
    for place in sorted(by_plane):
        spots = by_plane[place]
        seen = sam.embed(network, np.ascontiguousarray(shown[place]))
        found = list(sam.outline(network, seen, [_prompt(network, seen, spot) for spot in spots]))
        for one in sorted(found, key=lambda o: (o.score, -o.place)):
            thing = spots[one.place].thing
            planes[place][one.mask] = values[thing]
            area[thing] += int(one.mask.sum())
            trust[thing].append(one.score)
    rows = [
        {
            "label": pointer.label,
            "value": int(value),
            "box": None if pointer.box is None else [round(v, 3) for v in pointer.box],
            "score": pointer.score,
            "estimated_iou": round(float(np.mean(scores)), 4) if scores else None,
            "planes": len(scores),
            "voxels": int(count),
            "source": pointer.source,
        }
        for pointer, value, scores, count in zip(pointers, values, trust, area, strict=True)
    ]
    return Outlined(made, rows)


def everything_in(
    network: sam.Promptable,
    pixels: np.ndarray,
    *,
    axis: int = 0,
    points_per_side: int = 32,
    least_trust: float = 0.88,
    least_stability: float = 0.95,
) -> Outlined:
    """Outline whatever stands out, plane by plane, things numbered from 1; smaller things lie on larger ones.

    pixels: (3, Z, Y, X) uint8. axis: of (Z, Y, X), along which a volume is cut. The rest:
    see ``models.sam_everything.everything``.
    """
    made = np.zeros(pixels.shape[1:], np.uint16)
    rows: list[dict[str, Any]] = []
    flat = pixels.shape[1] == 1
    for place, plane in enumerate(np.moveaxis(pixels, axis + 1, 0)):
        found = sam_everything.everything(
            network,
            np.ascontiguousarray(plane),
            points_per_side=points_per_side,
            least_trust=least_trust,
            least_stability=least_stability,
        )
        own = np.moveaxis(made, axis, 0)[place]
        for thing in sorted(found, key=lambda t: -int(t.mask.sum())):
            number = len(rows) + 1
            own[thing.mask] = number
            box = [float(v) for v in (*thing.box[:2], *(thing.box[2:] + 1))]
            rows.append(
                {
                    "label": UNNAMED,
                    "value": number,
                    "box": box if flat else _through(box, place, axis),
                    "score": None,
                    "estimated_iou": round(thing.trust, 4),
                    "planes": 1,
                    "voxels": int(thing.mask.sum()),
                    "source": "everything" if flat else f"everything in plane {place}",
                }
            )
    return Outlined(made, rows)


def _through(box: Sequence[float], place: int, axis: int) -> list[float]:
    """x0, y0, z0, x1, y1, z1 of a box in a plane across that axis of (Z, Y, X)."""
    low, high = list(box[:2]), list(box[2:])
    low.insert(2 - axis, float(place))
    high.insert(2 - axis, float(place + 1))
    return [*low, *high]


def _prompt(network: sam.Promptable, seen: sam.Embedded, spot: _Spot) -> sam.Prompt:
    logits = None if spot.mask is None else sam.as_logits(network, seen, spot.mask)
    return sam.Prompt(spot.box, spot.points, spot.positive, logits)


def _spots(pointers: Sequence[Pointer], axis: int, size: tuple[int, ...]) -> Iterator[tuple[int, _Spot]]:
    """The planes that each pointer touches, and what points there, with x before y."""
    flat = size[0] == 1
    through = 2 - axis  # of x, y, z
    within = [i for i in range(3) if i != through]
    for thing, pointer in enumerate(pointers):
        if pointer.mask is not None:
            for place, mask in enumerate(np.moveaxis(pointer.mask, axis, 0)):
                if mask.any():
                    yield place, _Spot(thing, box=_around(mask), mask=mask)
        elif pointer.box is not None:
            half = len(pointer.box) // 2
            low, high = np.array(pointer.box[:half]), np.array(pointer.box[half:])
            if flat:
                yield 0, _Spot(thing, box=np.concatenate([low[:2], high[:2]]))
                continue
            box = np.concatenate([low[within], high[within]])
            for place in range(math.floor(low[through]), math.ceil(high[through])):
                yield place, _Spot(thing, box=box)
        else:
            points, inside = np.array(pointer.points), np.array(pointer.inside)
            depth = np.zeros(len(points)) if flat else np.floor(points[:, through])
            for place in np.unique(depth):
                here = depth == place
                kept = points[here][:, :2] if flat else points[here][:, within]
                yield int(place), _Spot(thing, points=kept, positive=inside[here])


def _around(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)

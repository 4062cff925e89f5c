"""Everything in a picture outlined without a prompt: a grid of points, and only masks that hold.

The mode "everything" of Segment Anything (Kirillov et al. 2023, arXiv:2304.02643, appendix B): each point of
a regular grid gives three masks; kept are those that the network trusts, whose border hardly moves with the
threshold, and of several alike the most trusted. Parts of the picture can be looked at once more, enlarged.
Masks that the network does not trust are dropped before they are enlarged, which changes no result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medspectrum.errors import UserError
from medspectrum.models import sam

AT_CUT = 20.0
"""Pixels from the border of an enlarged part, within which a thing counts as cut off by it."""
CROP_OVERLAP = 512 / 1500
_POINTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing that was found. mask: (height, width) bool. box: its outermost pixels x0, y0, x1, y1.

    trust: the network's estimate of its IoU. stability: IoU of the masks at a higher and a lower threshold.
    point: (2,) x, y that gave it. part: of the picture that was looked at, x0, y0, x1, y1 as edges.
    """

    mask: np.ndarray
    box: np.ndarray
    trust: float
    stability: float
    point: np.ndarray
    part: tuple[int, int, int, int]


def everything(
    model: sam.Promptable,
    picture: np.ndarray,
    *,
    points_per_side: int = 32,
    least_trust: float = 0.88,
    least_stability: float = 0.95,
    stability_offset: float = 1.0,
    most_overlap: float = 0.7,
    layers: int = 0,
    part_overlap: float = CROP_OVERLAP,
    points_shrink: int = 1,
    least_area: int = 0,
) -> list[Thing]:
    """Outline whatever stands out in a picture (3, height, width) uint8; the published settings by default.

    points_per_side: of the grid. least_trust: of masks, by the network's own estimate of their IoU.
    least_stability: IoU of a mask at thresholds ``stability_offset`` above and below its own.
    most_overlap: IoU of two boxes from which on the less trusted one is a double. layers: the picture is
    looked at again in 2 x 2, then 4 x 4 parts, and so on, that overlap by ``part_overlap`` of its shorter
    side, with a grid ``points_shrink`` times coarser each time. least_area: holes and islands of fewer
    pixels are filled and removed.
    Raises UserError for a network that was made for boxes alone.
    """
    if model.preparation == "medsam":
        raise UserError(
            f"{model.source}: MedSAM answers boxes, not a grid of points; give SAM or SAM 2 for everything"
        )
    if points_per_side < 1 or layers < 0 or points_shrink < 1:
        raise UserError("a grid needs at least one point a side, and layers are counted from 0")
    height, width = picture.shape[1:]
    found: list[Thing] = []
    looked = list(parts((height, width), layers, part_overlap))
    for part, layer in looked:
        x0, y0, x1, y1 = part
        side = max(1, int(points_per_side / points_shrink**layer))
        cut = np.ascontiguousarray(picture[:, y0:y1, x0:x1])
        own = list(
            _held(
                model, cut, grid(side), part, (height, width), least_trust, least_stability, stability_offset
            )
        )
        found += [_back(t, (height, width)) for t in _apart(own, [t.trust for t in own], most_overlap)]
    if len(looked) > 1:  # a thing seen from nearer is the better one
        nearness = [1 / ((t.part[2] - t.part[0]) * (t.part[3] - t.part[1])) for t in found]
        found = _apart(found, nearness, most_overlap)
    return _tidied(found, least_area, most_overlap) if least_area else found


def grid(side: int) -> np.ndarray:
    """(side * side, 2) points x, y from 0 to 1, row by row."""
    along = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    y, x = np.meshgrid(along, along, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def parts(
    size: tuple[int, int], layers: int, overlap: float
) -> Iterator[tuple[tuple[int, int, int, int], int]]:
    """((x0, y0, x1, y1), layer) of what is looked at: the whole picture, then ever smaller parts."""
    height, width = size
    yield (0, 0, width, height), 0
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * (2 / count))
        wide, high = (math.ceil((shared * (count - 1) + n) / count) for n in (width, height))
        for i, j in itertools.product(range(count), range(count)):
            x, y = (wide - shared) * i, (high - shared) * j
            yield (x, y, min(x + wide, width), min(y + high, height)), layer


def _held(
    model: sam.Promptable,
    cut: np.ndarray,
    points: np.ndarray,
    part: tuple[int, int, int, int],
    size: tuple[int, int],
    least_trust: float,
    least_stability: float,
    offset: float,
) -> Iterator[Thing]:
    """What the points give in one part, in its own pixels: trusted, stable, and not cut off by its border."""
    seen = sam.embed(model, cut)
    places = points * np.array(cut.shape[:0:-1])
    for begin in range(0, len(places), _POINTS_AT_ONCE):
        some = places[begin : begin + _POINTS_AT_ONCE]
        asked = [sam.Prompt(points=p[None], positive=np.array([True])) for p in some]
        low, trust = sam.offered(model, seen, asked, several=True)
        for place, kind in np.argwhere(trust > least_trust if least_trust > 0 else np.ones_like(trust, bool)):
            scores = sam.on_picture(model, seen, low[place, kind])
            wide, mask = np.count_nonzero(scores > -offset), scores > 0
            stability = np.count_nonzero(scores > offset) / wide if wide else math.nan
            if least_stability > 0 and not stability >= least_stability:
                continue
            box = _around(mask)
            if not _cut_off(box, part, size):
                yield Thing(mask, box, float(trust[place, kind]), stability, some[place], part)


def _around(mask: np.ndarray) -> np.ndarray:
    """(4,) the outermost pixels x0, y0, x1, y1 of a mask; zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], float)


def _cut_off(box: np.ndarray, part: tuple[int, int, int, int], size: tuple[int, int]) -> bool:
    """Whether a box reaches the border of its part, where that is not the picture's own."""
    moved = box + np.array([*part[:2], *part[:2]])
    at_part = np.abs(moved - np.array(part)) <= AT_CUT
    at_picture = np.abs(moved - np.array([0, 0, size[1], size[0]])) <= AT_CUT
    return bool((at_part & ~at_picture).any())


def _back(thing: Thing, size: tuple[int, int]) -> Thing:
    """The same in the pixels of the whole picture."""
    x0, y0, x1, y1 = thing.part
    whole = np.zeros(size, bool)
    whole[y0:y1, x0:x1] = thing.mask
    return replace(
        thing, mask=whole, box=thing.box + np.array([x0, y0, x0, y0]), point=thing.point + np.array([x0, y0])
    )


def _apart(found: list[Thing], scores: list[float], most_overlap: float) -> list[Thing]:
    """Of things whose boxes overlap more than that the one with the highest score; the best first."""
    import torch
    from torchvision.ops import nms

    if not found:
        return []
    boxes = torch.from_numpy(np.stack([t.box for t in found]).astype(np.float32))
    kept = nms(boxes, torch.tensor(scores, dtype=torch.float32), most_overlap)
    return [found[i] for i in kept.tolist()]


def _tidied(found: list[Thing], least_area: int, most_overlap: float) -> list[Thing]:
    """Holes and islands of fewer pixels removed; of what is now alike, what needed no change is kept."""
    made, untouched = [], []
    for thing in found:
        mask, filled = _without_small(thing.mask, least_area, holes=True)
        mask, cleared = _without_small(mask, least_area, holes=False)
        made.append(replace(thing, mask=mask, box=_around(mask)) if filled or cleared else thing)
        untouched.append(float(not (filled or cleared)))
    return _apart(made, untouched, most_overlap)


def _without_small(mask: np.ndarray, least_area: int, *, holes: bool) -> tuple[np.ndarray, bool]:
    """A mask without its small holes or islands, and whether it had any. The largest island always stays."""
    from scipy import ndimage

    found: Any = ndimage.label(~mask if holes else mask, np.ones((3, 3)))
    numbered, count = found
    sizes = np.bincount(numbered.reshape(-1), minlength=count + 1)
    small = np.flatnonzero(sizes[1:] < least_area) + 1
    if not len(small):
        return mask, False
    if holes:
        return mask | np.isin(numbered, small), True
    if len(small) == count:
        small = np.delete(small, np.argmax(sizes[1:]))
    return mask & ~np.isin(numbered, small), True

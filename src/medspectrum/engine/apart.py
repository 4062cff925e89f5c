"""Things that touch, told apart: what a network learns for it, and the way from its answers to things.

Two aims are served. **distance**: per pixel the kind of thing, background included, and how far inside its
thing it lies, from the rim to 1 at the innermost pixel; between two that touch it falls to almost nothing. A
peak that rises far enough over the saddles around it is the core of a thing. **border**: per pixel
background, inside or border; pieces of what is inside are the cores. From its core each thing is filled
downhill over all that is no background (watershed; Meyer, "Topographic distance and watershed lines", Signal
Processing 38, 1994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

AIMS = ("distance", "border")
BORDER_PX = 2.0
SMOOTH_PX = 1.0
INSIDE = (0.5, 0.4, 0.3, 0.6, 0.7, 0.8)
RISE = (0.1, 0.05, 0.02, 0.2)
LEAST_PIXELS = (15, 5, 30)
LEAST_THINGS = 10  # that say how large a picture's things are
SMALLER = 0.75  # of the smallest typical size: below, things are smaller than those learned from
MOST_TIMES = 4


def lacking() -> str:
    """'' where things can be told apart, else what to install."""
    if find_spec("skimage"):
        return ""
    return 'watersheds are scikit-image\'s: pip install "medspectrum[instances]"'


@dataclass(frozen=True)
class Rule:
    """How answers become things. inside: probability of no background from which a pixel is of a thing.
    rise: how far a peak of the distance stands over its saddles to be a core. least_pixels: smaller things
    are dropped.
    """

    inside: float = INSIDE[0]
    rise: float = RISE[0]
    least_pixels: int = LEAST_PIXELS[0]

    def settings(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def targets(things: np.ndarray, count: int, aim: str) -> np.ndarray:
    """(height, width) numbers of things of ``count`` kinds -> (2, height, width) float32: label and distance.

    Labels are 0 for background, i + 1 for the i-th kind, ``count`` + 1 for borders where these are the aim.
    """
    labels = np.where(things > 0, (things.astype(np.int64) - 1) % count + 1, 0)
    if aim == "distance":
        return np.stack([labels, _distances(things, scaled=True)]).astype(np.float32)
    away = _distances(things, scaled=False)
    labels[(things > 0) & (away <= BORDER_PX)] = count + 1
    return np.stack([labels, np.zeros(things.shape)]).astype(np.float32)


def _distances(things: np.ndarray, *, scaled: bool) -> np.ndarray:
    """(height, width) float32 distance to the rim of each thing in pixels, or 1 at its innermost pixel."""
    from scipy import ndimage

    found = np.zeros(things.shape, np.float32)
    values, numbers = np.unique(things, return_inverse=True)
    numbers = numbers.reshape(things.shape) + (0 if len(values) and values[0] == 0 else 1)
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        own = np.pad(numbers[box] == number, 1)  # what lies beside it is another thing or background
        away = np.asarray(ndimage.distance_transform_edt(own))[1:-1, 1:-1]
        inner = own[1:-1, 1:-1]
        found[box][inner] = (away / away.max() if scaled else away)[inner]
    return found


def told_apart(answer: np.ndarray, rule: Rule, aim: str) -> np.ndarray:
    """What a network answers -> (height, width) int32 things: the number v is of kind (v - 1) % kinds.

    answer: (kinds + 2, height, width): probability of background and of each kind, then the distance or the
    probability of a border.
    """
    likely, last = answer[1:-1], answer[-1]
    region = 1 - answer[0] > rule.inside
    if aim == "border":
        inner = likely.sum(axis=0)
        return numbered(filled(inner, region, (inner > 0.5) & region), likely, rule.least_pixels)
    height = smooth(last, SMOOTH_PX)
    return numbered(filled(height, region, peaks(height, rule.rise) & region), likely, rule.least_pixels)


def diameters(things: np.ndarray) -> np.ndarray:
    """(n,) of numbered things, in pixels, of discs as large as they are."""
    areas = np.bincount(things.reshape(-1))[1:]
    return 2 * np.sqrt(areas[areas > 0] / np.pi)


def typical_sizes(maps: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """What nine tenths of the pictures keep within: the median diameter of their things, in pixels."""
    medians = [float(np.median(own)) for own in map(diameters, maps) if len(own)]
    if not medians:
        return None
    low, high = np.percentile(medians, (5, 95))
    return float(low), float(high)


def fitting_scale(answer: np.ndarray, rule: Rule, aim: str, smallest: float) -> int:
    """How many times larger a picture is to be seen so that its things are of a size that was learned from.

    smallest: typical diameter, in px, in the picture with the smallest things that was learned from. Gives 1
    where hardly a thing is shown, 4 at most.
    """
    rough = told_apart(answer, replace(rule, least_pixels=min(LEAST_PIXELS)), aim)
    found = diameters(rough)
    if len(found) < LEAST_THINGS:
        return 1
    times = SMALLER * smallest / float(np.median(found))
    return min(MOST_TIMES, 2 ** max(0, math.ceil(math.log2(times))))


def smooth(values: np.ndarray, deviation_px: float) -> np.ndarray:
    """Blurred by a Gaussian."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(values, deviation_px))


def peaks(height: np.ndarray, rise: float) -> np.ndarray:
    """Where peaks are that rise at least so far over their saddles (Soille 2003, h-maxima)."""
    from skimage.morphology import h_maxima

    return np.asarray(h_maxima(height, rise)).astype(bool)


def filled(height: np.ndarray, region: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Fill a region downhill from its cores; a piece of it without a core is a thing of its own."""
    from scipy import ndimage
    from skimage.segmentation import watershed

    seeds = _pieces(cores)
    pieces = _pieces(region)
    seeded = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    seeded[pieces[seeds > 0]] = True
    lone = region & ~seeded[pieces]
    seeds[lone] = pieces[lone] + seeds.max(initial=0)
    made = watershed(-height, seeds, mask=region)
    for number, box in enumerate(ndimage.find_objects(made), start=1):
        if box is not None:
            own = made[box] == number
            holes = np.asarray(ndimage.binary_fill_holes(own)) & ~own & (made[box] == 0)
            made[box][holes] = number
    return made


def numbered(found: np.ndarray, likely: np.ndarray, least_pixels: int) -> np.ndarray:
    """Number things anew from 1 on, the small ones dropped, each of the kind that is likeliest in it."""
    sizes = np.bincount(found.reshape(-1))
    kept = np.flatnonzero(sizes >= least_pixels)
    kept = kept[kept > 0]
    count = len(likely)
    flat = found.reshape(-1)
    sums = np.stack([np.bincount(flat, own.reshape(-1), len(sizes)) for own in likely])
    table = np.zeros(len(sizes), np.int32)
    table[kept] = np.arange(len(kept)) * count + sums[:, kept].argmax(axis=0) + 1
    return table[found]


def best_rule(answers: Sequence[np.ndarray], truths: Sequence[np.ndarray], aim: str) -> Rule:
    """The rule of the highest average precision on these pictures, sought one setting after the other.

    answers: as ``told_apart`` takes them. truths: (height, width) things. The usual rule where there is none.
    """
    from medspectrum.metrics.instances import instance_scores, match_instances

    def worth(rule: Rule) -> float:
        found = [told_apart(answer, rule, aim) for answer in answers]
        matches = [match_instances(ours, truth) for ours, truth in zip(found, truths, strict=True)]
        score = instance_scores(matches)["ap"]
        return -1.0 if np.isnan(score) else score

    chosen = Rule()
    if not answers:
        return chosen
    known = worth(chosen)
    options = {"inside": INSIDE, "rise": RISE if aim == "distance" else (), "least_pixels": LEAST_PIXELS}
    for name, values in options.items():
        tried = [replace(chosen, **{name: value}) for value in values]
        scores = [known if rule == chosen else worth(rule) for rule in tried]
        if scores and max(scores) > known:
            chosen, known = tried[int(np.argmax(scores))], max(scores)
    return chosen


def _pieces(inside: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    found = np.zeros(inside.shape, np.int32)
    ndimage.label(inside, output=found)
    return found

"""A network over a volume in windows: blended or tiled, in memory that does not grow with the volume.

The scores of overlapping windows are added up in a band as thick as one window along the first axis.
Windows go along that axis in order, so that slices which no later window reaches are finished, turned into
labels, and their place is used again; what is kept of the whole volume is one byte a voxel. The band is
float32: float16 would halve it, but rounds close scores to one and was 17 times slower to add (NumPy, AVX2).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from medspectrum.engine.body import body_box as box_of_body
from medspectrum.engine.stitch import Blend, Centre
from medspectrum.engine.window_grid import Tiles, even_starts, flips, importance, overlaps, sides, starts
from medspectrum.errors import UserError

MODES = ("blend", "centre")
GIVES = ("labels", "scores")
CENTRE_OVERLAP = 1 / 6

Run = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]


class Ahead(Protocol):
    """A ``run`` that works ahead: it takes batches as it has room and gives scores in their order."""

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Scores for each batch; what is given may be overwritten once the next is asked for."""
        ...


def slide(
    run: Run | Any,
    volume: np.ndarray,
    *,
    roi: int | Sequence[int],
    overlap: float | Sequence[float] | None = None,
    blend: str | np.ndarray = "gaussian",
    evenly: bool = False,
    mirror: Sequence[int] = (),
    mode: str = "blend",
    body_box: bool = False,
    batch: int = 1,
    gives: str = "labels",
    progress: Progress | None = None,
) -> np.ndarray:
    """Run a network over a picture (C, Y, X) or volume (C, Z, Y, X) in windows of one size.

    run: takes (B, C, *roi) float32 and gives scores (B, K, *roi); one with a method ``ahead`` computes the
    next windows while the last are stitched. roi: the window's sides. Where the volume is smaller, the
    window is filled up with zeros around it.
    mode: ``blend`` averages overlapping windows by weight, with the placement and weights of MONAI's
    ``sliding_window_inference`` (equal to float32 rounding); ``centre`` takes each voxel from the window
    whose centre is nearest, from far fewer windows. overlap: 0.5 by default, 1/6 in mode ``centre``, where it
    says how much windows overlap at least: each then lacks half of it at every inner border.
    blend: ``gaussian``, ``constant``, or the weights themselves, with the window's sides. evenly: the fewest
    windows of at least that overlap, spread evenly, as in mode ``centre`` and as nnU-Net does. mirror: axes
    to flip; scores are averaged over all 2^n combinations.
    body_box: windows only within the box around the foreground (``engine/body.py``); outside of it every
    label is 0 and every score is 0. batch: windows per call of ``run``.
    gives: ``labels``, the class of the highest score (with one class, 1 where its score is above 0), uint8 or
    uint16 with the volume's spatial shape; or ``scores``, float32 (K, ...): needs the memory for all of them.
    progress: told (windows done, windows).

    Raises UserError for settings that do not fit together, and where ``run`` gives another shape.
    """
    if mode not in MODES or gives not in GIVES:
        raise UserError(f"slide knows the modes {', '.join(MODES)} and gives {' or '.join(GIVES)}")
    if volume.ndim not in (3, 4) or 0 in volume.shape:
        raise UserError(f"windows slide over (C, Y, X) or (C, Z, Y, X); got the shape {volume.shape}")
    if batch < 1:
        raise UserError(f"a batch holds at least 1 window; got {batch}")
    size = volume.shape[1:]
    side = sides(roi, size)
    within = _box(volume, side) if body_box else tuple((0, n) for n in size)
    part = volume[(slice(None), *(slice(*ends) for ends in within))]
    chosen = overlap if overlap is not None else (CENTRE_OVERLAP if mode == "centre" else 0.5)
    place_along = even_starts if evenly or mode == "centre" else starts
    along = zip(part.shape[1:], side, overlaps(chosen, len(size)), strict=True)
    tiles = Tiles(part.shape[1:], side, tuple(place_along(*given) for given in along))
    turned = flips(mirror, len(size))
    jobs = list(itertools.product(tiles.places(), turned))
    stitch: Blend | Centre = (
        Centre(tiles, turns=len(turned), gives=gives)
        if mode == "centre"
        else Blend(
            tiles,
            importance(side, blend) if isinstance(blend, str) else blend,
            turns=len(turned),
            gives=gives,
        )
    )
    batches = _batches(part, tiles, jobs, batch)
    found = run.ahead(batches) if hasattr(run, "ahead") else map(run, batches)
    done = 0
    for scores in found:
        held = jobs[done : done + batch]
        scores = np.asarray(scores)
        if scores.shape[0] != len(held) or scores.shape[2:] != side:
            raise UserError(
                f"the network gave scores of shape {scores.shape} for windows of {side}; "
                "it has to give one score per class and voxel, on the window's own grid"
            )
        for (place, axes), one in zip(held, scores, strict=True):
            stitch.add(place, np.flip(one, tuple(axis + 1 for axis in axes)) if axes else one)
        done += len(held)
        if progress is not None:
            progress(done, len(jobs))
    made = stitch.whole()
    if part.shape[1:] == size:
        return made
    kinds = made.shape[: made.ndim - len(size)]
    whole = np.zeros((*kinds, *size), made.dtype)
    whole[(..., *(slice(*ends) for ends in within))] = made
    return whole


def _box(volume: np.ndarray, side: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The body's box, at least as large as a window where the volume is: real surroundings, not zeros."""
    found = []
    for (first, end), length, least in zip(box_of_body(volume), volume.shape[1:], side, strict=True):
        lacking = max(0, min(length, least) - (end - first))
        first = max(0, min(first - lacking // 2, length - max(end - first, min(length, least))))
        found.append((first, max(end, first + min(length, least))))
    return tuple(found)


def _batches(
    volume: np.ndarray,
    tiles: Tiles,
    jobs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    batch: int,
) -> Iterator[np.ndarray]:
    """Windows as (B, C, ...), flipped along the axes of their job."""
    for begin in range(0, len(jobs), batch):
        cut = []
        for place, axes in jobs[begin : begin + batch]:
            window = tiles.cut(volume, place)
            cut.append(np.flip(window, tuple(axis + 1 for axis in axes)) if axes else window)
        yield np.ascontiguousarray(cut[0][None]) if len(cut) == 1 else np.stack(cut)

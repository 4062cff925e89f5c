"""The box around what is not background, found cheaply: windows over air are not worth computing."""

from __future__ import annotations

import numpy as np

STRIDE = 2
LEAST_PART = 0.002
"""A plane counts as body where this part of it, at least, is above the threshold."""
BINS = 128


def foreground_threshold(values: np.ndarray) -> float:
    """Halfway from the background's level to Otsu's threshold: leaves dim skin and fat inside.

    Otsu (IEEE Trans. SMC 9:62, 1979) on 128 bins between the 0.5 and 99.5 percentiles. The background's
    level is the median of what lies below. A flat array gives minus infinity: all of it is body.
    """
    flat = values.reshape(-1)
    low, high = (float(v) for v in np.percentile(flat, (0.5, 99.5)))
    if not high > low:
        low, high = float(flat.min()), float(flat.max())
    if not high > low:
        return -np.inf
    counts, edges = np.histogram(flat, BINS, (low, high))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    between[~np.isfinite(between)] = -1
    cut = float(edges[1:-1][int(np.argmax(between))])
    dark = flat[flat < cut]
    return cut if not dark.size else (float(np.median(dark)) + cut) / 2


def body_box(volume: np.ndarray, *, margin: int = 8) -> tuple[tuple[int, int], ...]:
    """The box [first, end) along each axis of a (C, ...) volume around its foreground.

    The first channel is looked at, every second voxel along each axis. A plane belongs to the body where
    0.2 % of it or more is above ``foreground_threshold``, so that single noisy voxels do not count; the box
    gets ``margin`` voxels on every side. A volume in which no plane does is taken whole. Bright air (inverted
    radiographs) is not recognised: the box then is too large, never too small around bright things.
    """
    size = volume.shape[1:]
    looked = volume[0][tuple(slice(None, None, STRIDE if n > 2 * STRIDE else 1) for n in size)]
    inside = looked > foreground_threshold(looked)
    box = []
    for axis, length in enumerate(size):
        others = tuple(a for a in range(len(size)) if a != axis)
        filled = np.flatnonzero(inside.mean(axis=others) >= LEAST_PART)
        if not filled.size:
            return tuple((0, n) for n in size)
        stride = STRIDE if length > 2 * STRIDE else 1
        first = int(filled[0]) * stride - margin
        end = int(filled[-1]) * stride + stride + margin
        box.append((max(0, first), min(length, end)))
    return tuple(box)

"""The modality independent neighbourhood descriptor with self-similarity context (MIND-SSC).

Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using
self-similarities", MICCAI 2013. Around every voxel, patches at the six neighbours are compared in pairs
that do not face each other (12 pairs in a volume, 4 in a picture): each channel is
``exp(-D / V)``, D the mean squared difference of two patches and V its mean over the channels. It
tells what is alike nearby, not how bright it is, so that two contrasts of one anatomy agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from medspectrum.engine.align.smooth import along, box_matrix
from medspectrum.image import Image
from medspectrum.transforms import finite_range, window, with_channels

_LEAST_SHARE, _MOST_SHARE = 1e-3, 1e3  # V is kept within these multiples of its mean over the image


def mind(
    volume: Any, *, radius: int = 1, dilation: int = 2, aspect: Sequence[float] = (1.0, 1.0, 1.0)
) -> Any:
    """Descriptors (K, Z, Y, X) of a float tensor (Z, Y, X); K is 12, or 4 where one axis has one voxel.

    radius: of the patches (side 2 radius + 1 voxels). dilation: how far the neighbours are, in voxels.
    aspect: spacing (Z, Y, X) relative to the finest; along wider axes both are that much smaller, but
    neighbours are at least one voxel away.
    """
    import torch

    axes = [axis for axis in range(3) if volume.shape[axis] > 1]
    away = [max(1, round(dilation / aspect[axis])) if axis in axes else 0 for axis in range(3)]
    padded = _padded(volume[None, None], away)[0, 0]
    neighbours = {}
    for axis in axes:
        for side in (-1, 1):
            first = [r + (side * r if a == axis else 0) for a, r in enumerate(away)]
            window = tuple(slice(f, f + n) for f, n in zip(first, volume.shape, strict=True))
            neighbours[axis, side] = padded[window]
    pairs = [(a, b) for a, b in combinations(neighbours, 2) if a[0] != b[0]]
    if not pairs:
        return torch.zeros((1, *volume.shape))
    squared = torch.stack([(neighbours[a] - neighbours[b]) ** 2 for a, b in pairs])
    distance = box(squared, [round(radius / aspect[axis]) if axis in axes else 0 for axis in range(3)])
    variance = distance.mean(dim=0, keepdim=True)
    whole = float(variance.mean())
    variance = variance.clamp(min=max(_LEAST_SHARE * whole, 1e-12), max=max(_MOST_SHARE * whole, 1e-12))
    return torch.exp(-distance / variance)


def box(values: Any, radii: Any) -> Any:
    """Means of a tensor (K, Z, Y, X) over boxes of ``2 r + 1`` voxels, edges repeated."""
    made = values
    for axis, (r, n) in enumerate(zip(radii, values.shape[1:], strict=True)):
        if r == 1:
            reach = [1 if a == axis else 0 for a in range(3)]
            wide = _padded(made[None], reach)[0]
            made = wide.narrow(axis + 1, 0, n) + wide.narrow(axis + 1, 1, n)
            made += wide.narrow(axis + 1, 2, n)
            made *= 1 / 3
        elif r:
            made = along(made, box_matrix(n, r), axis + 1)
    return made


def locally_normalised(volume: Any, *, radius: int = 4, aspect: Sequence[float] = (1.0, 1.0, 1.0)) -> Any:
    """(1, Z, Y, X): brightness less its mean over a box, by its standard deviation there plus 0.05.

    Squared differences of such images are what local normalised cross-correlation measures.
    """
    radii = [round(radius / a) if n > 1 else 0 for a, n in zip(aspect, volume.shape, strict=True)]
    mean = box(volume[None], radii)
    spread = (box(volume[None].square(), radii) - mean.square()).clamp(min=0).sqrt()
    return (volume[None] - mean) / (spread + 0.05)


def _padded(values: Any, reach: list[int]) -> Any:
    import torch

    z, y, x = reach
    return torch.nn.functional.pad(values, (x, x, y, y, z, z), mode="replicate")


def grey(image: Image) -> Image:
    """One channel, float32, with the 0.5 and 99.5 percentiles at 0 and 1 and cut off there."""
    one = with_channels(image.array, 1)
    return Image(window(one, *finite_range(one)), image.affine, image.modality, image.spacing_known)


def constant(image: Image) -> bool:
    """Whether the image is the same everywhere, so that nothing in it can be aligned."""
    finite = image.array[np.isfinite(image.array)] if image.array.dtype.kind == "f" else image.array
    return finite.size == 0 or finite.min() == finite.max()

"""Patches to learn outlines from: cut out of images, turned, zoomed, bent and mirrored in one sampling.

Half of the patches are centred where something is outlined, as nnU-Net does for a third of them: with few
labelled cases most patches would show background only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CHANGED = 0.4  # share of patches that are turned; as many are zoomed, and as many bent
ZOOM = (0.75, 1.3)
BEND = 0.12  # deviation of the points that bend a patch, in parts of the distance between them
BEND_POINTS = 4  # along the longest axis
DEGREES = 15.0
OUTLINED = 0.5
PLACES = 2000  # voxels of each label that are remembered


@dataclass(frozen=True)
class Sample:
    """A case to cut from. image: (C, ...) float16; labels: (...) uint8; places: per label (n, axes)."""

    image: np.ndarray
    labels: np.ndarray
    places: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, image: np.ndarray, labels: np.ndarray, count: int, seed: int) -> Sample:
        """Remember where each label stands. count: labels, background included."""
        rng = np.random.default_rng(seed)
        places = []
        for label in range(1, count):
            found = np.argwhere(labels == label)
            places.append(found[rng.permutation(len(found))[:PLACES]])
        return cls(image.astype(np.float16), labels, tuple(places))


@dataclass(frozen=True)
class Turning:
    """What may change. degrees: largest turn about each axis (2-D: in the plane). flat: an axis (of Z, Y, X)
    much coarser than the others, about which alone is turned; -1 for none. mirror: axes that may be flipped.
    share: of patches that are turned, as many zoomed, and as many bent, each by chance of its own.
    """

    degrees: float = DEGREES
    flat: int = -1
    mirror: tuple[int, ...] = ()
    share: float = CHANGED


def cut(
    sample: Sample, patch: Sequence[int], change: Turning, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One patch: (C, *patch) float32 and labels (*patch) int64. Outside of the image both are 0."""
    import torch
    import torch.nn.functional as F

    axes = len(patch)
    size = np.array(sample.labels.shape)
    centre = _centre(sample, size, np.array(patch), rng)
    turned = matrix(axes, change, rng)
    steps = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)
    if float(torch.rand((), generator=rng)) < change.share:
        grid = grid + bent(patch, change.flat, rng)
    points = grid @ torch.from_numpy(turned.T.astype(np.float32)) + torch.from_numpy(
        centre.astype(np.float32)
    )
    scale = torch.from_numpy((2 / np.maximum(size - 1, 1)).astype(np.float32))
    where = (points * scale - 1).flip(-1)[None]  # grid_sample takes x first
    image = torch.from_numpy(sample.image).float()[None]
    labels = torch.from_numpy(sample.labels)[None, None].float()
    seen = F.grid_sample(image, where, mode="bilinear", padding_mode="zeros", align_corners=True)
    found = F.grid_sample(labels, where, mode="nearest", padding_mode="zeros", align_corners=True)
    return seen[0], found[0, 0].long()


def _centre(sample: Sample, size: np.ndarray, patch: np.ndarray, rng: torch.Generator) -> np.ndarray:
    import torch

    present = [p for p in sample.places if len(p)]
    chance = torch.rand(len(size) + 3, generator=rng).double().numpy()
    centre = chance[3:] * size - 0.5
    if present and chance[0] < OUTLINED:
        own = present[int(chance[1] * len(present))]
        centre = own[int(chance[2] * len(own))].astype(float)
    # inside as far as the patch fits; in the middle where the image is smaller
    half = (patch - 1) / 2
    low, high = half, size - 1 - half
    return np.where(low > high, (size - 1) / 2, np.clip(centre, low, np.maximum(low, high)))


def bent(patch: Sequence[int], flat: int, rng: torch.Generator) -> torch.Tensor:
    """Smooth moves (*patch, axes) in voxels between a few points moved by chance; none along ``flat``."""
    import torch
    import torch.nn.functional as F

    apart = max(patch) / BEND_POINTS
    # one point more on each side, so that the patch's border is moved like its middle
    counts = [max(1, round(n / apart)) + 3 for n in patch]
    moves = torch.randn((1, len(patch), *counts), generator=rng) * (BEND * apart)
    if flat >= 0:
        moves[:, flat] = 0
    fine = [round((c - 1) * n / (c - 3)) for n, c in zip(patch, counts, strict=True)]
    smooth = F.interpolate(
        moves, fine, mode="bilinear" if len(patch) == 2 else "trilinear", align_corners=True
    )
    begin = [(f - n) // 2 for f, n in zip(fine, patch, strict=True)]
    inner = smooth[(0, slice(None), *(slice(b, b + n) for b, n in zip(begin, patch, strict=True)))]
    return inner.movedim(0, -1)


def matrix(axes: int, change: Turning, rng: torch.Generator) -> np.ndarray:
    """Turn, zoom and mirror as one matrix (axes, axes)."""
    import torch

    chance = torch.rand(6 + axes, generator=rng).double().numpy()
    made = np.eye(axes)
    if chance[0] < change.share:
        angles = (2 * chance[1:4] - 1) * math.radians(change.degrees)
        if axes == 2:
            made = _turn(2, 0, 1, angles[0])
        else:
            for axis in range(3):
                if change.flat in (-1, axis):
                    a, b = (i for i in range(3) if i != axis)
                    made = made @ _turn(3, a, b, angles[axis])
    if chance[4] < change.share:
        made = made * (ZOOM[0] + chance[5] * (ZOOM[1] - ZOOM[0]))
    for axis in change.mirror:
        if chance[6 + axis] < 0.5:
            made[:, axis] *= -1
    return made


def _turn(axes: int, a: int, b: int, angle: float) -> np.ndarray:
    matrix = np.eye(axes)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def shade(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast, gamma, shades, sharpness and noise of (n, C, ...) standardised patches."""
    import torch

    n = len(batch)
    shape = (n, *[1] * (batch.ndim - 1))
    chance = torch.rand((6, n), generator=rng)
    values = torch.rand((4, n), generator=rng)

    def some(row: int, share: float, low: float, high: float, neutral: float) -> torch.Tensor:
        picked = low + values[row] * (high - low)
        return torch.where(chance[row] < share, picked, torch.full_like(picked, neutral)).view(shape)

    gamma = some(0, 0.3, 0.7, 1.5, 1.0)
    low = batch.flatten(1).min(dim=1).values.view(shape)
    extent = (batch.flatten(1).max(dim=1).values.view(shape) - low).clamp_min(1e-6)
    batch = ((batch - low) / extent).clamp_min(0).pow(gamma) * extent + low
    batch = batch * some(1, 0.3, 0.75, 1.3, 1.0) + some(2, 0.3, -0.3, 0.3, 0.0)
    shaded = torch.rand(n, generator=rng) < 0.2
    if bool(shaded.any()):
        batch = torch.where(shaded.view(shape), (batch - low) * _shading(batch, rng) + low, batch)
    noise = some(3, 0.2, 0.0, 0.15, 0.0)
    if bool((noise > 0).any()):
        batch = batch + noise * torch.randn(batch.shape, generator=rng)
    soft = chance[4] < 0.15
    if bool(soft.any()):
        batch = torch.where(soft.view(shape), _blurred(batch), batch)
    return batch


def _shading(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Factors that change slowly over each patch, as a coil's or a lamp's do."""
    import torch
    import torch.nn.functional as F

    axes = batch.ndim - 2
    coarse = 0.2 * torch.randn((len(batch), 1, *[3] * axes), generator=rng)
    mode = "bilinear" if axes == 2 else "trilinear"
    return F.interpolate(coarse, batch.shape[2:], mode=mode, align_corners=True).exp()


def _blurred(batch: torch.Tensor) -> torch.Tensor:
    """Each axis averaged with weights 1, 2, 1."""
    import torch

    for axis in range(2, batch.ndim):
        first = batch.narrow(axis, 0, 1)
        last = batch.narrow(axis, batch.shape[axis] - 1, 1)
        wide = torch.cat([first, batch, last], dim=axis)
        n = batch.shape[axis]
        batch = (wide.narrow(axis, 0, n) + 2 * batch + wide.narrow(axis, 2, n)) / 4
    return batch

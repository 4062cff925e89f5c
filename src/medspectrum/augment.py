"""Small changes to a batch of prepared pictures that leave its classes true; randomness is passed in.

What may change follows from the modality: a chest X-ray has a left and a right and no colour, a field under
the microscope has neither up nor down. All functions take and give (n, C, H, W) float32, normalised.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medspectrum.distort import Augment, fitting, uniform
from medspectrum.distort import distort as distorted

if TYPE_CHECKING:
    import torch

# DICOM codes: slide microscopy, general microscopy, external-camera photography of cells
ANY_WAY_UP = ("SM", "GM", "XM")
# projection X-ray and mammography
RADIOGRAPHS = ("CR", "DX", "DR", "RG", "XA", "RF", "MG", "PX", "IO")
SECTIONS = ("CT", "MR", "PT", "NM", "US", "OCT", "OPT")
ROTATION_DEGREES = 7.0
CROP = 0.12
BRIGHTNESS = 0.15
CONTRAST = 0.15
COLOUR = 0.08


def move(
    batch: torch.Tensor, rng: torch.Generator, *, degrees: float, crop: float, mirror: bool
) -> torch.Tensor:
    """Rotate, zoom in by up to ``crop`` of the side, shift as much, mirror half: one sampling for all.

    What comes in from outside repeats the edge.
    """
    import torch
    import torch.nn.functional as F

    n = len(batch)
    angle = uniform((n,), -degrees, degrees, rng) * math.pi / 180
    zoom = 1 - uniform((n,), 0.0, crop, rng)
    shift = uniform((n, 2), -crop, crop, rng)
    side = torch.ones(n)
    if mirror:
        side = 1 - 2 * torch.randint(0, 2, (n,), generator=rng).float()
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [torch.stack([cos * side, -sin, shift[:, 0]], 1), torch.stack([sin * side, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def turn(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One of the eight ways to lay a square picture down, for each picture; oblong ones are only mirrored."""
    import torch

    kind = torch.randint(0, 8 if batch.shape[2] == batch.shape[3] else 4, (len(batch),), generator=rng)
    turned = batch.clone()
    for bit, axes in ((1, [2]), (2, [3])):
        chosen = (kind & bit) > 0
        turned[chosen] = turned[chosen].flip(axes)
    chosen = (kind & 4) > 0
    if chosen.any():
        turned[chosen] = turned[chosen].transpose(2, 3)
    return turned


def relight(batch: torch.Tensor, rng: torch.Generator, *, brightness: float, contrast: float) -> torch.Tensor:
    """Shift the brightness and stretch the contrast about each picture's mean, in units of its spread."""
    n = len(batch)
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    spread = batch.std(dim=(1, 2, 3), keepdim=True)
    shift = uniform((n, 1, 1, 1), -brightness, brightness, rng)
    stretch = 1 + uniform((n, 1, 1, 1), -contrast, contrast, rng)
    return (batch - mean) * stretch + mean + shift * spread


def tint(batch: torch.Tensor, rng: torch.Generator, *, strength: float) -> torch.Tensor:
    """Scale and shift each colour on its own, as stains and lamps do. Grey pictures come back unchanged."""
    import torch

    n, channels = batch.shape[:2]
    if channels < 3 or bool((batch.amax(1) - batch.amin(1)).abs().max() == 0):
        return batch
    spread = batch.std(dim=(1, 2, 3), keepdim=True)
    scale = 1 + uniform((n, channels, 1, 1), -strength, strength, rng)
    shift = uniform((n, channels, 1, 1), -strength, strength, rng)
    return torch.addcmul(shift * spread, batch, scale)


def chosen(modality: str, *, gentle: bool, distort: str) -> Augment:
    """The small default for a DICOM modality code where ``gentle``, then the distortions that are asked for.

    distort: names of ``distort.DISTORTIONS`` joined by +, ``modality`` for those that fit it, or "".
    """
    code = modality.upper()
    names = fitting(_kind(code), code) if distort == "modality" else tuple(filter(None, distort.split("+")))
    gently, further = for_modality(modality), distorted(names)

    def change(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moved = gently(batch, rng) if gentle else batch
        return further(moved, rng) if names else moved

    return change


def _kind(code: str) -> str:
    for kind, codes in (("microscopy", ANY_WAY_UP), ("radiograph", RADIOGRAPHS), ("section", SECTIONS)):
        if code in codes:
            return kind
    return "unknown"


def for_modality(modality: str) -> Augment:
    """The small default for a DICOM modality code; ``""`` gets what is safe for any picture."""

    def radiograph(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moved = move(batch, rng, degrees=ROTATION_DEGREES, crop=CROP, mirror=False)
        return relight(moved, rng, brightness=BRIGHTNESS, contrast=CONTRAST)

    def section(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moved = move(batch, rng, degrees=ROTATION_DEGREES, crop=CROP, mirror=False)
        return relight(moved, rng, brightness=BRIGHTNESS / 2, contrast=CONTRAST)

    def microscopy(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moved = move(turn(batch, rng), rng, degrees=0.0, crop=CROP, mirror=False)
        return tint(relight(moved, rng, brightness=BRIGHTNESS, contrast=CONTRAST), rng, strength=COLOUR)

    def unknown(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        moved = move(batch, rng, degrees=ROTATION_DEGREES, crop=CROP, mirror=True)
        return relight(moved, rng, brightness=BRIGHTNESS, contrast=CONTRAST)

    kinds = {"microscopy": microscopy, "radiograph": radiograph, "section": section, "unknown": unknown}
    return kinds[_kind(modality.upper())]

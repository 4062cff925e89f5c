"""What an apparatus does to a picture, at random and mildly: noise, fields, stains; and two pictures mixed.

All functions take and give (n, C, H, W) float32, normalised; strengths are in units of each picture's own
spread, so that they mean the same for any normalisation. A network trained on such pictures leans less on
what differs between scanners (Zhang and Metaxas 2023, section 3, names rotation, cropping, colour, noise and
random erasing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Augment = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]

NOISE = 0.15
"""Largest deviation of the noise, of the picture's spread."""
GAMMA = 0.3
"""Exponents lie between 1 / (1 + GAMMA) and 1 + GAMMA."""
FIELD = 0.3
"""Largest relative change of brightness across a picture."""
ERASED = (0.02, 0.2)
"""Share of the area that is blotted out."""
GHOST = 0.15
"""Largest strength of a ghost, of the picture."""
STAIN = 0.15
"""Largest relative change of a stain's density."""
# colours of haematoxylin, eosin and DAB as optical densities (Ruifrok and Johnston, 2001)
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    """Numbers of that shape, evenly drawn from low to high."""
    import torch

    return torch.rand(shape, generator=rng) * (high - low) + low


def _range(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 1, 1, 1) least value and extent of each picture; the extent is never 0."""
    low = batch.amin(dim=(1, 2, 3), keepdim=True)
    return low, (batch.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-6)


def noise(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Normal noise, of a strength of its own for each picture."""
    import torch

    strength = uniform((len(batch), 1, 1, 1), 0.0, NOISE, rng) * batch.std(dim=(1, 2, 3), keepdim=True)
    one = torch.randn((len(batch), 1, *batch.shape[2:]), generator=rng)
    each = torch.randn(batch.shape, generator=rng)
    grey = _grey(batch)
    return batch + strength * torch.where(grey, one, each)


def speckle(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Noise that grows with the signal, as ultrasound and coherence tomography have it."""
    import torch

    low, _ = _range(batch)
    strength = uniform((len(batch), 1, 1, 1), 0.0, 2 * NOISE, rng)
    grain = torch.randn((len(batch), 1, *batch.shape[2:]), generator=rng)
    return low + (batch - low) * (1 + strength * grain).clamp_min(0.0)


def gamma(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The response curve bent: the picture's range to a power near 1."""
    low, extent = _range(batch)
    exponent = (1 + GAMMA) ** uniform((len(batch), 1, 1, 1), -1.0, 1.0, rng)
    return low + extent * ((batch - low) / extent) ** exponent


def bias_field(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A smooth field of sensitivity, as a coil has it: a random surface of second order."""
    import torch

    n, _, height, width = batch.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([x, y, x * y, x * x - 1 / 3, y * y - 1 / 3])
    field = torch.einsum("nk,khw->nhw", uniform((n, len(terms)), -1.0, 1.0, rng), terms)
    field = field / field.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    low, _ = _range(batch)
    strength = uniform((n, 1, 1), 0.0, FIELD, rng)
    return low + (batch - low) * (1 + strength * field)[:, None]


def k_space(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Every second line of k-space a little weaker: a ghost half a field of view away, as of motion."""
    import torch

    strength = uniform((len(batch), 1, 1, 1), 0.0, GHOST, rng)
    low, _ = _range(batch)
    signal = batch - low
    ghost = torch.roll(signal, shifts=batch.shape[2] // 2, dims=2)
    return low + (1 - strength) * signal + strength * ghost


def erase(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A rectangle is replaced by the picture's mean (random erasing; Zhong et al., AAAI 2020)."""
    import torch

    n, _, height, width = batch.shape
    area = uniform((n,), *ERASED, rng)
    aspect = 3.0 ** uniform((n,), -1.0, 1.0, rng)
    tall = ((area * aspect).sqrt() * height).round().clamp(1, height)
    wide = ((area / aspect).sqrt() * width).round().clamp(1, width)
    top = (torch.rand((n,), generator=rng) * (height - tall + 1)).floor()
    left = (torch.rand((n,), generator=rng) * (width - wide + 1)).floor()
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    inside = (y >= top[:, None, None]) & (y < (top + tall)[:, None, None])
    inside = inside & (x >= left[:, None, None]) & (x < (left + wide)[:, None, None])
    return torch.where(inside[:, None], batch.mean(dim=(2, 3), keepdim=True), batch)


def stain(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Densities of haematoxylin, eosin and a third stain changed on their own; grey pictures are not.

    The picture's own range stands for what transmits from nothing to all of the light.
    """
    import torch

    if batch.shape[1] != 3:
        return batch
    low, extent = _range(batch)
    dense = -torch.log(((batch - low) / extent).clamp(1 / 255, 1.0))
    stains = torch.nn.functional.normalize(torch.tensor(STAINS), dim=1)
    amounts = torch.einsum("nchw,ck->nkhw", dense, torch.linalg.inv(stains))
    scale = 1 + uniform((len(batch), 3, 1, 1), -STAIN, STAIN, rng)
    changed = low + extent * torch.exp(-torch.einsum("nkhw,kc->nchw", amounts * scale, stains)).clamp(0, 1)
    return torch.where(_grey(batch), batch, changed)


def _grey(batch: torch.Tensor) -> torch.Tensor:
    """(n, 1, 1, 1) whether the channels of a picture are alike."""
    return ((batch.amax(1) - batch.amin(1)).amax(dim=(1, 2)) < 1e-4)[:, None, None, None]


DISTORTIONS: dict[str, Augment] = {
    "bias_field": bias_field,
    "erase": erase,
    "gamma": gamma,
    "k_space": k_space,
    "noise": noise,
    "speckle": speckle,
    "stain": stain,
}
_OF_MODALITY = {
    "radiograph": ("gamma", "noise", "erase"),
    "ultrasound": ("speckle", "gamma", "erase"),
    "resonance": ("bias_field", "k_space", "noise"),
    "section": ("gamma", "noise", "erase"),
    "microscopy": ("stain", "noise", "erase"),
    "unknown": ("gamma", "noise", "erase"),
}


def fitting(kind: str, code: str) -> tuple[str, ...]:
    """Names of what an apparatus of that kind does. code: DICOM's, which tells sections apart."""
    if code == "MR":
        return _OF_MODALITY["resonance"]
    return _OF_MODALITY["ultrasound" if code in ("US", "IVUS", "OCT", "OPT") else kind]


def distort(names: tuple[str, ...]) -> Augment:
    """Each of the named changes, in this order, to half of the pictures."""
    import torch

    def change(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        for name in names:
            chosen = torch.rand((len(batch), 1, 1, 1), generator=rng) < 0.5
            batch = torch.where(chosen, DISTORTIONS[name](batch, rng), batch)
        return batch.contiguous(memory_format=torch.channels_last)

    return change


Mix = Callable[["torch.Tensor", "torch.Generator"], tuple["torch.Tensor", "torch.Tensor", float]]
MIXES = ("none", "mixup", "cutmix")


def mixing(name: str) -> Mix | None:
    """Two pictures made one: (batch, rng) -> the batch, each one's partner, the share of its own picture.

    mixup: a weighted mean (Zhang et al., ICLR 2018). cutmix: a rectangle of the partner (Yun et al., ICCV
    2019). The share is drawn evenly from 0 to 1. None for ``none``.
    """
    import torch

    def mixup(batch: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
        partner = torch.randperm(len(batch), generator=rng)
        share = float(torch.rand((), generator=rng))
        return share * batch + (1 - share) * batch[partner], partner, share

    def cutmix(batch: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
        partner = torch.randperm(len(batch), generator=rng)
        share, y, x = torch.rand((3,), generator=rng).tolist()
        height, width = batch.shape[-2:]
        side = (1 - share) ** 0.5
        top, left = round(y * (1 - side) * height), round(x * (1 - side) * width)
        rows, columns = slice(top, top + round(side * height)), slice(left, left + round(side * width))
        mixed = batch.clone()
        mixed[..., rows, columns] = batch[partner][..., rows, columns]
        cut = round(side * height) * round(side * width) / (height * width)
        return mixed, partner, 1 - cut

    return {"none": None, "mixup": mixup, "cutmix": cutmix}[name]

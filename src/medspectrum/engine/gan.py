"""A small class-conditional GAN: hinge loss, spectral norms, and augmentation that gradients pass through.

Hinge loss and the projection of the class as in Miyato and Koyama (2018); spectral norms after Miyato et al.
(2018); every picture the critic sees, real or made, is changed alike (Zhao et al., 2020). Both players take
their step at once, each from its own loss.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medspectrum.engine.generating import Parts

LATENT = 64
POWER_STEPS = 6


def make(channels: int, side: int, classes: int, guidance: float) -> Parts:  # noqa: ARG001 - of the diffusion
    """The parts of a GAN for square pictures of a side that 4 divides."""
    network = nn.ModuleDict(
        {"maker": Maker(channels, side, classes), "critic": Critic(channels, side, classes)}
    )

    def loss(own: Any, pictures: Any, labels: Any, rng: Any) -> Any:
        maker, critic = own["maker"], own["critic"]
        made = maker(torch.randn((len(labels), LATENT), generator=rng), labels)
        changes = [torch.rand((len(labels), 6), generator=rng) for _ in range(3)]
        real = critic(changed(pictures, changes[0]), labels)
        fake = critic(changed(made.detach(), changes[1]), labels)
        still = {name: p.detach() for name, p in critic.named_parameters()}
        judged = torch.func.functional_call(critic, still, (changed(made, changes[2]), labels))
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean() - judged.mean()

    def sample(own: Any, labels: Any, rng: Any) -> Any:
        return own["maker"](torch.randn((len(labels), LATENT), generator=rng), labels)

    return Parts(network, loss, sample, rate=4e-4)


class Maker(nn.Module):
    """A latent vector and a class in, a picture out: enlarged in steps, scaled by the class."""

    def __init__(self, channels: int, side: int, classes: int, width: int = 48) -> None:
        super().__init__()
        doublings = 2 if side <= 32 else 3
        self.start = side // 2**doublings
        widths = [width * 2 ** min(2, doublings - i) for i in range(doublings + 1)]
        self.widths = widths
        self.named = nn.Embedding(classes, LATENT)
        self.first = nn.Linear(2 * LATENT, widths[0] * self.start**2)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.scales = nn.ModuleList(nn.Linear(2 * LATENT, 2 * b) for b in widths[1:])
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latent: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, LATENT) and (n,) -> (n, C, side, side) from -1 to 1."""
        code = torch.cat([latent, self.named(labels)], 1)
        now = self.first(code).view(len(code), self.widths[0], self.start, self.start)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            now = functional.group_norm(layer(functional.interpolate(now, scale_factor=2.0)), 8)
            gain, shift = scale(code)[..., None, None].chunk(2, 1)
            now = functional.relu(now * (1 + gain) + shift)
        return torch.tanh(self.last(now))


class Critic(nn.Module):
    """A picture and a class in, how real it looks out; every weight divided by its largest singular value."""

    def __init__(self, channels: int, side: int, classes: int, width: int = 48) -> None:
        super().__init__()
        halvings = 2 if side <= 32 else 3
        widths = [channels, *(width * 2 ** min(2, i) for i in range(halvings))]
        self.layers = nn.ModuleList()
        for a, b in itertools.pairwise(widths):
            self.layers.append(nn.Conv2d(a, b, 3, padding=1))
            self.layers.append(nn.Conv2d(b, b, 4, stride=2, padding=1))
        self.out = nn.Linear(widths[-1], 1)
        self.named = nn.Embedding(classes, widths[-1])

    def forward(self, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, C, side, side) and (n,) -> (n,)."""
        now = pictures
        for layer in self.layers:
            weight = layer.weight / largest_singular(layer.weight.flatten(1))  # type: ignore[operator]
            now = functional.leaky_relu(
                functional.conv2d(now, weight, layer.bias, layer.stride, layer.padding),  # type: ignore[arg-type]
                0.1,
            )
        seen = now.sum((2, 3)) / math.sqrt(now.shape[2] * now.shape[3])
        plain = functional.linear(seen, self.out.weight / largest_singular(self.out.weight), self.out.bias)
        named = self.named.weight / largest_singular(self.named.weight)
        return plain[:, 0] + (named[labels] * seen).sum(1)


def largest_singular(matrix: torch.Tensor) -> torch.Tensor:
    """The largest singular value by power iteration, from the same start each time: no state to keep."""
    with torch.no_grad():
        held = matrix.detach().float()
        right = torch.cos(torch.arange(held.shape[1], dtype=torch.float32))
        left = held @ right
        for _ in range(POWER_STEPS):
            left = functional.normalize(held @ right, dim=0)
            right = functional.normalize(held.T @ left, dim=0)
    return torch.dot(left, matrix.float() @ right).clamp_min(1e-6)


def changed(pictures: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, a shift by up to an eighth, and a square left out. chance: (n, 6) from 0 to 1."""
    n, _, side, _ = pictures.shape
    light = chance[:, 0].view(n, 1, 1, 1) - 0.5
    mean = pictures.mean((1, 2, 3), keepdim=True)
    lit = (pictures - mean) * (chance[:, 1].view(n, 1, 1, 1) + 0.5) + mean + light
    most = max(1, side // 8)
    padded = functional.pad(lit, (most,) * 4)
    row = (chance[:, 2] * (2 * most + 1)).long().clamp_max(2 * most)
    column = (chance[:, 3] * (2 * most + 1)).long().clamp_max(2 * most)
    places = torch.arange(side)
    rows, columns = row[:, None] + places, column[:, None] + places
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    hole = side // 3
    top, left = ((chance[:, i] * side).long() - hole // 2 for i in (4, 5))
    inside = ((places >= top[:, None]) & (places < top[:, None] + hole))[:, :, None] & (
        (places >= left[:, None]) & (places < left[:, None] + hole)
    )[:, None, :]
    return moved * (~inside)[:, None]

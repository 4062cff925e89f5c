"""Views of pictures with boxes to learn from: cut out, zoomed, mirrored and turned in one sampling.

A box that the view cuts is cut with it; one of which little is left is no longer there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medspectrum.engine.box_loss import Truth

if TYPE_CHECKING:
    import torch

ZOOM = (0.75, 1.5)
STRETCH = 1.12  # of one side against the other, at most
LEFT_OVER = 0.3  # of a box's area that must be seen


@dataclass(frozen=True)
class Pictured:
    """A picture to look at. pixels: (C, height, width) float16, normalised, without padding. boxes: (n, 4)
    float32 in its pixels. labels: (n,) int64.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Turning:
    """What may change. mirrored: left and right. turned: any of the eight ways to lay a picture down."""

    mirrored: bool = True
    turned: bool = False


def view(
    picture: Pictured, side: int, change: Turning | None, rng: torch.Generator
) -> tuple[torch.Tensor, Truth]:
    """(C, side, side) float32 of one picture, and its boxes there; outside of the picture it is 0.

    At zoom 1 the longer side of the picture is as long as the view. change: None shows it whole and unturned.
    """
    import torch
    import torch.nn.functional as F

    size = np.array(picture.pixels.shape[1:], float)
    height, width = size
    chance = torch.rand(8, generator=rng).double().numpy()
    scale = np.full(2, side / size.max())
    turn = np.eye(2)  # rows x, y
    if change is not None:
        low, high = np.log(ZOOM)
        stretch = math.exp((2 * chance[1] - 1) * math.log(STRETCH) / 2)
        scale = scale * math.exp(low + chance[0] * (high - low)) * np.array([stretch, 1 / stretch])
        if change.mirrored and chance[2] < 0.5:
            turn = turn * np.array([[-1.0], [1.0]])
        if change.turned:
            if chance[3] < 0.5:
                turn = turn * np.array([[1.0], [-1.0]])
            if chance[4] < 0.5:
                turn = turn[::-1]
    forward = np.diag(scale) @ turn  # source -> view, about the middles; x first
    backward = np.linalg.inv(forward)
    half = np.abs(backward) @ np.full(2, side / 2)  # the view's half extent in the source
    whole = np.array([width, height])
    room = whole - 2 * half
    shift = chance[5:7] if change is not None else np.full(2, 0.5)
    centre = np.where(room > 0, half + shift * room, whole / 2 + (shift - 0.5) * np.minimum(room, 0) * -0.5)
    theta = backward * (side / whole)[:, None]
    theta = np.concatenate([theta, (2 * centre / whole - 1)[:, None]], axis=1)
    given = torch.from_numpy(theta.astype(np.float32))[None]
    grid = F.affine_grid(given, [1, len(picture.pixels), side, side], align_corners=False)
    pixels = torch.from_numpy(picture.pixels).float()[None]
    seen = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    boxes, kept = _moved(picture.boxes, forward, centre, side)
    return seen, Truth(torch.from_numpy(boxes[kept]), torch.from_numpy(picture.labels[kept]))


def _moved(
    boxes: np.ndarray, forward: np.ndarray, centre: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) in the view, cut to it, and which of them are still there."""
    ends = [(boxes[:, [0, 1]] - centre) @ forward.T, (boxes[:, [2, 3]] - centre) @ forward.T]
    low, high = np.minimum(*ends) + side / 2, np.maximum(*ends) + side / 2
    area = (high - low).prod(axis=1)
    cut_low, cut_high = np.clip(low, 0, side), np.clip(high, 0, side)
    extent = np.maximum(cut_high - cut_low, 0)
    kept = (extent.prod(axis=1) > LEFT_OVER * area) & (extent > 1).all(axis=1)
    return np.concatenate([cut_low, cut_high], axis=1).astype(np.float32), kept

"""Does the score fall when what a map points at is taken away, and rise when only that is shown?

Petsiuk et al., "RISE", BMVC 2018: places go (deletion) or come (insertion) in the order of the map, most
important first, and the area under the score is taken. Here an order by chance, as smooth as maps are, is
what a map has to beat: bare pixels by chance would be beaten by any blob.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STEPS = 8
CHANCES = 2
_COARSE = 7


def areas(
    score: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    baseline: torch.Tensor,
    order: np.ndarray,
    *,
    channels: int,
    steps: int = STEPS,
    at_once: int = 16,
) -> tuple[float, float]:
    """(deletion, insertion): means of the score along the way, between 0 and 1.

    score: (n, ...) -> (n,) from 0 to 1. batch, baseline: (1, ...). order: importance of each place, in the
    shape of the batch less its first axis and its channels.
    """
    import torch

    flat = order.reshape(-1).astype(np.float64)
    rank = np.empty(flat.size)
    rank[np.argsort(-flat, kind="stable")] = np.arange(flat.size)
    places = torch.from_numpy((rank / flat.size).astype(np.float32).reshape(order.shape))
    places = places.unsqueeze(channels - 1)[None]
    levels = np.arange(steps + 1) / steps
    with torch.inference_mode():
        ways = ((baseline, batch), (batch, baseline))
        made = [torch.where(places < level, gone, kept) for level in levels for gone, kept in ways]
        found = [score(torch.cat(made[i : i + at_once])).float() for i in range(0, len(made), at_once)]
    along = torch.cat(found).reshape(-1, 2).double().numpy()
    area = (along[1:] + along[:-1]).mean(axis=0) / 2
    return float(area[0]), float(area[1])


def by_chance(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """An order that says nothing, as smooth as a map: noise on a coarse grid, enlarged."""
    from scipy.ndimage import zoom

    coarse = [min(_COARSE, n) for n in shape]
    noise = rng.standard_normal(coarse)
    made = zoom(
        noise, [n / c for n, c in zip(shape, coarse, strict=True)], order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(made)

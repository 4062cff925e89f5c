"""A small U-Net from scratch with a class for borders: what most have told nuclei apart with since 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from medspectrum.case import Case, Model, Task
from medspectrum.engine import small_unet
from medspectrum.methods import _apart, distance_unet
from medspectrum.registry import method


@method(
    "border_unet",
    trains="network",
    cost=3,
    restore=distance_unet.restore,
    needs_model=False,
    level="scratch",
    **_apart.facts(),
)
def border_unet(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    widths: Sequence[int] = small_unet.WIDTHS,
    mirrored: bool = False,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train a small U-Net with random weights on background, inside and border of things.

    widths: channels of its levels. mirrored: average over the picture and its mirror images. training: see
    ``_apart.Training``.
    """
    return distance_unet.from_scratch(
        cases, task, "border", seed=seed, widths=widths, mirrored=mirrored, training=training
    )

"""Adapters with a depth-wise convolution in 3-D before each block of a transformer, and a decoder.

The adapter is that of "3DSAM-adapter" (Gong et al. 2023, arXiv:2306.13465), by which slices see one another;
its attention within cubes and its own decoder are not taken over, so that any transformer on planes will do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.methods import _across, _outlined, _structure
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def in_volumes(network: Any, encoder: Encoder, *, middle: int, slices: int) -> None:
    """Freeze the network; let an adapter in 3-D before each block learn."""
    import torch

    if not _structure.is_transformer(network):
        raise UserError(f"{encoder.card.name} is no transformer; adapter_3d stands before its blocks")

    class Before(torch.nn.Module):
        """A block whose input the neighbouring slices have been added to. Tokens of no place pass by."""

        def __init__(self, block: torch.nn.Module, width: int) -> None:
            super().__init__()
            self.block = block
            self.adapter = _across.volume_adapter(width, middle or width // 2, slices)

        def forward(self, first: Any, *rest: Any, **named: Any) -> Any:
            if first.ndim == 4:
                return self.block(self.adapter(first), *rest, **named)
            side = math.isqrt(first.shape[1])
            placed = first[:, first.shape[1] - side * side :]
            seen = self.adapter(placed.unflatten(1, (side, side))).flatten(1, 2)
            return self.block(
                torch.cat([first[:, : first.shape[1] - side * side], seen], dim=1), *rest, **named
            )

    _structure.freeze(network)
    side = encoder.size[0]
    widths = _structure.widths(network, torch.zeros(1, len(encoder.card.mean), side, side))
    for name, block in _structure.stages(network).items():
        _structure.replace(network, name, Before(block, widths[name]))


@method(
    "adapter_3d",
    trains="part",
    cost=3,
    named_only=True,
    restore=functools.partial(_outlined.restore, in_volumes),
    **_outlined.FACTS,
)
def adapter_3d(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    slices: int = 5,
    middle: int = 0,
    learning_rate: float = 1e-3,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train adapters with a convolution in 3-D before the blocks, and a decoder (3DSAM-adapter's idea).

    slices: seen together. middle: width of the adapters, 0 for half the encoder's. learning_rate: peak, for
    what learns in the encoder. training: see ``_outlined.Training``.
    """
    slices = _outlined.together(cases, slices)
    return _outlined.outline(
        model,
        cases,
        task,
        in_volumes,
        structure={"middle": middle, "slices": slices},
        seed=seed,
        learning_rate=learning_rate,
        slices=slices,
        **training,
    )

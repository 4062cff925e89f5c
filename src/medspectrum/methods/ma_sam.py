"""MA-SAM: Segment Anything's image encoder with factorised deltas and adapters across slices, and a decoder.

Chen et al. 2023 (arXiv:2309.08842): query and value of every block get a low-rank delta whose outer matrices
all blocks share (FacT), and two adapters of each block convolve from slice to slice. The maps of a stack
are outlined by the decoder of the other methods instead of SAM's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.methods import _across, _outlined, _structure
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder

_DROPOUT = 0.1


def across_slices(network: Any, encoder: Encoder, *, rank: int, middle: int, slices: int) -> None:
    """Freeze the network; let shared low-rank deltas and adapters across slices learn in every block."""
    import torch
    from torch import nn

    blocks: dict[str, Any] = dict(_structure.stages(network))
    if not all(hasattr(block, "window_partition") and hasattr(block, "attn") for block in blocks.values()):
        raise UserError(
            f"{encoder.card.name} is not the image encoder of Segment Anything, which ma_sam changes; give "
            "sam:PATH, or use adapter_3d"
        )
    _structure.freeze(network)
    width = next(iter(blocks.values())).attn.qkv.in_features
    shared_in, shared_out = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
    nn.init.zeros_(shared_out.weight)

    class Factorised(nn.Module):
        """Query, key and value in one, with what the factors add to query and value."""

        def __init__(self, qkv: Any) -> None:
            super().__init__()
            self.qkv = qkv
            self.q, self.v = (nn.Linear(rank, rank, bias=False) for _ in range(2))
            self.factor_in, self.factor_out = shared_in, shared_out
            self.dropout = nn.Dropout(_DROPOUT)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = self.factor_in(x)
            query = self.factor_out(self.dropout(self.q(seen)))
            value = self.factor_out(self.dropout(self.v(seen)))
            return self.qkv(x) + torch.cat([query, torch.zeros_like(query), value], dim=-1)

    class Across(nn.Module):
        """A block between whose parts the slices see one another."""

        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block
            self.adapter, self.adapter_2 = (_across.slice_adapter(width, middle, slices) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            block = self.block
            x = self.adapter(x)
            seen, side = block.layer_norm1(x), block.window_size
            if side:
                size = seen.shape[1:3]
                seen, padded = block.window_partition(seen, side)
            seen = block.attn(hidden_states=seen)[0]
            if side:
                seen = block.window_unpartition(seen, side, padded, size)
            x = self.adapter_2(x + seen)
            return x + block.mlp(block.layer_norm2(x))

    for name, block in blocks.items():
        block.attn.qkv = Factorised(block.attn.qkv)
        _structure.replace(network, name, Across(block))


@method(
    "ma_sam",
    trains="part",
    cost=3,
    named_only=True,
    restore=functools.partial(_outlined.restore, across_slices),
    **_outlined.FACTS,
)
def ma_sam(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    slices: int = 5,
    rank: int = 32,
    middle: int = 384,
    learning_rate: float = 5e-4,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train deltas and adapters across slices in Segment Anything's encoder, and a decoder (MA-SAM).

    slices: seen together. rank: of the deltas. middle: width of the adapters. learning_rate: peak, for what
    learns in the encoder. training: see ``_outlined.Training``.
    """
    slices = _outlined.together(cases, slices)
    return _outlined.outline(
        model,
        cases,
        task,
        across_slices,
        structure={"rank": rank, "middle": middle, "slices": slices},
        seed=seed,
        learning_rate=learning_rate,
        slices=slices,
        **training,
    )

"""LoRA for outlining: low-rank deltas in the encoder and a decoder on its maps, trained together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _outlined
from medspectrum.methods.lora import low_rank
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "lora_decoder",
    trains="part",
    cost=3,
    restore=functools.partial(_outlined.restore, low_rank),
    **_outlined.FACTS,
)
def lora_decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    rank: int = 8,
    learning_rate: float = 5e-4,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train low-rank deltas of the blocks' matrices and a decoder, from the decoder alone on.

    rank: of the deltas. learning_rate: peak, for what learns in the encoder. training: see
    ``_outlined.Training``.
    """
    return _outlined.outline(
        model,
        cases,
        task,
        low_rank,
        structure={"rank": rank},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

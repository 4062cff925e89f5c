"""LoRA for detection: low-rank deltas in the encoder together with a detector on its maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _boxed
from medspectrum.methods.lora import low_rank
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "lora_detector",
    trains="part",
    cost=3,
    restore=functools.partial(_boxed.restore, low_rank),
    **_boxed.facts(_boxed.DEFAULTS),
)
def lora_detector(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    rank: int = 8,
    learning_rate: float = 1e-3,
    **training: Unpack[_boxed.Training],
) -> _boxed.BoxPredictor:
    """Train low-rank deltas of the blocks' matrices and a detector on views of the pictures.

    rank: of the deltas. learning_rate: peak, for what learns in the encoder. training: see
    ``_boxed.Training``.
    """
    return _boxed.train_jointly(
        model,
        cases,
        task,
        low_rank,
        structure={"rank": rank},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

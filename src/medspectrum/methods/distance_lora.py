"""LoRA to tell things apart: low-rank deltas in the encoder and a decoder on its maps, trained together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _apart, _apart_tuned
from medspectrum.methods.lora import low_rank
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "distance_lora",
    trains="part",
    cost=3,
    restore=functools.partial(_apart_tuned.restore, low_rank),
    **_apart_tuned.FACTS,
)
def distance_lora(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    rank: int = 8,
    encoder_learning_rate: float = 5e-4,
    mirrored: bool = True,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train low-rank deltas and a decoder on the kind of each pixel and its distance to the rim.

    rank: of the deltas. encoder_learning_rate: peak, for them; ``learning_rate`` is the decoder's. mirrored:
    average over the picture and its mirror images. training: see ``_apart.Training``.
    """
    return _apart_tuned.tune(
        model,
        cases,
        task,
        low_rank,
        structure={"rank": rank},
        seed=seed,
        encoder_learning_rate=encoder_learning_rate,
        mirrored=mirrored,
        training=training,
    )

"""Full fine-tuning to tell things apart: every weight of the encoder and a decoder on its maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _apart, _apart_tuned
from medspectrum.methods.full import everything
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "distance_full",
    trains="network",
    cost=3,
    restore=functools.partial(_apart_tuned.restore, everything),
    **_apart_tuned.FACTS,
)
def distance_full(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    encoder_learning_rate: float = 1e-4,
    mirrored: bool = True,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train every weight and a decoder on the kind of each pixel and its distance to the rim.

    encoder_learning_rate: peak, for the encoder; ``learning_rate`` is the decoder's. mirrored: average over
    the picture and its mirror images. training: see ``_apart.Training``.
    """
    return _apart_tuned.tune(
        model,
        cases,
        task,
        everything,
        structure={},
        seed=seed,
        encoder_learning_rate=encoder_learning_rate,
        mirrored=mirrored,
        training=training,
    )

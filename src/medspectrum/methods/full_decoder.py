"""Full fine-tuning for outlining: every weight of the encoder and a decoder on its maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _outlined
from medspectrum.methods.full import everything
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "full_decoder",
    trains="network",
    cost=3,
    restore=functools.partial(_outlined.restore, everything),
    **_outlined.FACTS,
)
def full_decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 1e-4,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train every weight and a decoder, from the decoder alone on.

    learning_rate: peak, for what learns in the encoder. training: see ``_outlined.Training``.
    """
    return _outlined.outline(
        model,
        cases,
        task,
        everything,
        structure={},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

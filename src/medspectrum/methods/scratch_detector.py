"""Detection from scratch: the same network with random weights, what pretraining is measured against."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _boxed
from medspectrum.methods.scratch import redrawn
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder

LONGER: _boxed.Training = {**_boxed.DEFAULTS, "epochs": 60.0, "least_steps": 150, "most_steps": 1600}


@method(
    "scratch_detector",
    trains="network",
    cost=3,
    restore=functools.partial(_boxed.restore, redrawn),
    level="scratch",
    **_boxed.facts(LONGER),
)
def scratch_detector(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 1e-3,
    **training: Unpack[_boxed.Training],
) -> _boxed.BoxPredictor:
    """Train the network and a detector from random weights; longer, batch normalisation included.

    learning_rate: peak, for what learns in the encoder. training: see ``_boxed.Training``.
    """
    return _boxed.train_jointly(
        model,
        cases,
        task,
        redrawn,
        structure={"weights_seed": seed},
        seed=seed,
        learning_rate=learning_rate,
        frozen_statistics=False,
        **{**LONGER, **training},
    )

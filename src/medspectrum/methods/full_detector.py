"""Full fine-tuning for detection: the encoder's weights together with a detector on its maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _boxed, _structure
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


HELD_STAGES = 2


def later_stages(network: Any, encoder: Encoder, *, held_stages: int) -> None:  # noqa: ARG001
    """Let every weight learn but those of the first stages."""
    _structure.all_but_first(network, held_stages)


@method(
    "full_detector",
    trains="network",
    cost=3,
    restore=functools.partial(_boxed.restore, later_stages),
    **_boxed.facts(_boxed.DEFAULTS),
)
def full_detector(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    held_stages: int = HELD_STAGES,
    learning_rate: float = 5e-4,
    **training: Unpack[_boxed.Training],
) -> _boxed.BoxPredictor:
    """Train the encoder's weights and a detector on views of the pictures; batch statistics stay.

    held_stages: stages at the front that stay as they are, where pictures are large and edges are edges; 0
    trains them too. learning_rate: peak, for what learns in the encoder. training: see ``_boxed.Training``.
    """
    return _boxed.train_jointly(
        model,
        cases,
        task,
        later_stages,
        structure={"held_stages": held_stages},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

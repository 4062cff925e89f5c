"""Full fine-tuning that starts from the linear probe (LP-FT; Kumar et al., ICLR 2022)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def everything(network: Any, encoder: Encoder) -> None:  # noqa: ARG001
    """Let every weight learn."""
    for parameter in network.parameters():
        parameter.requires_grad_(True)


@method(
    "full",
    trains="network",
    cost=3,
    restore=functools.partial(_tuned.restore, everything),
    **_tuned.FACTS,
)
def full(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 5e-5,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train every weight and the head; batch normalisation keeps its statistics.

    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    return _tuned.tune(
        model, cases, task, everything, structure={}, seed=seed, learning_rate=learning_rate, **training
    )

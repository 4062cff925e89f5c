"""Training from scratch: the same network with random weights, what pretraining is measured against."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def redrawn(network: Any, encoder: Encoder, *, weights_seed: int) -> None:
    """Give the network the weights of the encoder's random twin."""
    network.load_state_dict(encoder.twin(weights_seed).network().state_dict())
    for parameter in network.parameters():
        parameter.requires_grad_(True)


LONGER: _tuned.Training = {"epochs": 12.0, "least_steps": 60, "most_steps": 600, "weight_decay": 0.05}


@method(
    "scratch",
    trains="network",
    cost=3,
    restore=functools.partial(_tuned.restore, redrawn),
    **_tuned.facts(**LONGER),
)
def scratch(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 1e-3,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train the network from random weights; longer than fine-tuning, batch normalisation included.

    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    chosen: _tuned.Training = {**LONGER, **training}
    return _tuned.tune(
        model,
        cases,
        task,
        redrawn,
        structure={"weights_seed": seed},
        seed=seed,
        learning_rate=learning_rate,
        from_probe=False,
        frozen_statistics=False,
        **chosen,
    )

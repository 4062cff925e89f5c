"""BitFit: only the biases learn (Ben Zaken et al., ACL 2022)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _structure, _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def biases(network: Any, encoder: Encoder) -> None:  # noqa: ARG001 - every change takes the encoder
    """Let the biases learn, and nothing else."""
    _structure.freeze(network)
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.requires_grad_(True)


@method("bitfit", trains="part", cost=2, restore=functools.partial(_tuned.restore, biases), **_tuned.FACTS)
def bitfit(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 1e-3,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train the network's biases and the head; 0.1 % of the parameters.

    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    return _tuned.tune(
        model, cases, task, biases, structure={}, seed=seed, learning_rate=learning_rate, **training
    )

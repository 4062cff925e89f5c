"""Partial fine-tuning: the last block or stage learns, what lies before it stays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _structure, _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def _end(network: Any, encoder: Encoder, *, last: int) -> None:  # noqa: ARG001
    _structure.freeze(network)
    for parameter in _structure.from_last_stage(network, last):
        parameter.requires_grad_(True)


@method("partial", trains="part", cost=2, restore=functools.partial(_tuned.restore, _end), **_tuned.FACTS)
def partial(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    last: int = 1,
    learning_rate: float = 1e-4,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train the last blocks (or stage) and the head.

    last: how many blocks or stages learn, counted from the end.
    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    return _tuned.tune(
        model, cases, task, _end, structure={"last": last}, seed=seed, learning_rate=learning_rate, **training
    )

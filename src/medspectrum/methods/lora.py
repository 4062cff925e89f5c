"""LoRA: low-rank deltas beside the linear and 1x1 convolution layers (Hu et al., ICLR 2022), by peft."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _structure, _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def low_rank(network: Any, encoder: Encoder, *, rank: int) -> None:  # noqa: ARG001
    """Freeze the network and put low-rank deltas beside the matrices of its blocks."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    _structure.freeze(network)
    rows = tuple(f"{name}." for name in _structure.stages(network))
    targets = [
        name
        for name, layer in network.named_modules()
        if name.startswith(rows)
        and (
            isinstance(layer, torch.nn.Linear)
            or (
                isinstance(layer, torch.nn.Conv2d)
                and layer.groups == 1
                and min(layer.weight.shape[:2]) > rank
            )
        )
    ]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), network)


@method("lora", trains="part", cost=2, restore=functools.partial(_tuned.restore, low_rank), **_tuned.FACTS)
def lora(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    rank: int = 8,
    learning_rate: float = 5e-4,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train low-rank deltas of the blocks' matrices and the head; merged into them for predicting.

    rank: of the deltas, which are scaled by 2.
    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    return _tuned.tune(
        model,
        cases,
        task,
        low_rank,
        structure={"rank": rank},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

"""Adapters for outlining: bottlenecks after the encoder's blocks and a decoder on its maps, trained together.

On the image encoder of Segment Anything (``sam:PATH``) this follows "Medical SAM Adapter" (Wu et al. 2023,
arXiv:2304.12620), without its prompts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _outlined
from medspectrum.methods.adapter import bottlenecks
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "adapter_decoder",
    trains="part",
    cost=3,
    restore=functools.partial(_outlined.restore, bottlenecks),
    **_outlined.FACTS,
)
def adapter_decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    bottleneck: int = 16,
    learning_rate: float = 1e-3,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train bottlenecks after the blocks and a decoder, from the decoder alone on.

    bottleneck: width of the adapters' middle. learning_rate: peak, for what learns in the encoder. training:
    see ``_outlined.Training``.
    """
    return _outlined.outline(
        model,
        cases,
        task,
        bottlenecks,
        structure={"bottleneck": bottleneck},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

"""BitFit for outlining: the encoder's biases and a decoder on its maps, trained together.

On the image encoder of Segment Anything (``sam:PATH``) this follows the bias tuning of "AdaptiveSAM"
(Paranjape et al. 2023, arXiv:2308.03726), without its words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from medspectrum.case import Case, Task
from medspectrum.methods import _outlined
from medspectrum.methods.bitfit import biases
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


@method(
    "bitfit_decoder",
    trains="part",
    cost=3,
    restore=functools.partial(_outlined.restore, biases),
    **_outlined.FACTS,
)
def bitfit_decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    learning_rate: float = 1e-3,
    **training: Unpack[_outlined.Training],
) -> _outlined.OutlinePredictor:
    """Train the encoder's biases and a decoder, from the decoder alone on.

    learning_rate: peak, for what learns in the encoder. training: see ``_outlined.Training``.
    """
    return _outlined.outline(
        model,
        cases,
        task,
        biases,
        structure={},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

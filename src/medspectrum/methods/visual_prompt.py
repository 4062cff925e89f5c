"""Visual prompts: learned tokens at every block of a transformer (Jia et al., "Visual Prompt Tuning", ECCV
2022), or a learned border of pixels for other networks (Bahng et al., 2022).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _structure, _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def _prompts(network: Any, encoder: Encoder, *, tokens: int, border: int) -> None:
    import torch

    class WithPrompt(torch.nn.Module):
        """A block that also attends to learned tokens, which end with it."""

        def __init__(self, block: torch.nn.Module, width: int) -> None:
            super().__init__()
            self.block = block
            self.prompt = torch.nn.Parameter(0.02 * torch.randn(1, tokens, width))

        def forward(self, first: Any, *rest: Any, **named: Any) -> Any:
            count = first.shape[1]
            longer = torch.cat([first, self.prompt.expand(first.shape[0], -1, -1)], dim=1)
            given = self.block(longer, *rest, **named)
            if isinstance(given, tuple):
                return (given[0][:, :count], *given[1:])
            return given[:, :count]

    class Frame(torch.nn.Module):
        """Adds learned pixels along the picture's edges."""

        def __init__(self, channels: int, side: int) -> None:
            super().__init__()
            wide = min(border, side // 4)
            self.edges = torch.nn.Parameter(torch.zeros(4, channels, wide, side))

        def forward(self, batch: Any) -> Any:
            wide, side = self.edges.shape[2:]
            rest = (0, 0, 0, side - wide)
            top, bottom, left, right = (torch.nn.functional.pad(e, rest) for e in self.edges)
            return batch + (top + bottom.flip(1) + left.transpose(1, 2) + right.transpose(1, 2).flip(2))

    _structure.freeze(network)
    if _structure.is_transformer(network):
        side = encoder.size[0]
        widths = _structure.widths(network, torch.zeros(1, len(encoder.card.mean), side, side))
        for name, block in _structure.stages(network).items():
            _structure.replace(network, name, WithPrompt(block, widths[name]))
    else:
        network.frame = Frame(len(encoder.card.mean), encoder.size[0])
        network.register_forward_pre_hook(_framed)


def _framed(network: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pass the pictures through the frame first. A module-level function, so that copies use their own."""
    return (network.frame(inputs[0]), *inputs[1:])


@method(
    "visual_prompt",
    trains="part",
    cost=2,
    restore=functools.partial(_tuned.restore, _prompts),
    **_tuned.FACTS,
)
def visual_prompt(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    tokens: int = 8,
    border: int = 8,
    learning_rate: float = 5e-3,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train prompt tokens (or a border of pixels) and the head; no weight of the network changes.

    tokens: prompts at each block of a transformer. border: pixels along each edge, for other networks.
    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    still: _tuned.Training = {"weight_decay": 0.0}
    return _tuned.tune(
        model,
        cases,
        task,
        _prompts,
        structure={"tokens": tokens, "border": border},
        seed=seed,
        learning_rate=learning_rate,
        **{**still, **training},
    )

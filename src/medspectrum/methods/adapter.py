"""Bottleneck adapters after each block or stage (Houlsby et al., ICML 2019)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from medspectrum.case import Case, Predictor, Task
from medspectrum.methods import _structure, _tuned
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder


def bottlenecks(network: Any, encoder: Encoder, *, bottleneck: int) -> None:
    """Let a bottleneck after each block learn, and nothing else."""
    import torch

    class WithAdapter(torch.nn.Module):
        """A block, and what a bottleneck adds to its output: nothing at first."""

        def __init__(self, block: torch.nn.Module, width: int) -> None:
            super().__init__()
            self.block = block
            self.last = _structure.ends_in_channels(block)
            self.norm = torch.nn.GroupNorm(1, width)
            self.down = torch.nn.Linear(width, bottleneck)
            self.up = torch.nn.Linear(bottleneck, width)
            torch.nn.init.zeros_(self.up.weight)
            torch.nn.init.zeros_(self.up.bias)

        def forward(self, first: Any, *rest: Any, **named: Any) -> Any:
            given = self.block(first, *rest, **named)
            output = given[0] if isinstance(given, tuple) else given
            if (
                output.ndim == 4 and not self.last
            ):  # channels first: to the end, where a linear layer reads them
                normed = self.norm(output).permute(0, 2, 3, 1)
                added = self.up(torch.nn.functional.gelu(self.down(normed))).permute(0, 3, 1, 2)
            else:
                normed = torch.nn.functional.layer_norm(
                    output, output.shape[-1:], self.norm.weight, self.norm.bias
                )
                added = self.up(torch.nn.functional.gelu(self.down(normed)))
            return (output + added, *given[1:]) if isinstance(given, tuple) else output + added

    _structure.freeze(network)
    side = encoder.size[0]
    widths = _structure.widths(network, torch.zeros(1, len(encoder.card.mean), side, side))
    for name, block in _structure.stages(network).items():
        _structure.replace(network, name, WithAdapter(block, widths[name]))


@method(
    "adapter",
    trains="part",
    cost=2,
    restore=functools.partial(_tuned.restore, bottlenecks),
    **_tuned.FACTS,
)
def adapter(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    bottleneck: int = 16,
    learning_rate: float = 1e-3,
    **training: Unpack[_tuned.Training],
) -> Predictor:
    """Train small bottlenecks after the blocks and the head; the network itself stays as it is.

    bottleneck: width of the adapters' middle.
    learning_rate: peak, for what learns in the network. training: see ``_tuned.Training``.
    """
    return _tuned.tune(
        model,
        cases,
        task,
        bottlenecks,
        structure={"bottleneck": bottleneck},
        seed=seed,
        learning_rate=learning_rate,
        **training,
    )

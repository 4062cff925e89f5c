"""What a network computes on the way, with a place in the picture: maps of convolutions, tokens of blocks.

Nothing is asked of a network but that it is a ``torch.nn.Module``: every part is listened to while one batch
runs. Parts that stand in a row (``Sequential``, ``ModuleList``) and give tokens of one shape are the blocks
of a transformer; otherwise, the last part at each resolution ends a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_PREFIX_TOKENS = 17  # a class token and registers
LEAST_SIDE = 2


@dataclass(frozen=True)
class Stage:
    """One place to look. values, gradient: (n, c, ...) over a grid, or (n, t, c) tokens of which the last
    ``height x width`` lie on a grid (``grid``); gradient None where the score does not hang on it.
    """

    name: str
    values: torch.Tensor
    grid: tuple[int, int] | None
    gradient: torch.Tensor | None = None

    def on_grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and gradient, each (n, c, ...) over places; a missing gradient is zero."""
        import torch

        gradient = torch.zeros_like(self.values) if self.gradient is None else self.gradient
        both = []
        for part in (self.values, gradient):
            part = part.detach()
            if self.grid is not None:
                height, width = self.grid
                part = part[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
            both.append(part)
        return both[0], both[1]


def looked_at(
    network: Any, run: Callable[[], torch.Tensor], pictures: int, axes: int
) -> tuple[list[Stage], bool]:
    """The stages of a network, in the order they are computed, with gradients; and whether it has blocks.

    run: runs it on ``pictures`` pictures (or volumes, axes 3) and gives one number, the score to explain.
    """
    import torch

    found: list[tuple[str, Any, Any]] = []
    in_a_row = _in_a_row(network)

    def listener(name: str) -> Callable[..., None]:
        def heard(module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
            output = output[0] if isinstance(output, tuple) and output else output
            if torch.is_tensor(output) and output.shape[:1] == (pictures,) and output.requires_grad:
                found.append((name, output, in_a_row.get(name)))

        return heard

    hooks = [part.register_forward_hook(listener(name)) for name, part in network.named_modules() if name]
    try:
        with torch.enable_grad():
            score = run()
            blocks = _blocks(found)
            stages = blocks or _stages(found, axes)
            gradients = (
                torch.autograd.grad(score, [s.values for s in stages], allow_unused=True) if stages else ()
            )
    finally:
        for hook in hooks:
            hook.remove()
    kept = [
        Stage(s.name, s.values.detach(), s.grid, None if g is None else g.detach())
        for s, g in zip(stages, gradients, strict=True)
    ]
    return kept, bool(blocks)


def _in_a_row(network: Any) -> dict[str, str]:
    """The name of the row that a part stands in, by the part's name."""
    from torch import nn

    rows: dict[str, str] = {}
    for name, part in network.named_modules():
        if isinstance(part, nn.ModuleList | nn.Sequential):
            for child, _ in part.named_children():
                rows[f"{name}.{child}" if name else child] = name
    return rows


def _blocks(found: list[tuple[str, Any, Any]]) -> list[Stage]:
    """The longest row of parts whose tokens have one shape and lie on a square grid.

    Each is looked at as the next one takes it in, after its norm: in what blocks hand on, a few tokens are so
    large that their product with any gradient hides the others.
    """
    rows: dict[tuple[str, tuple[int, ...]], list[tuple[str, Any]]] = {}
    for name, values, row in found:
        if row is not None and values.ndim == 3:
            rows.setdefault((row, tuple(values.shape)), []).append((name, values))
    longest = max(rows.values(), key=len, default=[])
    if len(longest) < 2:
        return []
    grid = token_grid(longest[0][1].shape[1])
    if grid is None:
        return []
    shape = longest[0][1].shape
    stages = []
    for (name, values), (following, _) in zip(longest, [*longest[1:], ("", None)], strict=True):
        begun = (v for n, v, _ in found if following and n.startswith(f"{following}.") and v.shape == shape)
        stages.append(Stage(name, next(begun, values), grid))
    return stages


def token_grid(tokens: int) -> tuple[int, int] | None:
    """(height, width) of the square that so many tokens fill, but for a few before it; None for none."""
    side = math.isqrt(tokens)
    fits = side >= LEAST_SIDE and tokens - side * side <= MOST_PREFIX_TOKENS
    return (side, side) if fits else None


def _stages(found: list[tuple[str, Any, Any]], axes: int) -> list[Stage]:
    """The last part of a row at each resolution, and the last part of all; fine to coarse."""
    spatial = [
        (name, values, row)
        for name, values, row in found
        if values.ndim == 2 + axes and min(values.shape[2:]) >= LEAST_SIDE
    ]
    if not spatial:
        return []
    chosen: dict[tuple[int, ...], tuple[str, Any]] = {}
    for name, values, row in spatial:
        if row is not None:
            chosen[tuple(values.shape[2:])] = (name, values)
    name, values, _ = spatial[-1]
    chosen[tuple(values.shape[2:])] = (name, values)
    order = sorted(chosen.items(), key=lambda pair: -math.prod(pair[0]))
    return [Stage(name, values, None) for _, (name, values) in order]

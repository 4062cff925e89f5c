"""What is read off a network: one vector, the token grid, or maps at several scales."""

from __future__ import annotations

from typing import Any

from medspectrum.errors import UserError

LEVELS = ("pooled", "tokens", "maps")
TOGETHER = "+"
_MAPS_OF_A_TRANSFORMER = 4


def read(network: Any, batch: Any, level: str) -> tuple[Any, ...]:
    """Features of a batch (n, C, ...): a tuple of tensors, one unless the level is ``maps``.

    pooled: (n, d), what ``network(batch)`` gives. tokens: (n, d, h, w). maps: fine to coarse,
    each (n, c, h, w); of a plain transformer, four evenly spaced blocks at one scale.
    A network with a method ``read_level(batch, level)`` answers by itself; others are asked in the
    way of timm (``forward_features``, ``forward_intermediates``).
    Several levels joined by ``+`` are read one after the other, and their parts follow each other.
    Raises UserError where the network has no such level.
    """
    if TOGETHER in level:
        return tuple(part for one in level.split(TOGETHER) for part in read(network, batch, one))
    if level not in LEVELS:
        raise UserError(f"there is no level {level!r} of features; there are {', '.join(LEVELS)}")
    own = getattr(network, "read_level", None)
    if own is not None:
        return tuple(own(batch, level))
    if level == "pooled":
        return (network(batch),)
    if level == "tokens":
        final = network.forward_features(batch)
        if final.ndim == 4 and final.shape[1] == network.num_features:
            return (final,)
        return (_intermediates(network, batch, indices=1, norm=True)[-1],)
    blocks = getattr(network, "blocks", None)
    depth = len(blocks) if blocks is not None and hasattr(network, "patch_embed") else 0
    places = None
    if depth:
        step = depth / _MAPS_OF_A_TRANSFORMER
        places = sorted({max(0, round((i + 1) * step) - 1) for i in range(_MAPS_OF_A_TRANSFORMER)})
    return tuple(_intermediates(network, batch, indices=places))


def _intermediates(network: Any, batch: Any, **settings: Any) -> list[Any]:
    ask = getattr(network, "forward_intermediates", None)
    if ask is None:
        raise UserError(f"{type(network).__name__} gives no token grid or maps; ask for pooled features")
    return ask(batch, intermediates_only=True, output_fmt="NCHW", **settings)


def level_module(network: Any, level: str) -> Any:
    """The network as a ``torch.nn.Module`` whose forward is ``read`` at that level."""
    import torch

    class Level(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, batch: Any) -> Any:
            parts: Any = read(self.network, batch, level)
            return parts if len(parts) > 1 else parts[0]

    return Level().eval()

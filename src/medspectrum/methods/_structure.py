"""Where a network can be held: its blocks or stages, what comes last, what its layers give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medspectrum.errors import UserError

if TYPE_CHECKING:
    import torch

# how published networks name their row of blocks: timm and DINOv2, ConvNeXt and RegNet, transformers, Swin
ROWS = ("blocks", "stages", "layer", "layers")


def stages(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The blocks of a transformer or the stages of a convolutional network, by full name, in their order."""
    import torch

    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        for row in ROWS:
            found = getattr(module, row, None)
            if isinstance(found, torch.nn.ModuleList | torch.nn.Sequential) and len(found) >= 2:
                return {f"{prefix}{row}.{i}": block for i, block in enumerate(found)}
        numbered = [n for n, _ in module.named_children() if n.startswith("layer") and n[5:].isdigit()]
        if len(numbered) >= 2:
            return {f"{prefix}{n}": getattr(module, n) for n in numbered}
    parts = {n: m for n, m in network.named_children() if any(True for _ in m.parameters())}
    if not parts:
        raise UserError(
            f"{type(network).__name__} has no parts to adapt; use a head method such as linear_probe"
        )
    return parts


def is_transformer(network: torch.nn.Module) -> bool:
    """True where the blocks pass tokens (n, tokens, width) along: they hold no convolution."""
    return ends_in_channels(next(iter(stages(network).values())))


def ends_in_channels(block: torch.nn.Module) -> bool:
    """True where a block's channels are its output's last axis: it holds no convolution.

    So in transformers on tokens, and in those on a grid (n, height, width, channels) as Segment Anything's.
    """
    import torch

    kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
    return not any(isinstance(m, kinds) for m in block.modules())


def widths(network: torch.nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Channels that each block or stage gives, seen by running the example once."""
    import torch

    found: dict[str, int] = {}
    handles = []

    def look(name: str) -> Any:
        def hook(block: torch.nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            found[name] = first.shape[-1] if first.ndim == 3 or ends_in_channels(block) else first.shape[1]

        return hook

    for name, block in stages(network).items():
        handles.append(block.register_forward_hook(look(name)))
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return found


def replace(network: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
    """Put another module in a part's place."""
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent).add_module(child, part)


def freeze(network: torch.nn.Module) -> None:
    """No parameter learns from here on."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def from_last_stage(network: torch.nn.Module, count: int = 1) -> list[torch.nn.Parameter]:
    """Parameters of the last ``count`` blocks or stages and of all that is defined after them."""
    names = list(stages(network))
    first = f"{names[-min(count, len(names))]}."
    found: list[torch.nn.Parameter] = []
    begun = False
    for name, parameter in network.named_parameters():
        begun = begun or name.startswith(first)
        if begun:
            found.append(parameter)
    return found


def all_but_first(network: torch.nn.Module, count: int) -> None:
    """Let everything learn but the first ``count`` blocks or stages and what comes before them."""
    learn = {id(p) for p in network.parameters()}
    if count:
        names = list(stages(network))
        after = len(names) - min(count, len(names))
        learn = {id(p) for p in from_last_stage(network, after)} if after else set()
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in learn)


def merged(module: torch.nn.Module) -> torch.nn.Module:
    """A copy for predicting, with low-rank deltas added into the layers they belong to."""
    import copy
    import sys

    alone = copy.deepcopy(module)
    if "peft" in sys.modules:
        from peft.tuners.lora.layer import LoraLayer

        held = [(n, m) for n, m in alone.named_modules() if isinstance(m, LoraLayer)]
        for name, layer in held:
            layer.merge()  # type: ignore[operator]
            replace(alone, name, layer.get_base_layer())
    return alone

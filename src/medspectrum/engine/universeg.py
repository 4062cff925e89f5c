"""UniverSeg: a picture is outlined as the pictures of a support set were, without any training.

The network of Butoi et al. 2023 (arXiv:2304.06131), with the paper's names and the published keys, so that
its checkpoint loads as it is. A cross-convolution convolves the target joined with each support picture;
since that is linear, the target's part is computed once and added to every support's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from medspectrum.errors import UnreadableFile

SIDE = 128
"""Pixels of the square that the published weights were trained on."""

Widths = tuple[tuple[int, int], ...]
"""Of each block: channels of its cross-convolution, and of the convolutions after it."""


@lru_cache(maxsize=1)
def _parts() -> Any:
    """The network's class; torch is imported when it is first asked for."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class CrossConv2d(nn.Conv2d):
        """(B, 1, C, H, W) and (B, S, D, H, W) -> (B, S, E, H, W): the target joined with each support."""

        def forward(self, target: torch.Tensor, support: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            batch, count = support.shape[:2]
            own, theirs = self.weight.split([target.shape[2], support.shape[2]], dim=1)
            once = F.conv2d(target[:, 0], own, self.bias, padding=self.padding)
            each = F.conv2d(support.flatten(0, 1), theirs, padding=self.padding)
            return once[:, None] + each.unflatten(0, (batch, count))

    class CrossOp(nn.Module):
        """The cross-convolution; the target's new features are the mean over the supports."""

        def __init__(self, channels: int, out: int) -> None:
            super().__init__()
            self.cross_conv = CrossConv2d(channels, out, 3, padding=1)

        def forward(self, target: torch.Tensor, support: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            joined = self.cross_conv(target, support)
            return joined.mean(dim=1, keepdim=True), joined

    class ConvOp(nn.Module):
        """A convolution and, where asked, a leaky rectifier."""

        def __init__(self, channels: int, out: int, size: int = 3, *, rectified: bool = True) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, out, size, padding=size // 2)
            self.rectified = rectified

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            made = self.conv(given)
            return F.leaky_relu(made) if self.rectified else made

    class Vmap(nn.Module):
        """The same for every picture of a set, (B, S, C, H, W)."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.vmapped = inner

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return self.vmapped(given.flatten(0, 1)).unflatten(0, given.shape[:2])

    class CrossBlock(nn.Module):
        """Target and supports look at one another, then each goes its own way."""

        def __init__(self, channels: int, cross: int, conv: int) -> None:
            super().__init__()
            self.cross = CrossOp(channels, cross)
            self.target = Vmap(ConvOp(cross, conv))
            self.support = Vmap(ConvOp(cross, conv))

        def forward(self, target: torch.Tensor, support: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            target, support = self.cross(target, support)
            return self.target(target), self.support(support)

    class UniverSeg(nn.Module):
        """Target (B, 1, H, W), support images and labels (B, S, 1, H, W), in 0-1 -> logits (B, 1, H, W)."""

        def __init__(self, encoder: Widths, decoder: Widths) -> None:
            super().__init__()
            self.enc_blocks, self.dec_blocks = nn.ModuleList(), nn.ModuleList()
            into, skipped = 3, []
            for cross, conv in encoder:  # the first block sees one channel of the target, two of a support
                self.enc_blocks.append(CrossBlock(into, cross, conv))
                into = 2 * conv
                skipped.append(conv)
            last = encoder[-1][1]
            for (cross, conv), skip in zip(decoder, skipped[-2::-1], strict=True):
                self.dec_blocks.append(CrossBlock(2 * (last + skip), cross, conv))
                last = conv
            self.out_conv = ConvOp(last, 1, 1, rectified=False)

        def forward(self, target: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            target, support = target[:, None], torch.cat([images, labels], dim=2)
            passed = []
            for place, block in enumerate(self.enc_blocks):
                target, support = block(target, support)
                if place < len(self.enc_blocks) - 1:
                    passed.append((target, support))
                    target, support = _halved(target), _halved(support)
            for block in self.dec_blocks:
                earlier = passed.pop()
                target, support = (
                    torch.cat([_doubled(given), skip], dim=2)
                    for given, skip in zip((target, support), earlier, strict=True)
                )
                target, support = block(target, support)
            return self.out_conv(target[:, 0])

    def _halved(given: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(given.flatten(0, 1), 2).unflatten(0, given.shape[:2])

    def _doubled(given: torch.Tensor) -> torch.Tensor:
        made = F.interpolate(given.flatten(0, 1), scale_factor=2, mode="bilinear", align_corners=True)
        return made.unflatten(0, given.shape[:2])

    return UniverSeg


def network(encoder: Widths, decoder: Widths | None = None) -> Any:
    """The network with weights at random; the published one has four blocks of (64, 64)."""
    return _parts()(encoder, encoder[-2::-1] if decoder is None else decoder)


def loaded(state: Mapping[str, Any], source: object) -> Any:
    """The network that those weights are of, eval mode, float32. Raises UnreadableFile for others."""
    widths: dict[str, list[tuple[int, int]]] = {"enc_blocks": [], "dec_blocks": []}
    for kind, found in widths.items():
        while (key := f"{kind}.{len(found)}.cross.cross_conv.weight") in state:
            conv = state.get(f"{kind}.{len(found)}.target.vmapped.conv.weight")
            if conv is None:
                break
            found.append((int(state[key].shape[0]), int(conv.shape[0])))
    encoder, decoder = (tuple(widths[kind]) for kind in ("enc_blocks", "dec_blocks"))
    if len(encoder) < 1 or len(decoder) != len(encoder) - 1:
        raise UnreadableFile(
            source,
            "these weights are not of UniverSeg (no pairs of enc_blocks and dec_blocks); give its file",
        )
    made = network(encoder, decoder)
    own = made.state_dict()
    differ = [f"{k} is missing" for k in own if k not in state]
    differ += [f"{k} is unknown to it" for k in state if k not in own]
    differ += [f"{k} has another shape" for k in own if k in state and state[k].shape != own[k].shape]
    if differ:
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UnreadableFile(
            source, f"these weights are not of UniverSeg: {'; '.join(differ[:3])}{more}; copy its file again"
        )
    made.load_state_dict({k: v.float() for k, v in state.items()})
    return made.eval()

"""Maps by name: each says where in the pictures a case's score comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from medspectrum.engine.attribution import attention, cams, inputs, layers

if TYPE_CHECKING:
    import torch

    from medspectrum.saliency.seen import Seen

NEEDS_STAGES = ("grad_cam", "hires_cam", "layer_cam")
NEEDS_BLOCKS = ("attention_rollout", "attention_relevance")
NEEDS_INPUT = ("integrated_gradients", "occlusion")
LEAST_PLACES = 7
METHODS = (*NEEDS_STAGES, *NEEDS_BLOCKS, *NEEDS_INPUT)
NAMES = {
    "grad_cam": "Grad-CAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "attention_rollout": "attention rollout",
    "attention_relevance": "attention relevance",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}


@dataclass
class Maps:
    """The maps of one case; what several of them need is computed once."""

    seen: Seen
    baseline: torch.Tensor | None = None
    _attention: tuple[list[torch.Tensor], list[torch.Tensor]] | None = field(default=None, repr=False)

    @cached_property
    def looked(self) -> tuple[list[layers.Stage], bool]:
        """The network's stages with gradients, and whether they are a transformer's blocks."""
        seen = self.seen
        if seen.network is None:
            return [], False
        pictures = int(seen.batch.shape[1])
        batch = seen.batch.clone().requires_grad_(True)
        return layers.looked_at(
            seen.network, lambda: seen.score(batch)[0], pictures, axes=seen.batch.ndim - 3
        )

    @cached_property
    def plain(self) -> torch.Tensor:
        """What covers a place: the case without detail."""
        return (
            inputs.blurred(self.seen.batch, axes=self.seen.batch.ndim - 3)
            if self.baseline is None
            else self.baseline
        )

    def possible(self) -> list[str]:
        """The methods that this network allows."""
        stages, blocks = self.looked
        found: list[str] = list(NEEDS_STAGES if stages else ())
        if blocks and self._caught()[0]:
            found += NEEDS_BLOCKS
        return [*found, *NEEDS_INPUT]

    def map(self, method: str) -> np.ndarray:
        """(p, side, side) float32 over what the network saw, not negative."""
        import torch.nn.functional as F

        make: dict[str, Callable[[], torch.Tensor]] = {
            "grad_cam": lambda: cams.grad_cam(self._last()),
            "hires_cam": lambda: cams.hires_cam(self._last()),
            "layer_cam": lambda: cams.layer_cam(self._spread()),
            "attention_rollout": lambda: attention.rollout(self._caught()[0], self._read()),
            "attention_relevance": lambda: attention.relevance(*self._caught(), self._read()),
            "integrated_gradients": self._integrated,
            "occlusion": self._occlusion,
        }
        found = make[method]().float()
        size = tuple(self.seen.batch.shape[3:])
        if tuple(found.shape[1:]) != size:
            mode = "bilinear" if len(size) == 2 else "trilinear"
            found = F.interpolate(found[:, None], size, mode=mode, align_corners=False)[:, 0]
        return found.numpy().astype(np.float32)

    def _last(self) -> layers.Stage:
        """The last stage that still tells seven places along each side apart, as at the size that networks
        were made for; of blocks the one before the last, beyond which only the class token is read.
        """
        stages, blocks = self.looked
        if blocks:
            return stages[-2]
        fine = [s for s in stages if min(s.values.shape[2:]) >= LEAST_PLACES]
        return fine[-1] if fine else stages[0]

    def _spread(self) -> Sequence[layers.Stage]:
        """The stages that LayerCAM joins: all but the finest two; of blocks, the later half but the last."""
        stages, blocks = self.looked
        if blocks:
            return stages[len(stages) // 2 : -1] or stages[-2:-1]
        return stages[2:] if len(stages) > 3 else stages[-2:]

    def _read(self) -> torch.Tensor:
        """(n, t) how much the score hangs on each of the last tokens."""
        import torch

        last = self.looked[0][-1]
        gradient = torch.zeros_like(last.values) if last.gradient is None else last.gradient
        length = gradient.norm(dim=2)
        return length / length.sum(1, keepdim=True).clamp_min(1e-12)

    def _caught(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Each block's attention and the score's gradient by it."""
        import torch

        if self._attention is None:
            seen = self.seen
            batch = seen.batch.clone().requires_grad_(True)
            score, held = attention.caught(lambda: seen.score(batch)[0])
            found = torch.autograd.grad(score, held, allow_unused=True) if held else ()
            gradients = [torch.zeros_like(a) if g is None else g for a, g in zip(held, found, strict=True)]
            tokens = self.looked[0][-1].values.shape[1] if self.looked[1] else 0
            same = [i for i, a in enumerate(held) if a.shape[-1] == tokens]
            self._attention = [held[i].detach() for i in same], [gradients[i] for i in same]
        return self._attention

    def _integrated(self) -> torch.Tensor:
        seen = self.seen
        return inputs.integrated_gradients(seen.score, seen.batch, self.plain, channels=seen.channels)[0]

    def _occlusion(self) -> torch.Tensor:
        seen = self.seen
        return inputs.occlusion(seen.score, seen.batch, self.plain, channels=seen.channels)[0]

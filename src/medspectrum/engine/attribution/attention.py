"""Maps from a transformer's attention: what its last tokens took from which patch.

* Rollout: the blocks' mean attention, half of it staying where it is, multiplied from first to last (Abnar
  and Zuidema, ACL 2020). It does not know which class is asked for.
* Relevance: attention times the score's gradient, what is positive of it, averaged over heads and added up
  along the blocks (Chefer et al., ICCV 2021, equations 5 and 6 for self-attention).

The rows read are those of the tokens that the score hangs on: the class token, or all where their mean is
the feature. Attention is caught where torch computes it, so any implementation will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medspectrum.engine.attribution.layers import token_grid

if TYPE_CHECKING:
    import torch


def caught(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What ``run`` gives, and every self-attention (n, heads, t, t) on the way, differentiable."""
    import torch
    import torch.nn.functional as F
    from torch.overrides import TorchFunctionMode

    held: list[torch.Tensor] = []
    soft = (torch.softmax, torch.Tensor.softmax, F.softmax)

    class Listening(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            settings = kwargs or {}
            if func is F.scaled_dot_product_attention:
                return self._spelt_out(*args, **settings)
            given = func(*args, **settings)
            if func in soft and given.ndim == 4 and given.shape[-1] == given.shape[-2]:
                held.append(given)
            return given

        def _spelt_out(self, q: Any, k: Any, v: Any, *rest: Any, **settings: Any) -> Any:
            mask = rest[0] if rest else settings.get("attn_mask")
            scale = settings.get("scale")
            logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
            shares = torch.exp(logits - logits.amax(-1, keepdim=True))
            shares = shares / shares.sum(-1, keepdim=True)
            if shares.ndim == 4 and shares.shape[-1] == shares.shape[-2]:
                held.append(shares)
            return shares @ v

    with torch.enable_grad(), Listening():
        given = run()
    largest = max((a.shape[-1] for a in held), default=0)
    return given, [a for a in held if a.shape[-1] == largest and a.requires_grad]


def rollout(attentions: list[torch.Tensor], read: torch.Tensor) -> torch.Tensor:
    """(n, height, width). read: (n, t) how much the score hangs on each last token, rows of sum 1."""
    import torch

    eye = torch.eye(attentions[0].shape[-1])
    joined = eye.expand(len(attentions[0]), *eye.shape)
    for each in attentions:
        kept = (each.detach().mean(1) + eye) / 2
        joined = kept @ joined
    return _of_patches((read[:, None] @ joined)[:, 0])


def relevance(
    attentions: list[torch.Tensor], gradients: list[torch.Tensor], read: torch.Tensor
) -> torch.Tensor:
    """(n, height, width). gradients: the score's, by each attention. read: as for ``rollout``."""
    import torch

    eye = torch.eye(attentions[0].shape[-1])
    joined = eye.expand(len(attentions[0]), *eye.shape)
    for each, gradient in zip(attentions, gradients, strict=True):
        joined = joined + (each.detach() * gradient).clamp_min(0).mean(1) @ joined
    own = joined - eye
    return _of_patches((read[:, None] @ own)[:, 0])


def _of_patches(tokens: torch.Tensor) -> torch.Tensor:
    grid = token_grid(tokens.shape[1])
    if grid is None:
        raise ValueError(f"{tokens.shape[1]} tokens lie on no square grid")
    height, width = grid
    return tokens[:, -height * width :].unflatten(1, (height, width)).detach()

"""What outlines are trained on: cross-entropy of each voxel beside the overlap of each label."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMOOTH = 1.0
LEAST = 1e-9  # probability


def overlap_loss(
    scores: torch.Tensor, labels: torch.Tensor, *, ignored: int = -1, marked: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy plus 1 - soft Dice (Milletari et al., 3DV 2016) averaged over the labels but background.

    scores: (n, K, ...). labels: (n, ...) int64, 0 background; voxels of ``ignored`` do not count. The overlap
    is taken over the whole batch, so that a label that is missing from one patch is no error there.

    marked: (n, K) the label that voxels of each label carry in each case, where some were not outlined by
    themselves: what the network says of those is added to the label that they carry, so that saying spleen
    where the background of a mask without spleens lies is no error (the marginal loss of Shi et al., Med.
    Image Anal. 70, 2021). None: each its own.
    """
    import torch
    import torch.nn.functional as F

    counts = labels != ignored
    known = None
    if marked is None:
        entropy = F.cross_entropy(scores, labels, ignore_index=ignored)
        likely = scores.float().softmax(dim=1)[:, 1:]
    else:
        own = scores.float().softmax(dim=1)
        places = marked.view(*marked.shape, *[1] * (scores.ndim - 2)).expand_as(own)
        whole = torch.zeros_like(own).scatter_add(1, places, own)
        entropy = F.nll_loss(whole.clamp_min(LEAST).log(), labels, ignore_index=ignored)
        likely = whole[:, 1:]
        known = (marked == torch.arange(scores.shape[1]))[:, 1:]
        known = known.view(*known.shape, *[1] * (scores.ndim - 2))
    true = F.one_hot(labels.clamp_min(0), scores.shape[1]).movedim(-1, 1)[:, 1:].to(likely.dtype)
    if not bool(counts.all()):
        weight = counts[:, None].to(likely.dtype)
        likely, true = likely * weight, true * weight
    if known is not None:
        likely, true = likely * known, true * known
    over = (0, *range(2, scores.ndim))
    shared = (likely * true).sum(dim=over)
    dice = (2 * shared + SMOOTH) / (likely.sum(dim=over) + true.sum(dim=over) + SMOOTH)
    return torch.as_tensor(entropy + 1 - dice.mean())


def deep_loss(
    scores: torch.Tensor, labels: torch.Tensor, *, marked: torch.Tensor | None = None
) -> torch.Tensor:
    """The same for a network that answers at several depths: (n, D, K, ...), each half of the one before."""
    depths = scores.shape[1]
    weights = [0.5**i for i in range(depths)]
    parts = [w * overlap_loss(scores[:, i], labels, marked=marked) for i, w in enumerate(weights)]
    return sum(parts[1:], parts[0]) / sum(weights)

"""Which places answer for which box, and what their answers cost.

The assignment is task-aligned (Feng et al., "TOOD", ICCV 2021): of the places inside a true box, those answer
for it whose score and overlap together are best by now, and their wanted score is how well they do. Scores
cost the binary cross-entropy, boxes the generalised IoU (Rezatofighi et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

CHOSEN = 10  # places at most for a box
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
BOX_WEIGHT = 2.0


class Truth(NamedTuple):
    """The true boxes of one picture: boxes (t, 4) in pixels of the input, labels (t,) int64."""

    boxes: torch.Tensor
    labels: torch.Tensor


def assign(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    places: torch.Tensor,
    strides: torch.Tensor,
    truth: Truth,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For one picture: (p,) index of each place's true box, -1 for none; (p,) wanted score; (p,) overlap.

    boxes: (p, 4), scores: (p, classes) from 0 to 1, both without gradients. A box too small to hold a place
    takes the places nearest to its middle.
    """
    import torch
    from torchvision.ops import box_iou

    p, t = len(boxes), len(truth.boxes)
    nobody = torch.full((p,), -1, dtype=torch.long)
    zero = torch.zeros(p)
    if not t:
        return nobody, zero, zero
    overlap = box_iou(truth.boxes, boxes).clamp_min(1e-6)  # (t, p)
    low, high = truth.boxes[:, None, :2], truth.boxes[:, None, 2:]
    inside = ((places[None] > low) & (places[None] < high)).all(dim=-1)
    lost = ~inside.any(dim=1)
    if bool(lost.any()):
        middle = (truth.boxes[lost, None, :2] + truth.boxes[lost, None, 2:]) / 2
        away = (places[None] - middle).abs().amax(dim=-1)
        inside[lost] = away <= strides.min()
    aligned = scores[:, truth.labels].T.pow(SCORE_POWER) * overlap.pow(OVERLAP_POWER) * inside
    top = aligned.topk(min(CHOSEN, p), dim=1)
    candidate = torch.zeros_like(inside)
    candidate.scatter_(1, top.indices, top.values > 0)
    rank = torch.where(candidate, overlap, torch.zeros_like(overlap))
    owner = rank.argmax(dim=0)
    taken = candidate.any(dim=0)
    own_aligned = torch.where(
        candidate & (owner[None] == torch.arange(t)[:, None]), aligned, torch.zeros_like(aligned)
    )
    peak = own_aligned.amax(dim=1, keepdim=True).clamp_min(1e-12)
    best = torch.where(own_aligned > 0, overlap, torch.zeros_like(overlap)).amax(dim=1, keepdim=True)
    wanted = (own_aligned / peak * best).amax(dim=0)
    owner = torch.where(taken, owner, nobody)
    return owner, torch.where(taken, wanted, zero), overlap.amax(dim=0)


def detection_loss(
    answers: tuple[torch.Tensor, ...], truths: Sequence[Truth], *, box_weight: float = BOX_WEIGHT
) -> torch.Tensor:
    """Scores and boxes of a batch against its true boxes, per wanted score. answers: see ``Answers``."""
    import torch
    import torch.nn.functional as F
    from torchvision.ops import generalized_box_iou_loss

    boxes, logits, places, strides = answers
    scores = logits.detach().sigmoid()
    wanted = torch.zeros_like(logits)
    found, true, weight = [], [], []
    for n, truth in enumerate(truths):
        owner, score, _ = assign(boxes[n].detach(), scores[n], places, strides, truth)
        rows = torch.nonzero(owner >= 0)[:, 0]
        if len(rows):
            wanted[n, rows, truth.labels[owner[rows]]] = score[rows]
            found.append(boxes[n, rows])
            true.append(truth.boxes[owner[rows]])
            weight.append(score[rows])
    total = wanted.sum().clamp_min(1.0)
    cost = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    if found:
        reach = generalized_box_iou_loss(torch.cat(found), torch.cat(true), reduction="none")
        cost = cost + box_weight * (reach * torch.cat(weight)).sum()
    return cost / total

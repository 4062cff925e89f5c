"""Losses over classes of which some are common and some are rare, and how often each class is seen.

* ``plain``: cross-entropy; every case counts the same.
* ``balanced``: cases weighted so that every class counts the same.
* ``effective``: weighted by the effective number of cases, (1 - b) / (1 - b^n) (Cui et al., CVPR 2019), with
  ``EFFECTIVE_BETA``: like balanced where a class has few cases, nearer to plain where it has many.
* ``focal``: balanced, and cases that are known already count less (Lin et al., ICCV 2017).
* ``adjusted``: the logarithm of the class's share is added to its logit while learning (Menon et al., ICLR
  2021, equation 10; the balanced softmax of Ren et al., NeurIPS 2020), which makes the decision one for
  equally common classes without weighting a rare case up.
* ``ldam``: a margin that grows as n^(-1/4) towards rare classes, and balanced weights for the second half of
  the steps (LDAM-DRW; Cao et al., NeurIPS 2019). Its margins are in logits, ``LARGEST_MARGIN`` for the rarest
  class, as the head's weights are not normalised here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

LOSSES = ("balanced", "plain", "focal", "effective", "adjusted", "ldam")
SAMPLERS = ("cases", "classes", "root")
FOCAL_GAMMA = 2.0  # the value of Lin et al.
EFFECTIVE_BETA = 0.999  # of the values in Cui et al., the one for hundreds to thousands of cases
LARGEST_MARGIN = 2.0
DEFERRED = 0.5
"""Part of the steps after which LDAM weights the classes; later would be too late, as the rate falls."""

ClassLoss = Callable[[Any, Any, float], Any]
"""(logits (n, k), class indices (n,), part of the training that is done, 0 to 1) -> the batch's loss."""


def class_loss(name: str, counts: np.ndarray, *, smoothing: float = 0.0) -> ClassLoss:
    """The loss of that name, for classes with so many training cases; smoothing of the labels, 0 to 1."""
    import torch
    import torch.nn.functional as F

    if name not in LOSSES:
        raise ValueError(f"loss {name!r} is none of {', '.join(LOSSES)}")
    weights = torch.from_numpy(weights_of(name, counts))
    known = np.maximum(counts, 1).astype(np.float64)
    share = torch.from_numpy(np.log(known / known.sum()).astype(np.float32))
    margins = torch.from_numpy((LARGEST_MARGIN * (known.min() / known) ** 0.25).astype(np.float32))

    def value(logits: Any, answer: Any, done: float) -> Any:
        # divided by the number of cases, so that a rare class's batch is not scaled back down
        if name == "adjusted":
            logits = logits + share
        elif name == "ldam":
            logits = logits - F.one_hot(answer, len(known)) * margins
        each = F.cross_entropy(logits, answer, label_smoothing=smoothing, reduction="none")
        if name == "focal":
            each = each * (1 - logits.softmax(1).gather(1, answer[:, None])[:, 0]) ** FOCAL_GAMMA
        if name in ("plain", "adjusted") or (name == "ldam" and done < DEFERRED):
            return each.mean()
        return (each * weights[answer]).mean()

    return value


def weights_of(name: str, counts: np.ndarray) -> np.ndarray:
    """(classes,) float32 weight of a case of each class, their mean over the cases 1; 0 without cases."""
    number = np.asarray(counts, dtype=np.float64)
    present = number > 0
    each = np.zeros(len(number))
    if name == "effective":
        each[present] = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA ** number[present])
    elif name == "plain":
        each[present] = 1.0
    else:
        each[present] = 1.0 / number[present]
    return (each * number.sum() / (each @ number)).astype(np.float32)


def shares(sampler: str, targets: np.ndarray) -> np.ndarray | None:
    """(n,) chances by which a step draws each case; None where every case comes once in a pass.

    cases: None. classes: every class is drawn equally often. root: with the root of its cases.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r} is none of {', '.join(SAMPLERS)}")
    if sampler == "cases":
        return None
    counts = np.bincount(targets)[targets].astype(np.float64)
    each = 1.0 / counts if sampler == "classes" else 1.0 / np.sqrt(counts)
    return each / each.sum()

"""Outlines by example, without training: each pixel takes the label of the pixels it looks like.

The labelled cases are the support set. Features of drawn pixels are whitened half way (so that no scale of
the maps outweighs the others, and noise not the rest), and a pixel's label is voted for by its nearest
neighbours among them, by cosine. Labels are drawn alike, so votes count for all labels the same; true
frequencies are given back in part, how much is seen by leaving each support pixel's own plane out and asking
the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine.threads import one_blas_thread
from medspectrum.methods import _dense
from medspectrum.methods.dense_probe import drawn, frequencies_given_back
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

PIXELS = 4000
WIDTH = 64  # dimensions kept after whitening
WHITENED = 0.25  # power of the variances divided by: 0.5 whitens wholly, 0 not at all
NEIGHBOURS = 24
SHARPNESS = 20.0  # of the vote: a neighbour at cosine c weighs exp(SHARPNESS * c)
LOOKED_AT = 64  # side of the raster that is compared, at most


def _predictor(
    model: Encoder, classes: tuple[str, ...], arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _dense.PlanePredictor:
    import torch

    mean, turn, support = (
        torch.from_numpy(arrays[n].astype(np.float32)) for n in ("mean", "turn", "support")
    )
    answers = torch.from_numpy(arrays["answers"].astype(np.int64))
    prior = torch.from_numpy(arrays["prior"].astype(np.float32))
    neighbours = min(settings["neighbours"], len(support))

    def scores(maps: list[torch.Tensor], _images: Sequence[_dense.Roles]) -> torch.Tensor:
        import torch.nn.functional as F

        side = min(max(m.shape[-1] for m in maps), LOOKED_AT)
        same = [F.interpolate(m, (side, side), mode="bilinear", align_corners=False) for m in maps]
        found = []
        for one in torch.cat(same, dim=1):
            rows = (one.flatten(1).T - mean) @ turn
            votes = _votes(F.normalize(rows, dim=1), support, answers, len(prior), neighbours)
            found.append((votes + prior).T.reshape(len(prior), side, side))
        return torch.stack(found)

    return _dense.PlanePredictor(model, classes, 0, scores, arrays, settings)


def _votes(
    rows: torch.Tensor, support: torch.Tensor, answers: torch.Tensor, labels: int, neighbours: int
) -> torch.Tensor:
    """(n, labels) logarithms of the neighbours' votes."""
    import torch

    near, places = (rows @ support.T).topk(neighbours, dim=1)
    votes = torch.full((len(rows), labels), 1e-4)
    votes.scatter_add_(1, answers[places], torch.exp(SHARPNESS * (near - near[:, :1])))
    return torch.log(votes / votes.sum(dim=1, keepdim=True))


def _restore(
    model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _dense.PlanePredictor:
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return _predictor(model, tuple(settings["classes"]), {k: np.asarray(v) for k, v in arrays.items()}, rest)


@method("dense_knn", task="segment", trains="nothing", cost=0, restore=_restore)
@one_blas_thread
def dense_knn(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    pixels: int = PIXELS,
    neighbours: int = NEIGHBOURS,
) -> _dense.PlanePredictor:
    """Give each pixel the label of the support pixels whose frozen features are nearest; trains nothing.

    pixels: how many are remembered from all labelled cases together. neighbours: that vote.
    """
    import torch
    import torch.nn.functional as F

    labels = len(task.classes) + 1
    given = _dense.labelled_planes(cases, task)
    rows, answers, sources, share = drawn(model, given, labels, pixels=pixels, seed=seed)
    mean = rows.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov((rows - mean).T.astype(np.float64)))
    kept = np.argsort(-values)[: min(WIDTH, max(1, len(rows) - 1))]
    kept = kept[values[kept] > 1e-8 * max(float(values.max()), 1e-12)]
    turn = vectors[:, kept] / values[kept] ** WHITENED
    support = F.normalize(torch.from_numpy(((rows - mean) @ turn).astype(np.float32)), dim=1)
    present = np.flatnonzero(share)
    given_back = 0.0
    prior = np.where(share > 0, 0.0, -1e4)
    if len(present) > 1 and len(np.unique(sources)) > 1:
        held = torch.from_numpy(np.asarray(answers, np.int64))
        votes = np.zeros((len(rows), labels))
        for source in np.unique(sources):
            inside = sources == source
            others = torch.from_numpy(~inside)
            own = _votes(
                support[torch.from_numpy(inside)],
                support[others],
                held[others],
                labels,
                min(neighbours, int((~inside).sum())),
            )
            votes[inside] = own.numpy()
        places = np.searchsorted(present, answers)
        given_back = frequencies_given_back(votes[:, present], places, share[present])
        prior[present] = given_back * np.log(share[present])
    arrays = {
        "mean": mean.astype(np.float32),
        "turn": turn.astype(np.float32),
        "support": support.numpy(),
        "answers": np.asarray(answers, np.uint8),
        "prior": prior.astype(np.float32),
    }
    settings = {"neighbours": neighbours, "given_back": given_back}
    return _predictor(model, tuple(task.classes), arrays, settings)

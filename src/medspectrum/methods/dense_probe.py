"""A logistic regression on the features of single pixels: what an encoder's maps know of outlines.

Pixels are drawn from the labelled cases, every label alike; the maps of all scales, sampled at the pixel,
are its features. Logits are linear in the features and sampling is linear too, so for whole planes they are
computed on each map's own grid and only then brought to the pixels. Drawing labels alike moves the
boundaries towards the rare ones; how much of the labels' true frequencies is given back is chosen by the
overlap over the drawn pixels, counted as often as they stand for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import planes
from medspectrum.engine.threads import one_blas_thread
from medspectrum.methods import _dense
from medspectrum.methods._head import Labelled
from medspectrum.methods.linear_probe import fit_logistic
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

PIXELS = 6000
"""Drawn in all; a fit on more gains little and costs in proportion."""
GIVEN_BACK = (0.0, 0.25, 0.5, 0.75, 1.0)


def drawn(
    model: Encoder, given: Sequence[_dense.Plane], labels: int, *, pixels: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, d), labels (n,), planes (n,) of drawn pixels, and each label's share of all pixels."""
    rng = np.random.default_rng([seed, 3])
    counts = np.array([np.bincount(p.labels.ravel(), minlength=labels) for p in given])
    share = counts.sum(axis=0) / counts.sum()
    present = np.flatnonzero(share)
    rows, answers, sources = [], [], []
    wanted = pixels / max(len(present), 1)
    for batch in _dense.in_batches(range(len(given))):
        maps = _dense.maps_of(model, [given[i].images for i in batch])
        for place, i in enumerate(batch):
            own = given[i].labels
            for label in present:
                ys, xs = np.nonzero(own == label)
                # in proportion to the plane's part in the label, so that no plane is drawn too often
                expected = wanted * counts[i, label] / counts[:, label].sum()
                take = min(len(ys), int(expected) + int(rng.random() < expected % 1))
                if not take:
                    continue
                chosen = rng.choice(len(ys), take, replace=False)
                where = planes.points(own.shape, model.size[-1], ys[chosen], xs[chosen])  # type: ignore[arg-type]
                parts = [planes.at_points(m[place : place + 1], where).numpy() for m in maps]
                rows.append(np.concatenate(parts, axis=1))
                answers.append(np.full(take, label))
                sources.append(np.full(take, i))
    return np.concatenate(rows), np.concatenate(answers), np.concatenate(sources), share


def _predictor(
    model: Encoder, classes: tuple[str, ...], arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _dense.PlanePredictor:
    import torch

    weights = torch.from_numpy(arrays["weights"].astype(np.float32))
    intercepts = torch.from_numpy(arrays["intercepts"].astype(np.float32))

    def scores(maps: list[torch.Tensor], _images: Sequence[_dense.Roles]) -> torch.Tensor:
        import torch.nn.functional as F

        whole = intercepts[None, :, None, None]
        begin, size = 0, maps[0].shape[-2:]
        for part in maps:
            own = weights[begin : begin + part.shape[1]]
            begin += part.shape[1]
            logits = torch.einsum("nchw,ck->nkhw", part, own)
            same = logits.shape[-2:] == size
            whole = whole + (
                logits if same else F.interpolate(logits, size, mode="bilinear", align_corners=False)
            )
        return whole

    def answer(maps: list[torch.Tensor], _pictures: torch.Tensor) -> torch.Tensor:
        return scores(maps, ())

    size = arrays["weights"].size
    return _dense.PlanePredictor(model, classes, size, scores, arrays, settings, answer=answer)


def _restore(
    model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _dense.PlanePredictor:
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return _predictor(model, tuple(settings["classes"]), {k: np.asarray(v) for k, v in arrays.items()}, rest)


@method("dense_probe", task="segment", trains="head", cost=0, restore=_restore)
@one_blas_thread
def dense_probe(
    model: Encoder, cases: Sequence[Case], task: Task, *, seed: int = 0, pixels: int = PIXELS
) -> _dense.PlanePredictor:
    """Logistic regression on the frozen feature maps of drawn pixels.

    pixels: how many are drawn from all labelled cases together.
    """
    labels = len(task.classes) + 1
    given = _dense.labelled_planes(cases, task)
    rows, answers, sources, share = drawn(model, given, labels, pixels=pixels, seed=seed)
    present, places = np.unique(answers, return_inverse=True)
    weights = np.zeros((rows.shape[1], labels))
    intercepts = np.where(share > 0, 0.0, -1e4)  # what was never labelled is never predicted
    back = 0.0
    if len(present) > 1:
        patients = [given[i].patient for i in sources]
        fitted, base, _ = fit_logistic(Labelled(rows, places, present, patients, ()), None, seed)
        if fitted.shape[1] == 1:  # two labels: the logit of the second
            weights[:, present[1]], intercepts[present[1]] = fitted[:, 0], base[0]
        else:
            weights[:, present], intercepts[present] = fitted, base
        logits = rows @ weights[:, present] + intercepts[present]
        back = frequencies_given_back(logits, places, share[present])
        intercepts[present] += back * np.log(share[present])
    arrays = {"weights": weights, "intercepts": intercepts}
    return _predictor(model, tuple(task.classes), arrays, {"given_back": back})


def frequencies_given_back(logits: np.ndarray, answers: np.ndarray, share: np.ndarray) -> float:
    """How much of the frequencies to give back: by the mean Dice of the drawn pixels at their true share."""
    weight = share[answers] / np.bincount(answers, minlength=len(share))[answers]
    best, chosen = -1.0, 0.0
    for back in GIVEN_BACK:
        called = (logits + back * np.log(share)).argmax(axis=1)
        dice = [
            2
            * weight[(called == k) & (answers == k)].sum()
            / (weight[called == k].sum() + weight[answers == k].sum())
            for k in range(1 if len(share) > 1 else 0, len(share))
        ]
        if np.mean(dice) > best:
            best, chosen = float(np.mean(dice)), back
    return chosen

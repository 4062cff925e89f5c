"""Outlines and boxes as a network sees them: the score of the region that was outlined, or of one box."""

from __future__ import annotations

from typing import Any

import numpy as np

from medspectrum.case import Case
from medspectrum.detections import Detections
from medspectrum.engine import dense_scores, planes
from medspectrum.engine.readout import level_module
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense
from medspectrum.saliency.seen import Seen, View


def largest(found: LabelMap) -> int:
    """The label (1 and on) that most is outlined of. Raises UserError where nothing is outlined."""
    counts = np.bincount(found.array().ravel())
    if len(counts) < 2 or not counts[1:].any():
        raise UserError("nothing is outlined, so there is nothing to explain")
    return int(counts[1:].argmax()) + 1


def see_outline(predictor: Any, case: Case, found: LabelMap, label: int) -> Seen:
    """The plane where most is outlined of a label, and the label's mean score over what is outlined there.

    Raises UserError where nothing is outlined of it, or where the method cannot be differentiated.
    """
    module, encoder = _module(predictor)
    cut = _dense.cuts(case)
    outlined = cut[0].cut(found.array() == label)
    place = int(outlined.sum(axis=(1, 2)).argmax())
    if not outlined[place].any():
        raise UserError("nothing is outlined of that class, so there is nothing to explain")
    side = predictor.model.size[-1]
    region = planes.onto_square(outlined[place].astype(np.int64), side, side) == 1
    if not region.any():
        raise UserError(
            "what is outlined is too small for the network's input, so its score cannot be followed"
        )
    return _seen(predictor, case, cut, place, dense_scores.of_region(module, region), encoder, label)


def see_box(predictor: Any, case: Case, found: Detections, label: int) -> Seen:
    """The plane of the surest box of a label (0 and on), and its score.

    Raises UserError where there is no such box, or where the method cannot be differentiated.
    """
    import torch

    module, encoder = _module(predictor)
    own = found.boxes[found.labels == label]
    if not len(own):
        raise UserError("no box was found, so there is nothing to explain")
    cut = _dense.cuts(case)
    axis = cut[0].axis  # of (Z, Y, X); boxes name x first
    place = int((own[0][2 - axis] + own[0][5 - axis]) / 2) if found.axes == 3 else 0
    place = min(max(place, 0), len(cut[0].planes) - 1)
    images = tuple(c.planes[place] for c in cut)
    with torch.inference_mode():
        logits = module(_dense.pictures(predictor.model, [images]))[1]
    best = int(logits[0, :, label].argmax())
    return _seen(predictor, case, cut, place, dense_scores.of_box(module, best, label), encoder, 1)


def _module(predictor: Any) -> tuple[Any, Any]:
    """(n, C, side, side) -> the network's answers, and the encoder in it."""
    own = getattr(predictor, "module", None)
    if own is not None and hasattr(own, "encoder"):
        return own, own.encoder
    answer = getattr(predictor, "answer", None)
    if answer is None and "maps" in getattr(predictor, "settings", {}) and hasattr(predictor, "network"):
        answer = dense_scores.of_chosen_maps(predictor.network, predictor.settings["maps"])
    model: Any = getattr(predictor, "model", None)
    if answer is None or getattr(model, "network", None) is None:
        raise UserError(
            "this method's answers cannot be followed back into the picture; explain takes the decoders, "
            "dense_probe and the detectors on an encoder's maps"
        )
    encoder = level_module(model.network(), _dense.LEVEL)
    return dense_scores.with_maps(encoder, answer, len(model.card.mean)), encoder


def _seen(
    predictor: Any,
    case: Case,
    cut: tuple[planes.Cut, ...],
    place: int,
    module: Any,
    encoder: Any,
    column: int,
) -> Seen:
    images = tuple(c.planes[place] for c in cut)
    batch = _dense.pictures(predictor.model, [images])[None]
    for part in module.parameters():
        part.requires_grad_(part.is_floating_point())
    roles = sorted(case.images)
    loaded = {role: case.images[role].load() for role in roles[:1]}
    views = (View(roles[0], cut[0].axis, place),)
    # of several images the encoder is run on each, so that no one stage stands for all
    network = encoder if len(roles) == 1 else None
    return Seen(case, module, network, batch, views, loaded, column, alone=True)

"""A small U-Net from scratch that learns kind and distance to the rim: things told apart by its peaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine import apart, small_unet
from medspectrum.engine.descend import Rate
from medspectrum.errors import UserError
from medspectrum.methods import _apart, _dense
from medspectrum.registry import method

SMALL_PX = 16.0


def restore(
    _model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _apart.ApartPredictor:
    """The predictor that was saved."""
    network = _network(settings)
    _apart.load_weights(network, arrays, "its network; save the predictor again")
    return _predictor(network, settings, apart.Rule(**settings["rule"]))


def _network(settings: dict[str, Any]) -> Any:
    return small_unet.small_unet(
        settings["channels"], len(settings["classes"]) + 2, widths=settings["widths"], seed=settings["seed"]
    )


def _predictor(network: Any, settings: dict[str, Any], rule: apart.Rule) -> _apart.ApartPredictor:
    network.eval()
    return _apart.ApartPredictor(
        tuple(settings["classes"]),
        sum(p.numel() for p in network.parameters()),
        _answer(network, settings),
        settings["side"],
        settings["aim"],
        rule,
        _apart.kept_arrays(network),
        settings,
    )


def _answer(network: Any, settings: dict[str, Any]) -> _apart.Answer:
    magnify = settings.get("magnify", 1)
    return _apart.mirrored_answer(
        network, lambda images: pictures(images, magnify), mirrored=settings["mirrored"]
    )


def pictures(images: Sequence[_dense.Roles], magnify: int = 1) -> Any:
    """(n, C, magnify * side, magnify * side) from -2 to 2; several roles stand along C."""
    import torch
    import torch.nn.functional as F

    rows = [np.concatenate([image.load().array[:, 0] for image in own]) for own in images]
    made = torch.from_numpy(np.stack(rows)).float() / 63.75 - 2
    if magnify > 1:
        made = F.interpolate(made, scale_factor=magnify, mode="bilinear", align_corners=False)
    return made.contiguous(memory_format=torch.channels_last)


def fitting_magnification(cases: Sequence[Case], task: Task) -> int:
    """2 where in a quarter of the cases half of the things are less than ``SMALL_PX`` across, else 1.

    What is a few pixels wide vanishes in a network that halves its maps four times.
    """
    typical = []
    for case in cases:
        things = task.target(case)
        areas = np.unique(things[things > 0], return_counts=True)[1]
        if len(areas):
            typical.append(2 * math.sqrt(float(np.median(areas)) / math.pi))
    return 2 if typical and np.percentile(typical, 25) < SMALL_PX else 1


@method(
    "distance_unet",
    trains="network",
    cost=3,
    restore=restore,
    needs_model=False,
    level="scratch",
    **_apart.facts(),
)
def distance_unet(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    widths: Sequence[int] = small_unet.WIDTHS,
    mirrored: bool = True,
    magnify: int = 0,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train a small U-Net with random weights on the kind of each pixel and its distance to the rim.

    widths: channels of its levels. mirrored: average over the picture and its mirror images. magnify: times
    that the network sees pictures larger, in tiles of as many pixels; 0 decides by the size of the labelled
    things. training: see ``_apart.Training``.
    """
    return from_scratch(
        cases,
        task,
        "distance",
        seed=seed,
        widths=widths,
        mirrored=mirrored,
        magnify=magnify,
        training=training,
    )


def from_scratch(
    cases: Sequence[Case],
    task: Task,
    aim: str,
    *,
    seed: int,
    widths: Sequence[int],
    mirrored: bool,
    magnify: int,
    training: _apart.Training,
) -> _apart.ApartPredictor:
    """Train a small U-Net with random weights for one of ``apart.AIMS``."""
    chosen: dict[str, Any] = {**_apart.DEFAULTS, **training}
    if magnify not in range(5):
        raise UserError(f"magnify is {magnify}; give 1 to 4, or 0 to decide by the labelled things")
    magnify = magnify or fitting_magnification(cases, task)
    side = _apart.side_of(task) // magnify
    if side * magnify % small_unet.multiple(widths):
        raise UserError(f"tiles of {side} pixels cannot be halved {len(widths) - 1} times; give fewer widths")
    learnt, held = _apart.hold_out(cases, seed)
    given = _apart.labelled_tiles([cases[i] for i in learnt], task, side, aim)
    settings = {
        "channels": int(pictures([given[0][0].images]).shape[1]),
        "magnify": magnify,
        "widths": list(widths),
        "mirrored": mirrored,
        "side": side,
        "aim": aim,
        "seed": seed,
        "classes": list(task.classes),
    }
    network = _network(settings)
    settings["steps"] = _apart.learn(
        network,
        given,
        lambda some: (pictures([tile.images for tile in some], magnify),),
        kinds=len(task.classes),
        aim=aim,
        rates=[Rate(list(network.parameters()), chosen["learning_rate"], chosen["weight_decay"])],
        steps=_apart.number_of_steps(len(given), chosen),
        seed=seed,
        moved=True,
    )
    network.eval()
    answer = _answer(network, settings)
    rule = _apart.chosen_rule(answer, [cases[i] for i in held], task, aim, side=side)
    return _predictor(network, settings, rule)

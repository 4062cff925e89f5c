"""A small U-Net from scratch that learns kind and distance to the rim: things told apart by its peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine import apart, small_unet
from medspectrum.engine.descend import Rate
from medspectrum.errors import UserError
from medspectrum.methods import _apart, _dense
from medspectrum.registry import method


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
        _answer(network, mirrored=settings["mirrored"]),
        settings["side"],
        settings["aim"],
        rule,
        _apart.kept_arrays(network),
        settings,
    )


def _answer(network: Any, *, mirrored: bool) -> _apart.Answer:
    return _apart.mirrored_answer(network, pictures, mirrored=mirrored)


def pictures(images: Sequence[_dense.Roles]) -> Any:
    """(n, C, side, side) from -2 to 2; several roles stand along C."""
    import torch

    rows = [np.concatenate([image.load().array[:, 0] for image in own]) for own in images]
    made = torch.from_numpy(np.stack(rows)).float() / 63.75 - 2
    return made.contiguous(memory_format=torch.channels_last)


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
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train a small U-Net with random weights on the kind of each pixel and its distance to the rim.

    widths: channels of its levels. mirrored: average over the picture and its mirror images. training: see
    ``_apart.Training``.
    """
    return from_scratch(
        cases, task, "distance", seed=seed, widths=widths, mirrored=mirrored, training=training
    )


def from_scratch(
    cases: Sequence[Case],
    task: Task,
    aim: str,
    *,
    seed: int,
    widths: Sequence[int],
    mirrored: bool,
    training: _apart.Training,
) -> _apart.ApartPredictor:
    """Train a small U-Net with random weights for one of ``apart.AIMS``."""
    chosen: dict[str, Any] = {**_apart.DEFAULTS, **training}
    side = _apart.side_of(task)
    if side % small_unet.multiple(widths):
        raise UserError(f"tiles of {side} pixels cannot be halved {len(widths) - 1} times; give fewer widths")
    learnt, held = _apart.hold_out(cases, seed)
    given = _apart.labelled_tiles([cases[i] for i in learnt], task, side, aim)
    settings = {
        "channels": int(pictures([given[0][0].images]).shape[1]),
        "widths": list(widths),
        "mirrored": mirrored,
        "side": side,
        "aim": aim,
        "seed": seed,
        "classes": list(task.classes),
        "sizes": _apart.sizes_of(cases, task),
    }
    network = _network(settings)
    settings["steps"] = _apart.learn(
        network,
        given,
        lambda some: (pictures([tile.images for tile in some]),),
        kinds=len(task.classes),
        aim=aim,
        rates=[Rate(list(network.parameters()), chosen["learning_rate"], chosen["weight_decay"])],
        steps=_apart.number_of_steps(len(given), chosen),
        seed=seed,
        moved=True,
    )
    network.eval()
    rule = _apart.chosen_rule(_answer(network, mirrored=mirrored), [cases[i] for i in held], task, aim)
    return _predictor(network, settings, rule)

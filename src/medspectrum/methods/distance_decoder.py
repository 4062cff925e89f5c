"""A light decoder on the frozen encoder's maps that learns kind and distance to the rim of things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import apart, pyramid
from medspectrum.engine.descend import Rate
from medspectrum.methods import _apart, _dense
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder

AIM = "distance"
STANDARDISED_ON = 64  # tiles
BOUND_BYTES = 4 << 30  # of maps and pictures held while training; beyond it they are read again


def network(settings: dict[str, Any], side: int) -> Any:
    """The decoder with random weights, as the settings tell."""
    return pyramid.pyramid(
        [tuple(shape) for shape in settings["shapes"]],
        side,
        len(settings["classes"]) + 2,
        image_channels=settings["image_channels"],
        seed=settings["seed"],
        batch_norm=True,
    )


def restore(model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> _apart.ApartPredictor:
    """The predictor that was saved."""
    made = network(settings, model.size[-1])
    _apart.load_weights(made, arrays, f"{model.card.name}; give the model this predictor was made with")
    return _predictor(model, made, settings, apart.Rule(**settings["rule"]))


def _answer(model: Encoder, made: Any) -> _apart.Answer:
    def answer(images: Sequence[_dense.Roles]) -> Any:
        with _apart.native():
            return made(_dense.maps_of(model, images), _dense.pictures(model, images)).float()

    return answer


def _predictor(
    model: Encoder, made: Any, settings: dict[str, Any], rule: apart.Rule
) -> _apart.ApartPredictor:
    made.eval()
    return _apart.ApartPredictor(
        tuple(settings["classes"]),
        sum(p.numel() for p in made.parameters() if p.requires_grad),
        _answer(model, made),
        settings["side"],
        AIM,
        rule,
        _apart.kept_arrays(made),
        settings,
    )


@method("distance_decoder", trains="head", cost=2, restore=restore, **_apart.facts(learning_rate=3e-3))
def distance_decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Train a feature pyramid on frozen maps of tiles: the kind of each pixel and its distance to the rim.

    training: see ``_apart.Training``.
    """
    import torch

    chosen: dict[str, Any] = {**_apart.DEFAULTS, "learning_rate": 3e-3, **training}
    side = _apart.side_of(task)
    learnt, held = _apart.hold_out(cases, seed)
    given = _apart.labelled_tiles([cases[i] for i in learnt], task, side, AIM)
    flat = [tile for own in given for tile in own]
    place = {id(tile): i for i, tile in enumerate(flat)}
    store = _dense.Held(model, [_dense.Plane(t.images, t.target[0], 0, "") for t in flat], bound=BOUND_BYTES)
    maps, pictures = store.take(np.random.default_rng(seed).permutation(len(flat))[:STANDARDISED_ON])
    settings: dict[str, Any] = {
        "shapes": [[int(n) for n in part.shape[1:]] for part in maps],
        "image_channels": int(pictures.shape[1]),
        "classes": list(task.classes),
        "side": side,
        "seed": seed,
        "sizes": _apart.sizes_of(cases, task),
    }
    made = network(settings, model.size[-1])
    pyramid.standardise(made, maps)
    made = made.to(memory_format=torch.channels_last)

    def see(some: Sequence[_apart.Tile]) -> tuple[Any, ...]:
        maps, pictures = store.take([place[id(tile)] for tile in some])
        last = torch.channels_last
        return [m.contiguous(memory_format=last) for m in maps], pictures.contiguous(memory_format=last)

    trained = [p for p in made.parameters() if p.requires_grad]
    settings["steps"] = _apart.learn(
        made,
        given,
        see,
        kinds=len(task.classes),
        aim=AIM,
        rates=[Rate(trained, chosen["learning_rate"], chosen["weight_decay"])],
        steps=_apart.number_of_steps(len(given), chosen),
        seed=seed,
        moved=False,
    )
    made.eval()
    rule = _apart.chosen_rule(_answer(model, made), [cases[i] for i in held], task, AIM)
    return _predictor(model, made, settings, rule)

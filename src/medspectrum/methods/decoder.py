"""A light decoder on the frozen encoder's maps: the encoder is run once, only the decoder learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import planes, pyramid
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.overlap_loss import overlap_loss
from medspectrum.engine.precision import quick_training
from medspectrum.errors import UserError
from medspectrum.methods import _dense
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

BATCH = 8
EPOCHS, LEAST_STEPS, MOST_STEPS = 25.0, 120, 600
STANDARDISED_ON = 64  # planes
BOUND_BYTES = 2 << 30  # of maps and pictures held while training; beyond it they are read again


def number_of_steps(planes_: int, epochs: float, least_steps: int, most_steps: int) -> int:
    """Steps for so many passes over the labelled planes."""
    return int(min(most_steps, max(least_steps, math.ceil(epochs * planes_ / BATCH))))


def _pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
    chosen = {"epochs": EPOCHS, "least_steps": LEAST_STEPS, "most_steps": MOST_STEPS, **settings}
    return BATCH * number_of_steps(labels, chosen["epochs"], chosen["least_steps"], chosen["most_steps"])


def _predictor(
    model: Encoder, classes: tuple[str, ...], decoder: Any, settings: dict[str, Any]
) -> _dense.PlanePredictor:
    import torch

    decoder.eval()

    def scores(maps: list[torch.Tensor], images: Sequence[_dense.Roles]) -> torch.Tensor:
        with torch.inference_mode():
            return decoder(maps, _dense.pictures(model, images)).clone()

    arrays = {n: np.array(t.detach().numpy()) for n, t in decoder.state_dict().items()}
    trained = sum(p.numel() for p in decoder.parameters() if p.requires_grad)
    return _dense.PlanePredictor(model, classes, trained, scores, arrays, settings, answer=decoder)


def _restore(
    model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _dense.PlanePredictor:
    import torch

    classes = tuple(settings["classes"])
    decoder = pyramid.pyramid(
        [tuple(shape) for shape in settings["shapes"]],
        model.size[-1],
        len(classes) + 1,
        image_channels=settings["image_channels"],
        seed=0,
    )
    mine = decoder.state_dict()
    if set(mine) != set(arrays) or any(tuple(mine[n].shape) != a.shape for n, a in arrays.items()):
        raise UserError(
            f"the saved decoder does not fit {model.card.name}; give the model this predictor was made with"
        )
    decoder.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()})
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return _predictor(model, classes, decoder, rest)


@method("decoder", task="segment", trains="head", cost=2, restore=_restore, pictures_seen=_pictures_seen)
def decoder(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    epochs: float = EPOCHS,
    least_steps: int = LEAST_STEPS,
    most_steps: int = MOST_STEPS,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.02,
) -> _dense.PlanePredictor:
    """Train a feature pyramid with a look at the picture on the frozen encoder's maps.

    epochs: passes over the labelled planes, within ``least_steps`` and ``most_steps`` steps.
    learning_rate: peak.
    """
    import torch

    labels = len(task.classes) + 1
    given = _dense.labelled_planes(cases, task, partial=True)
    marked = _dense.marked_as(cases, task)
    side = model.size[-1]
    held = _dense.Held(model, given, bound=BOUND_BYTES)
    some = np.random.default_rng(seed).permutation(len(given))[:STANDARDISED_ON]
    maps, pictures = held.take(some)
    shapes = [tuple(int(n) for n in part.shape[1:]) for part in maps]
    network: Any = pyramid.pyramid(shapes, side, labels, image_channels=pictures.shape[1], seed=seed)  # type: ignore[arg-type]
    pyramid.standardise(network, maps)
    truths = [planes.onto_square(plane.labels, side, side // 2).astype(np.int16) for plane in given]
    order = Order(np.arange(len(given)), seed)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG001
        chosen = order.batch(step, BATCH)
        maps, pictures = held.take(chosen)
        answer = torch.from_numpy(np.stack([truths[i] for i in chosen]).astype(np.int64))
        with quick_training():
            scores = network(maps, pictures)
        carried = None if marked is None else torch.from_numpy(marked[[given[i].case for i in chosen]])
        return overlap_loss(scores.float(), answer, marked=carried)

    fitted = descend(
        network,
        step_loss,
        rates=[Rate([p for p in network.parameters() if p.requires_grad], learning_rate, weight_decay)],
        steps=number_of_steps(len(given), epochs, least_steps, most_steps),
        seed=seed,
    )
    settings = {
        "shapes": [list(shape) for shape in shapes],
        "image_channels": int(pictures.shape[1]),
        "steps": fitted.steps,
        "seed": seed,
    }
    return _predictor(model, tuple(task.classes), network, settings)

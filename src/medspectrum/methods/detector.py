"""A light detector on the frozen encoder's maps: the encoder is run once, only the detector learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.detections import Detections
from medspectrum.engine import detector as network_of
from medspectrum.engine.box_loss import Truth, detection_loss
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.mixed import mixed
from medspectrum.methods import _boxed, _dense
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

BOUND_BYTES = 2 << 30  # of maps held while training; beyond it they are read again
DEFAULTS: dict[str, Any] = {"epochs": 30.0, "least_steps": 120, "most_steps": 600}


@dataclass(frozen=True)
class FrozenPredictor:
    """The detector on the encoder's kept maps; ``case.Predictor`` for a detection."""

    model: Encoder
    classes: tuple[str, ...]
    trained_parameters: int
    network: Any
    settings: dict[str, Any]

    def predict(self, cases: Sequence[Case]) -> list[Detections]:
        """The boxes of each case, in pixels of its image."""
        side = self.model.size[-1]
        return [_boxed.found_in_case(case, self._answers, side, self.settings["doubles"]) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The detector's weights, and what was set."""
        arrays = {n: np.array(t.detach().numpy()) for n, t in self.network.state_dict().items()}
        return arrays, {**self.settings, "classes": list(self.classes)}

    def _answers(self, images: Sequence[_dense.Roles]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        for some in _dense.in_batches(images):
            maps = _dense.maps_of(self.model, some)
            seen = _dense.pictures(self.model, some)
            with torch.inference_mode():
                boxes, logits, _, _ = self.network([maps[i] for i in self.settings["maps"]], seen)
            yield from zip(boxes, logits, strict=True)


class _Held:
    """The maps that are looked at, of labelled planes: in memory at half precision up to a bound."""

    def __init__(self, model: Encoder, given: Sequence[_boxed.Plane], bound: int) -> None:
        self._model, self._given, self._left = model, given, bound
        self._kept: dict[int, list[np.ndarray]] = {}
        self.looked_at: list[int] = []
        self.shapes: list[tuple[int, int, int]] = []

    def take(self, chosen: Sequence[int] | np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Maps, fine to coarse, each (n, c, h, w), and pictures (n, C, side, side), float32."""
        import torch

        lacking = sorted({int(i) for i in chosen} - set(self._kept))
        read: dict[int, list[np.ndarray]] = {}
        for some in _dense.in_batches(lacking):
            images = [self._given[i].images for i in some]
            maps = _dense.maps_of(self._model, images)
            if not self.looked_at:
                shapes = [(int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in maps]
                self.looked_at = network_of.chosen_maps(shapes, self._model.size[-1])
                self.shapes = [shapes[i] for i in self.looked_at]
            parts = [*(maps[i] for i in self.looked_at), _dense.pictures(self._model, images)]
            for place, i in enumerate(some):
                # a copy each: a view would keep the whole batch
                rows = [part[place].numpy().astype(np.float16) for part in parts]
                read[i] = rows
                size = sum(row.nbytes for row in rows)
                if size <= self._left:
                    self._left -= size
                    self._kept[i] = rows
        found = [self._kept.get(int(i)) or read[int(i)] for i in chosen]
        stacked = [torch.from_numpy(np.stack(parts)).float() for parts in zip(*found, strict=True)]
        return stacked[:-1], stacked[-1]


def _restore(model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> FrozenPredictor:
    classes = tuple(settings["classes"])
    network = network_of.detector(
        [tuple(shape) for shape in settings["shapes"]],
        model.size[-1],
        len(classes),
        image_channels=settings["image_channels"],
        seed=0,
    )
    _boxed.take_back(network, arrays, model.card.name)
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return FrozenPredictor(model, classes, _trained(network), network.eval(), rest)


def _trained(network: Any) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@method(
    "detector",
    task="detect",
    trains="head",
    cost=2,
    restore=_restore,
    pictures_seen=_boxed.pictures_seen(DEFAULTS),
)
def detector(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    epochs: float = DEFAULTS["epochs"],
    least_steps: int = DEFAULTS["least_steps"],
    most_steps: int = DEFAULTS["most_steps"],
    learning_rate: float = 2e-3,
    weight_decay: float = 0.02,
    any_way_up: bool = False,
    doubles: float = 0.6,
) -> FrozenPredictor:
    """Train an anchor-free detector on the frozen encoder's maps, mirrored where the pictures may be.

    epochs: passes over the labelled planes, within ``least_steps`` and ``most_steps`` steps.
    learning_rate: peak. any_way_up: what is looked for has no upright. doubles: IoU above which the less sure
    of two found boxes of a label goes.
    """
    import torch

    given = _boxed.boxed_planes(cases, task)
    side = model.size[-1]
    held = _Held(model, given, BOUND_BYTES)
    some = np.random.default_rng(seed).permutation(len(given))[: _boxed.STANDARDISED_ON]
    maps, pictures = held.take(some)
    network: Any = network_of.detector(
        held.shapes, side, len(task.classes), image_channels=int(pictures.shape[1]), seed=seed
    )
    network_of.standardise(network, maps)
    truths = [_boxed.on_square(plane.boxes, plane.size, side) for plane in given]
    order = Order(np.arange(len(given)), seed)
    change = _boxed.turning(cases[0], any_way_up=any_way_up)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = order.batch(step, _boxed.BATCH)
        maps, pictures = held.take(chosen)
        true = [
            Truth(torch.from_numpy(truths[i].copy()), torch.from_numpy(given[i].labels.astype(np.int64)))
            for i in chosen
        ]
        chance = torch.rand(3, generator=generator)
        if change.mirrored and chance[0] < 0.5:
            maps, pictures, true = _flipped(maps, pictures, true, side, across=True)
        if change.turned and chance[1] < 0.5:
            maps, pictures, true = _flipped(maps, pictures, true, side, across=False)
        if change.turned and chance[2] < 0.5:
            maps, pictures = [m.transpose(2, 3) for m in maps], pictures.transpose(2, 3)
            true = [Truth(t.boxes[:, [1, 0, 3, 2]], t.labels) for t in true]
        with mixed():
            answers = network(maps, pictures)
        return detection_loss(answers, true)

    fitted = descend(
        network,
        step_loss,
        rates=[Rate([p for p in network.parameters() if p.requires_grad], learning_rate, weight_decay)],
        steps=_boxed.number_of_steps(len(given), epochs, least_steps, most_steps),
        clip=_boxed.CLIP,
        seed=seed,
    )
    settings = {
        "shapes": [list(shape) for shape in held.shapes],
        "maps": held.looked_at,
        "image_channels": int(pictures.shape[1]),
        "doubles": doubles,
        "steps": fitted.steps,
        "seed": seed,
    }
    return FrozenPredictor(model, tuple(task.classes), _trained(network), network.eval(), settings)


def _flipped(
    maps: list[torch.Tensor], pictures: torch.Tensor, true: list[Truth], side: int, *, across: bool
) -> tuple[list[torch.Tensor], torch.Tensor, list[Truth]]:
    """Everything left for right, or top for bottom."""
    axis = 3 if across else 2
    low, high = (0, 2) if across else (1, 3)
    turned = []
    for one in true:
        boxes = one.boxes.clone()
        boxes[:, low], boxes[:, high] = side - one.boxes[:, high], side - one.boxes[:, low]
        turned.append(Truth(boxes, one.labels))
    return [m.flip(axis) for m in maps], pictures.flip(axis), turned

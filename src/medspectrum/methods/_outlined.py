"""What methods share that change the encoder itself for outlining: from the frozen decoder on, jointly.

As ``_tuned`` starts from the linear probe, these start from the decoder that was trained on the frozen maps:
the first step then does not tear up what the network knows. A method says what may change by one function.
Where that looks across slices, a volume is seen in stacks of slices that follow each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from medspectrum import augment
from medspectrum.case import Case, Task
from medspectrum.engine import patches, planes, promised, pyramid
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.overlap_loss import overlap_loss
from medspectrum.engine.precision import quick_training
from medspectrum.engine.readout import level_module
from medspectrum.engine.train import Inputs
from medspectrum.engine.window_grid import cores, even_starts
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense, _tuned, decoder

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

EPOCHS, LEAST_STEPS, MOST_STEPS = 10.0, 60, 250


class Training(TypedDict, total=False):
    """Settings that these methods share.

    epochs: passes over the labelled planes after the decoder alone was trained, within ``least_steps`` and
    ``most_steps`` steps. decoder_learning_rate: peak, for the decoder. weight_decay: of matrices.
    augment: turn, zoom, mirror and shade the planes.
    """

    epochs: float
    least_steps: int
    most_steps: int
    decoder_learning_rate: float
    weight_decay: float
    augment: bool


DEFAULTS: Training = {
    "epochs": EPOCHS,
    "least_steps": LEAST_STEPS,
    "most_steps": MOST_STEPS,
    "decoder_learning_rate": 5e-4,
    "weight_decay": 0.02,
    "augment": True,
}


def _pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
    chosen = {**DEFAULTS, **settings}
    steps = decoder.number_of_steps(labels, chosen["epochs"], chosen["least_steps"], chosen["most_steps"])
    return decoder.BATCH * steps


FACTS: dict[str, Any] = {
    "task": "segment",
    "shared": dict(DEFAULTS),
    "pictures_seen": _pictures_seen,
}


@dataclass(frozen=True)
class OutlinePredictor:
    """Encoder and decoder as one network, plane by plane; ``case.Predictor`` for a segmentation."""

    model: Encoder
    classes: tuple[str, ...]
    trained_parameters: int
    module: Any
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    _ready: list[Any] = field(default_factory=list, compare=False)

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One label map per case, on its image's grid."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What was trained, by the network's own names, and what was set."""
        return dict(self.arrays), {**self.settings, "classes": list(self.classes)}

    def promised(self, cases: Sequence[Case]) -> list[np.ndarray]:
        """What each case's probabilities say of its outlines; see ``engine.promised.sums``."""
        found: list[np.ndarray] = []
        for case in cases:
            parts: list[np.ndarray] = []
            self._run(case, lambda _, flat, own=parts: own.append(promised.sums(flat.softmax(dim=1))))
            found.append(np.sum(parts, axis=0))
        return found

    def _one(self, case: Case) -> LabelMap:
        found: dict[int, np.ndarray] = {}

        def keep(first: int, flat: torch.Tensor) -> None:
            found.update(enumerate(flat.argmax(dim=1).numpy().astype(np.uint8), start=first))

        self._run(case, keep)
        return LabelMap.of(_dense.cuts(case)[0].joined([found[i] for i in range(len(found))]))

    def _run(self, case: Case, keep: Callable[[int, torch.Tensor], None]) -> None:
        """Tell ``keep`` the scores (n, labels, height, width) of the planes from a first one on."""
        import torch

        side, deep = self.model.size[-1], self.settings.get("slices", 1)
        if not self._ready:
            shape = (1, deep * self.settings["image_channels"], side, side)
            self._ready.append(_tuned.runner(self.module, shape))
        own = _dense.cuts(case)
        seen = [tuple(c.planes[i] for c in own) for i in range(len(own[0].planes))]
        begins = even_starts(len(seen), deep, 0.5) if len(seen) > deep else [0]
        nearest = cores(begins, deep, len(seen))

        def done(place: int, outputs: list[np.ndarray]) -> None:
            scores = outputs[0].reshape(deep, -1, *outputs[0].shape[1:])
            first, end = nearest[place]
            mine = np.ascontiguousarray(scores[first - begins[place] : end - begins[place]])
            keep(first, planes.to_plane(torch.from_numpy(mine), own[0].plane, side))

        jobs = (
            (i, _stack(self.model, [seen[p] for p in stack(begin, deep, len(seen))]))
            for i, begin in enumerate(begins)
        )
        self._ready[0].run(jobs, done)


def outline(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    change: Callable[..., None],
    *,
    structure: dict[str, Any],
    seed: int,
    learning_rate: float,
    slices: int = 1,
    **training: Any,
) -> OutlinePredictor:
    """Train the decoder alone, then with what ``change`` opens in the encoder. See ``Training``.

    slices: planes of a volume that are seen together; those of a case follow each other in a batch.
    """
    import torch

    chosen = {**DEFAULTS, **training}
    if getattr(model, "network", None) is None or model.card.dims != 2:
        raise UserError(f"{model.card.name} is no 2-D network that can be tuned; use decoder or dense_probe")
    begun = decoder.decoder(model, cases, task, seed=seed)
    settings = {
        "structure": structure,
        "shapes": begun.settings["shapes"],
        "image_channels": begun.settings["image_channels"],
        "seed": seed,
        "slices": slices,
    }
    module = _assemble(model, change, settings, len(task.classes) + 1)
    module.decoder.load_state_dict({n: torch.from_numpy(a) for n, a in begun.arrays.items()})
    given = _dense.labelled_planes(cases, task, partial=True)
    marked = _dense.marked_as(cases, task)
    side = model.size[-1]
    stacks = _stacks(given, slices)
    inputs = Inputs(lambda i: _stack(model, [given[p].images for p in stacks[i]]), len(stacks))
    truths = [planes.onto_square(plane.labels, side, side // 2).astype(np.int16) for plane in given]
    order = Order(np.arange(len(stacks)), seed)
    turning = turning_of(cases[0])

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        picked = order.batch(step, max(1, decoder.BATCH // slices))
        batch = inputs.take(picked)
        told = [np.stack([truths[p] for p in stacks[i]]) for i in picked]
        answer = torch.from_numpy(np.stack(told).astype(np.int64))
        if chosen["augment"]:
            batch, answer = moved(batch, answer, turning, generator)
            batch = patches.shade(batch, generator)
        with quick_training():
            scores = module(batch)
        answer = answer.flatten(0, 1)
        own = [given[p].case for i in picked for p in stacks[i]]
        carried = None if marked is None else torch.from_numpy(marked[own])
        scores = scores.float().reshape(len(answer), -1, *answer.shape[1:])
        return overlap_loss(scores, answer, marked=carried)

    body = [p for n, p in module.named_parameters() if p.requires_grad and not n.startswith("decoder.")]
    head = [p for p in module.decoder.parameters() if p.requires_grad]
    fitted = descend(
        module,
        step_loss,
        rates=[
            Rate(body, learning_rate, chosen["weight_decay"]),
            Rate(head, chosen["decoder_learning_rate"], chosen["weight_decay"]),
        ],
        steps=decoder.number_of_steps(
            len(given), chosen["epochs"], chosen["least_steps"], chosen["most_steps"]
        ),
        seed=seed,
    )
    settings["steps"] = fitted.steps
    learned = {n: p for n, p in module.named_parameters() if p.requires_grad}
    kept = {**learned, **{f"decoder.{n}": t for n, t in module.decoder.state_dict().items()}}
    arrays = {n: np.array(t.detach().numpy(), order="C") for n, t in kept.items()}
    trained = sum(p.numel() for p in learned.values())
    return OutlinePredictor(model, tuple(task.classes), trained, module, arrays, settings)


def restore(
    change: Callable[..., None], model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> OutlinePredictor:
    """The predictor that was saved. Raises UserError where the arrays are not those of this network."""
    import torch

    classes = tuple(settings["classes"])
    module = _assemble(model, change, settings, len(classes) + 1)
    mine = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, array in arrays.items():
            if name not in mine or tuple(mine[name].shape) != array.shape:
                raise UserError(
                    f"the saved part {name} {array.shape} does not fit {model.card.name}; "
                    "give the model this predictor was made with"
                )
            mine[name].copy_(torch.from_numpy(np.array(array)))
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return OutlinePredictor(model, classes, trained, module.eval(), dict(arrays), rest)


def _assemble(model: Encoder, change: Callable[..., None], settings: dict[str, Any], labels: int) -> Any:
    """Pictures (n, C, side, side) -> scores at half the side. Several roles stand along C.

    Slices of a stack stand along C before them, and along the scores' second axis.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        network = model.network()
        change(network, model, **settings["structure"])
    seen = level_module(network, _dense.LEVEL)
    own, channels = len(model.card.mean), settings["image_channels"]
    roles, deep = channels // own, settings.get("slices", 1)
    made = pyramid.pyramid(
        [tuple(shape) for shape in settings["shapes"]],
        model.size[-1],
        labels,
        image_channels=settings["image_channels"],
        seed=settings["seed"],
    )

    class Outlining(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = seen
            self.decoder = made

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            if deep == 1:
                return self.planes(batch)
            scores = self.planes(batch.reshape(-1, channels, *batch.shape[2:]))
            return scores.reshape(len(batch), -1, *scores.shape[2:])

        def planes(self, batch: torch.Tensor) -> torch.Tensor:
            by_role = [self.encoder(batch[:, own * r : own * (r + 1)]) for r in range(roles)]
            maps = [torch.cat(parts, dim=1) for parts in zip(*by_role, strict=True)]
            return self.decoder(maps, batch)

    return Outlining().eval()


def together(cases: Sequence[Case], slices: int) -> int:
    """How many slices are seen together: so many in volumes, 1 where all cases are pictures."""
    if slices < 1:
        raise UserError(f"slices are counted from 1; got {slices}")
    return slices if any(_dense.cuts(case)[0].size[0] > 1 for case in cases) else 1


def stack(begin: int, slices: int, count: int) -> list[int]:
    """Planes of a stack that begins there; of a volume with fewer the last comes again."""
    return [min(begin + i, count - 1) for i in range(slices)]


def _stacks(given: Sequence[_dense.Plane], slices: int) -> list[list[int]]:
    """Every stack of planes of one case, as their places in ``given``."""
    made: list[list[int]] = []
    first = 0
    for _, own in itertools.groupby(given, key=lambda plane: plane.case):
        count = len(list(own))
        begins = range(max(1, count - slices + 1))
        made += [[first + p for p in stack(begin, slices, count)] for begin in begins]
        first += count
    return made


def _stack(model: Encoder, images: Sequence[_dense.Roles]) -> np.ndarray:
    """The slices of a stack as one input, (slices * C, side, side)."""
    return _dense.pictures(model, images).flatten(0, 1).numpy()


def turning_of(case: Case) -> patches.Turning:
    image = next(iter(case.images.values())).load()
    if image.modality in augment.ANY_WAY_UP:
        return patches.Turning(degrees=180.0, mirror=(0, 1))
    return patches.Turning()


def moved(
    batch: torch.Tensor, labels: torch.Tensor, change: patches.Turning, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, C, ...) and labels (n, slices, ...) turned, zoomed and mirrored; outside is -1."""
    import torch
    import torch.nn.functional as F

    matrices = np.stack([patches.matrix(2, change, rng) for _ in range(len(batch))])
    theta = np.zeros((len(batch), 2, 3), np.float32)
    theta[:, :, :2] = matrices[:, ::-1, ::-1]  # x first
    given = torch.from_numpy(theta)
    whole = F.affine_grid(given, list(batch.shape), align_corners=False)
    seen = F.grid_sample(batch, whole, mode="bilinear", padding_mode="border", align_corners=False)
    half = F.affine_grid(given, list(labels.shape), align_corners=False)
    raised = (labels + 1).float()
    found = F.grid_sample(raised, half, mode="nearest", padding_mode="zeros", align_corners=False)
    return seen, found.long() - 1

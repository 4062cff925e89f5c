"""What methods that find boxes share: planes with boxes, predictors plane by plane, and joint training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from medspectrum import augment as augmentation
from medspectrum.case import Case, Task
from medspectrum.detections import Detections
from medspectrum.engine import box_planes, box_views, detector, patches, planes
from medspectrum.engine.box_loss import detection_loss
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.mixed import mixed
from medspectrum.engine.readout import level_module
from medspectrum.errors import UserError
from medspectrum.methods import _dense, _tuned

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

BATCH = 8
EPOCHS, LEAST_STEPS, MOST_STEPS = 30.0, 100, 800
SOURCE = 1.5  # how much larger than the input pictures are held, so that zooming in shows more
STANDARDISED_ON = 32  # planes
CLIP = 5.0  # of the gradient's length


class Training(TypedDict, total=False):
    """Settings that these methods share.

    epochs: passes over the labelled planes, within ``least_steps`` and ``most_steps`` steps.
    head_learning_rate: peak, for the detector on the maps. weight_decay: of matrices. any_way_up: what is
    looked for has no upright, so that pictures are turned and mirrored every way; known by itself for
    microscopy that says so. doubles: IoU above which the less sure of two found boxes of a label goes.
    """

    epochs: float
    least_steps: int
    most_steps: int
    head_learning_rate: float
    weight_decay: float
    any_way_up: bool
    doubles: float


DEFAULTS: Training = {
    "epochs": EPOCHS,
    "least_steps": LEAST_STEPS,
    "most_steps": MOST_STEPS,
    "head_learning_rate": 1.5e-3,
    "weight_decay": 0.02,
    "any_way_up": False,
    "doubles": 0.6,
}


@dataclass(frozen=True)
class Plane:
    """One flat picture to learn from. boxes: (n, 4) in its pixels. labels: (n,). images: one per role."""

    images: _dense.Roles
    boxes: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]


def number_of_steps(planes_: int, epochs: float, least_steps: int, most_steps: int) -> int:
    """Steps for so many passes over the labelled planes."""
    return int(min(most_steps, max(least_steps, math.ceil(epochs * planes_ / BATCH))))


def pictures_seen(defaults: Mapping[str, Any]) -> Callable[[int, Mapping[str, Any]], int]:
    """(labels, settings) -> pictures that all steps look at."""

    def seen(labels: int, settings: Mapping[str, Any]) -> int:
        chosen = {**defaults, **settings}
        return BATCH * number_of_steps(labels, chosen["epochs"], chosen["least_steps"], chosen["most_steps"])

    return seen


def facts(defaults: Training) -> dict[str, Any]:
    """What the registry knows of these methods."""
    return {"task": "detect", "shared": dict(defaults), "pictures_seen": pictures_seen(defaults)}


def boxed_planes(cases: Sequence[Case], task: Task) -> list[Plane]:
    """All planes of the labelled cases. Raises UserError where there is no case."""
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    made = []
    for case in cases:
        own = _dense.cuts(case)
        boxes, labels = task.target(case)
        if own[0].size[0] == 1:
            flat = [(boxes, np.arange(len(boxes)))]
        else:
            flat = box_planes.in_planes(boxes, own[0].axis, len(own[0].planes))
        for number, (here, which) in enumerate(flat):
            images = tuple(c.planes[number] for c in own)
            made.append(Plane(images, here.astype(np.float32), labels[which], own[0].plane))
    return made


def pictured(model: Encoder, plane: Plane) -> box_views.Pictured:
    """The plane as views are cut from it: prepared as for the encoder, larger, and without padding."""
    side = round(SOURCE * model.size[-1])
    larger = replace(model, size=(side,))
    whole = np.concatenate([larger.prepare(image.load()) for image in plane.images])
    top, left, height, width = planes.window_of(plane.size, side)
    pixels = whole[:, top : top + height, left : left + width].astype(np.float16)
    scale = np.array([width / plane.size[1], height / plane.size[0]] * 2, np.float32)
    return box_views.Pictured(pixels, plane.boxes * scale, plane.labels.astype(np.int64))


def on_square(boxes: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """Boxes (n, 4) of a plane of that size (height, width) in pixels of the network's square input."""
    top, left, height, width = planes.window_of(size, side)
    scale = np.array([width / size[1], height / size[0]] * 2)
    return (np.asarray(boxes) * scale + np.array([left, top] * 2)).astype(np.float32)


def to_plane(boxes: torch.Tensor, size: tuple[int, int], side: int) -> torch.Tensor:
    """The way back: (p, 4) in pixels of the square input -> in pixels of the plane."""
    import torch

    top, left, height, width = planes.window_of(size, side)
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    return (boxes - torch.tensor([left, top] * 2)) * scale


def turning(case: Case, *, any_way_up: bool) -> box_views.Turning:
    """Which ways pictures like the case's may be laid down. Radiographs are not mirrored."""
    modality = next(iter(case.images.values())).load().modality
    return box_views.Turning(
        mirrored=modality not in augmentation.RADIOGRAPHS,
        turned=any_way_up or modality in augmentation.ANY_WAY_UP,
    )


def found_in_case(
    case: Case,
    answers: Callable[[Sequence[_dense.Roles]], Iterator[tuple[torch.Tensor, torch.Tensor]]],
    side: int,
    doubles: float,
) -> Detections:
    """Boxes of a whole case. answers: planes -> for each (boxes (p, 4) in the square input, logits)."""
    own = _dense.cuts(case)
    images = [tuple(c.planes[i] for c in own) for i in range(len(own[0].planes))]
    size = own[0].plane
    found = []
    for boxes, logits in answers(images):
        kept = detector.best(to_plane(boxes, size, side), logits, size, overlap=doubles)
        found.append(Detections.of(*(part.numpy() for part in kept)))
    return found[0] if own[0].size[0] == 1 else box_planes.joined(found, own[0].axis)


@dataclass(frozen=True)
class BoxPredictor:
    """Encoder and detector as one network, plane by plane; ``case.Predictor`` for a detection."""

    model: Encoder
    classes: tuple[str, ...]
    trained_parameters: int
    module: Any
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    _ready: list[Any] = field(default_factory=list, compare=False)

    def predict(self, cases: Sequence[Case]) -> list[Detections]:
        """The boxes of each case, in pixels of its image."""
        side = self.model.size[-1]
        return [found_in_case(case, self._answers, side, self.settings["doubles"]) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What was trained, by the network's own names, and what was set."""
        return dict(self.arrays), {**self.settings, "classes": list(self.classes)}

    def _answers(self, images: Sequence[_dense.Roles]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        side = self.model.size[-1]
        if not self._ready:
            shape = (1, self.settings["image_channels"], side, side)
            self._ready.append(_tuned.runner(first_two(self.module), shape))
        found: dict[int, list[np.ndarray]] = {}

        def done(place: int, outputs: list[np.ndarray]) -> None:
            found[place] = [np.array(part) for part in outputs]

        jobs = ((i, _dense.pictures(self.model, [own])[0].numpy()) for i, own in enumerate(images))
        self._ready[0].run(jobs, done)
        for i in range(len(images)):
            boxes, logits = (torch.from_numpy(part) for part in found[i])
            yield boxes, logits


def first_two(module: Any) -> Any:
    """The network without its places and strides, which are the same for every picture."""
    import torch

    class Boxes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = module

        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            boxes, logits, _, _ = self.whole(batch)
            return boxes, logits

    return Boxes().eval()


def train_jointly(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    change: Callable[..., None],
    *,
    structure: dict[str, Any],
    seed: int,
    learning_rate: float,
    frozen_statistics: bool = True,
    **training: Any,
) -> BoxPredictor:
    """Train a detector together with what ``change`` opens in the encoder, on views of the cases' planes."""
    import torch

    chosen = {**DEFAULTS, **training}
    if getattr(model, "network", None) is None or model.card.dims != 2:
        raise UserError(f"{model.card.name} is no 2-D network that can be tuned; use detector")
    given = boxed_planes(cases, task)
    side = model.size[-1]
    held = [pictured(model, plane) for plane in given]
    change_of_view = turning(cases[0], any_way_up=chosen["any_way_up"])
    settings = {
        "structure": structure,
        "image_channels": int(held[0].pixels.shape[0]),
        "doubles": chosen["doubles"],
        "seed": seed,
    }
    module = _assemble(model, change, settings, len(task.classes))
    still = torch.Generator().manual_seed(seed)
    some = np.random.default_rng(seed).permutation(len(given))[:STANDARDISED_ON]
    with torch.inference_mode():
        looked = torch.stack([box_views.view(held[i], side, None, still)[0] for i in some])
        parts = [module.maps(looked[i : i + BATCH]) for i in range(0, len(looked), BATCH)]
        maps = [torch.cat(level) for level in zip(*parts, strict=True)]
    detector.standardise(module.detector, [m.clone() for m in maps])
    order = Order(np.arange(len(given)), seed)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        picked = np.resize(order.batch(step, BATCH), BATCH)  # of few planes several views each
        views = [box_views.view(held[i], side, change_of_view, generator) for i in picked]
        batch = patches.shade(torch.stack([pixels for pixels, _ in views]), generator)
        batch = augmentation.tint(batch, generator, strength=augmentation.COLOUR)
        with mixed():
            answers = module(batch.contiguous(memory_format=torch.channels_last))
        return detection_loss(answers, [truth for _, truth in views])

    body = [p for n, p in module.named_parameters() if p.requires_grad and not n.startswith("detector.")]
    head = [p for p in module.detector.parameters() if p.requires_grad]
    fitted = descend(
        module,
        step_loss,
        rates=[
            Rate(body, learning_rate, chosen["weight_decay"]),
            Rate(head, chosen["head_learning_rate"], chosen["weight_decay"]),
        ],
        steps=number_of_steps(len(given), chosen["epochs"], chosen["least_steps"], chosen["most_steps"]),
        warm_up=0.05,
        clip=CLIP,
        frozen_statistics=frozen_statistics,
        seed=seed,
    )
    settings["steps"] = fitted.steps
    learned = {n: p for n, p in module.named_parameters() if p.requires_grad}
    kept = {**learned, **{f"detector.{n}": t for n, t in module.detector.state_dict().items()}}
    if not frozen_statistics:
        kept |= {n: b for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))}
    arrays = {n: np.array(t.detach().numpy(), order="C") for n, t in kept.items()}
    trained = sum(p.numel() for p in learned.values())
    return BoxPredictor(model, tuple(task.classes), trained, module, arrays, settings)


def restore(
    change: Callable[..., None], model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> BoxPredictor:
    """The predictor that was saved. Raises UserError where the arrays are not those of this network."""
    classes = tuple(settings["classes"])
    module = _assemble(model, change, settings, len(classes))
    take_back(module, arrays, model.card.name)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return BoxPredictor(model, classes, trained, module.eval(), dict(arrays), rest)


def take_back(module: Any, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Put saved arrays into the parts of those names. Raises UserError where they do not fit."""
    import torch

    mine = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for part, array in arrays.items():
            if part not in mine or tuple(mine[part].shape) != array.shape:
                raise UserError(
                    f"the saved part {part} {array.shape} does not fit {name}; "
                    "give the model this predictor was made with"
                )
            mine[part].copy_(torch.from_numpy(np.array(array)))


def _assemble(model: Encoder, change: Callable[..., None], settings: dict[str, Any], classes: int) -> Any:
    """Pictures (n, C, side, side) -> ``detector.Answers`` as a tuple; several roles stand along C."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        network = model.network()
        change(network, model, **settings["structure"])
    seen = level_module(network, _dense.LEVEL)
    own, side = len(model.card.mean), model.size[-1]
    roles = settings["image_channels"] // own
    with torch.inference_mode():
        tried = seen(torch.zeros(1, own, side, side))
    tried = tried if isinstance(tried, tuple | list) else (tried,)
    shapes = [(roles * int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in tried]
    looked_at = detector.chosen_maps(shapes, side)
    made = detector.detector(
        [shapes[i] for i in looked_at],
        side,
        classes,
        image_channels=settings["image_channels"],
        seed=settings["seed"],
    )

    class Detecting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = seen
            self.detector = made

        def maps(self, batch: torch.Tensor) -> list[torch.Tensor]:
            by_role = []
            for r in range(roles):
                found = self.encoder(batch[:, own * r : own * (r + 1)])
                by_role.append(found if isinstance(found, tuple | list) else (found,))
            return [torch.cat([parts[i] for parts in by_role], dim=1) for i in looked_at]

        def forward(self, batch: torch.Tensor) -> Any:
            return self.detector(self.maps(batch), batch)

    return Detecting().eval().to(memory_format=torch.channels_last)

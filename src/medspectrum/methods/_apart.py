"""What methods share that tell things apart: labelled tiles, the training, the rule, and the predictor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import apart, openvino, patches, tiles
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.overlap_loss import overlap_loss
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense

if TYPE_CHECKING:
    import torch

BATCH = 8
EPOCHS, LEAST_STEPS, MOST_STEPS = 8.0, 150, 600
HELD_OUT = 0.12  # of the labelled cases, to choose the rule on
MOST_HELD_OUT = 32
LEAST_PATIENTS = 8  # below, none is held out and the usual rule is taken
DISTANCE_WEIGHT = 5.0
TURNING = patches.Turning(degrees=180.0, mirror=(0, 1))  # a field under the microscope has no upright

Answer = Callable[[Sequence[_dense.Roles]], "torch.Tensor"]
"""Tiles -> scores (n, kinds + 2, h, w): background and kinds, then the distance or the border."""


class Training(TypedDict, total=False):
    """Settings that these methods share.

    epochs: tiles seen per labelled case, within ``least_steps`` and ``most_steps`` steps of 8 tiles.
    learning_rate: peak. weight_decay: of matrices.
    """

    epochs: float
    least_steps: int
    most_steps: int
    learning_rate: float
    weight_decay: float


DEFAULTS: Training = {
    "epochs": EPOCHS,
    "least_steps": LEAST_STEPS,
    "most_steps": MOST_STEPS,
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
}


def facts(**changed: Any) -> dict[str, Any]:
    """What the registry knows of these methods: the task, shared settings, and the pictures they will see."""
    shared = {**DEFAULTS, **changed}

    def pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
        return BATCH * number_of_steps(labels, {**shared, **settings})

    return {
        "task": "instances",
        "shared": shared,
        "pictures_seen": pictures_seen,
        "available": apart.lacking,
    }


def number_of_steps(cases: int, settings: Mapping[str, Any]) -> int:
    """Steps for so many cases."""
    wanted = math.ceil(settings["epochs"] * cases / BATCH)
    return int(min(settings["most_steps"], max(settings["least_steps"], wanted)))


@dataclass(frozen=True)
class Tile:
    """What is looked at at once. target: (2, side, side), label (-1 outside of the picture) and distance."""

    images: _dense.Roles
    target: np.ndarray


def cut(case: Case, side: int, times: int = 1) -> tuple[tiles.Tiled, list[_dense.Roles]]:
    """The tiles of a case's images, which lie on one grid. Raises UserError where they do not.

    times: how many times larger the images are seen.
    """
    images = _dense.roles(case)
    if times > 1:
        images = tuple(tiles.enlarged(image, times) for image in images)
    own = [tiles.tiled(image, side) for image in images]
    if len({t.size for t in own}) > 1:
        sizes = ", ".join(" x ".join(map(str, t.size)) for t in own)
        raise UserError(f"case {case.id} has images on different grids ({sizes}); resample them to one")
    return own[0], list(zip(*(t.tiles for t in own), strict=True))


def labelled_tiles(cases: Sequence[Case], task: Task, side: int, aim: str) -> list[list[Tile]]:
    """The tiles of each labelled case. Raises UserError where there is no case."""
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    made = []
    for case in cases:
        own, images = cut(case, side)
        target = apart.targets(task.target(case)[0], len(task.classes), aim)
        labels = own.cut(target[:1], outside=-1)
        whole = np.concatenate([labels, own.cut(target[1:], outside=0)], axis=1).astype(np.float16)
        made.append([Tile(i, t) for i, t in zip(images, whole, strict=True)])
    return made


def side_of(task: Any) -> int:
    """Pixels per side of the tiles that the task cuts."""
    return int(task.tile)


def hold_out(cases: Sequence[Case], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of cases to learn from and to choose the rule on; no patient stands on both sides."""
    patients = np.array([case.patient for case in cases])
    names = np.unique(patients)
    if len(names) < LEAST_PATIENTS:
        return np.arange(len(cases)), np.arange(0)
    order = np.random.default_rng([seed, 7]).permutation(names)
    inside = np.isin(patients, order[: max(2, round(HELD_OUT * len(names)))])
    return np.flatnonzero(~inside), np.flatnonzero(inside)[:MOST_HELD_OUT]


def native() -> Any:
    """Inside the block torch multiplies in bf16 where the processor does so natively."""
    import torch

    return torch.autocast("cpu", torch.bfloat16, enabled=openvino.native_bf16())


def learn(
    network: Any,
    given: Sequence[Sequence[Tile]],
    see: Callable[[Sequence[Tile]], tuple[Any, ...]],
    *,
    kinds: int,
    aim: str,
    rates: Sequence[Rate],
    steps: int,
    seed: int,
    moved: bool,
) -> int:
    """Train in place on random tiles of the cases in turn; gives the steps done.

    see: tiles -> the network's arguments. moved: turn, zoom, mirror and shade the one argument.
    """
    import torch
    import torch.nn.functional as F

    order = Order(np.arange(len(given)), seed)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        cases = np.resize(order.batch(step, BATCH), BATCH)
        chance = torch.rand(BATCH, generator=generator).tolist()
        chosen = [given[i][int(c * len(given[i]))] for i, c in zip(cases, chance, strict=True)]
        seen = see(chosen)
        target = torch.from_numpy(np.stack([tile.target for tile in chosen])).float()
        if moved:
            picture, target = _moved(seen[0], target, generator)
            seen = (patches.shade(picture, generator).contiguous(memory_format=torch.channels_last),)
        with native():
            scores = network(*seen)
        scores = scores.float()
        if scores.shape[-1] != target.shape[-1]:
            scores = F.interpolate(scores, target.shape[-2:], mode="bilinear", align_corners=False)
        labels = target[:, 0].round().long()
        if aim == "border":
            return overlap_loss(scores, labels)
        error = F.smooth_l1_loss(scores[:, -1], target[:, 1], reduction="none", beta=0.1)
        far = (error * (labels >= 0)).mean()
        return overlap_loss(scores[:, : kinds + 1], labels) + DISTANCE_WEIGHT * far

    fitted = descend(network, step_loss, rates=rates, steps=steps, frozen_statistics=False, seed=seed)
    return fitted.steps


def _moved(
    batch: torch.Tensor, target: torch.Tensor, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and targets turned, zoomed and mirrored together; what comes in from outside is -1."""
    import torch
    import torch.nn.functional as F

    matrices = np.stack([patches.matrix(2, TURNING, rng) for _ in range(len(batch))])
    theta = np.zeros((len(batch), 2, 3), np.float32)
    theta[:, :, :2] = matrices[:, ::-1, ::-1]  # x first
    turn = torch.from_numpy(theta)
    grid = F.affine_grid(turn, list(batch.shape), align_corners=False)
    seen = F.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    if target.shape[-1] != batch.shape[-1]:
        grid = F.affine_grid(turn, list(target.shape), align_corners=False)
    raised = target[:, :1] + 1
    labels = F.grid_sample(raised, grid, mode="nearest", padding_mode="zeros", align_corners=False) - 1
    far = F.grid_sample(target[:, 1:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return seen, torch.cat([labels, far], dim=1)


@dataclass(frozen=True)
class ApartPredictor:
    """Tells things apart tile by tile; ``case.Predictor`` for things.

    answer: see ``Answer``. side: of the tiles. arrays, settings: what was learned and set.
    """

    classes: tuple[str, ...]
    trained_parameters: int
    answer: Answer
    side: int
    aim: str
    rule: apart.Rule
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One map of things per case, on its image's grid."""
        return [LabelMap.of(self._one(case)[None]) for case in cases]

    def _one(self, case: Case) -> np.ndarray:
        """As the picture is; where its things are smaller than those learned from, once more enlarged."""
        answer = answered(self.answer, case, self.side, self.aim)
        sizes = self.settings.get("sizes")
        times = apart.fitting_scale(answer, self.rule, self.aim, sizes[0]) if sizes else 1
        if times > 1:
            answer = answered(self.answer, case, self.side, self.aim, times=times)
        found = apart.told_apart(answer, self.rule, self.aim)
        return found[times // 2 :: times, times // 2 :: times]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        own = {"classes": list(self.classes), "side": self.side, "rule": self.rule.settings()}
        return dict(self.arrays), {**self.settings, **own}


def mirrored_answer(network: Any, pictures: Callable[..., Any], *, mirrored: bool) -> Answer:
    """What a network says of pictures, or on average of them and their mirror images."""

    def answer(images: Sequence[_dense.Roles]) -> Any:
        batch = pictures(images)
        with native():
            scores = network(batch).float()
            for axes in ((2,), (3,), (2, 3)) if mirrored else ():
                scores = scores + network(batch.flip(axes)).float().flip(axes)
        return scores / 4 if mirrored else scores

    return answer


def answered(answer: Answer, case: Case, side: int, aim: str, *, times: int = 1) -> np.ndarray:
    """(kinds + 2, height, width) over a case's image: probabilities, the distance where it is the aim.

    times: how many times larger the image is seen, and answered.
    """
    import torch
    import torch.nn.functional as F

    own, images = cut(case, side, times)
    found = []
    for some in _dense.in_batches(images, BATCH):
        with torch.inference_mode():
            scores = answer(some).float()
            if scores.shape[-1] != side:
                scores = F.interpolate(scores, (side, side), mode="bilinear", align_corners=False)
            if aim == "border":
                found.append(scores.softmax(dim=1))
            else:
                found.append(torch.cat([scores[:, :-1].softmax(dim=1), scores[:, -1:]], dim=1))
    return own.joined(torch.cat(found))


def chosen_rule(answer: Answer, cases: Sequence[Case], task: Task, aim: str) -> apart.Rule:
    """The rule that serves these cases best, which were not learned from."""
    side = side_of(task)
    answers = [answered(answer, case, side, aim) for case in cases]
    return apart.best_rule(answers, [task.target(case)[0] for case in cases], aim)


def sizes_of(cases: Sequence[Case], task: Task) -> list[float] | None:
    """Of the labelled things: see ``apart.typical_sizes``."""
    found = apart.typical_sizes([task.target(case)[0] for case in cases])
    return None if found is None else list(found)


def load_weights(network: Any, arrays: Mapping[str, np.ndarray], told: str) -> None:
    """Put saved arrays into the network's parameters and buffers. Raises UserError where they do not fit."""
    import torch

    mine = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        for name, array in arrays.items():
            if name not in mine or tuple(mine[name].shape) != array.shape:
                raise UserError(f"the saved part {name} {array.shape} does not fit {told}")
            mine[name].copy_(torch.from_numpy(np.array(array)))


def kept_arrays(network: Any, *, without: str = "") -> dict[str, np.ndarray]:
    """Parameters and moving statistics by the network's own names; not those that begin with ``without``."""
    held = {
        **dict(network.named_parameters()),
        **{n: b for n, b in network.named_buffers() if n.endswith(("running_mean", "running_var"))},
    }
    return {
        name: np.array(tensor.detach().numpy(), order="C")
        for name, tensor in held.items()
        if not without or not name.startswith(without)
    }

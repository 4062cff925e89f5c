"""A U-Net from scratch, planned from the labelled cases: what pretrained outlines are measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import augment
from medspectrum.case import Case, Model, Task
from medspectrum.engine import patches, promised, unet
from medspectrum.engine.descend import Order, Rate, StepLoss, descend
from medspectrum.engine.overlap_loss import deep_loss, overlap_loss
from medspectrum.engine.precision import quick_training
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

FINGERPRINTED = 64  # cases whose sizes and spacings decide the plan
BATCH = {2: 8, 3: 2}
EPOCHS, LEAST_STEPS, MOST_STEPS = 25.0, 250, 1500
OVERLAP = 0.5
FEW, FEW_CHANGED = 20, 0.8


@dataclass(frozen=True)
class UNetPredictor:
    """The trained network over whole images in windows; ``case.Predictor`` for a segmentation."""

    classes: tuple[str, ...]
    trained_parameters: int
    network: torch.nn.Module
    plan: unet.Design
    settings: dict[str, Any]
    _ready: list[Any] = field(default_factory=list, compare=False)

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One label map per case, on its image's grid."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The weights, and the plan."""
        arrays = {n: np.array(p.detach().numpy()) for n, p in self.network.named_parameters()}
        return arrays, {**self.settings, "classes": list(self.classes), "plan": self.plan.settings()}

    def promised(self, cases: Sequence[Case]) -> list[np.ndarray]:
        """What each case's probabilities say of its outlines, on the network's grid."""
        import torch

        found = []
        for case in cases:
            scores = torch.from_numpy(self._slid(case, "scores")[0])[None]
            likely = scores if self.settings.get("members", 1) > 1 else scores.softmax(dim=1)
            found.append(promised.sums(likely))
        return found

    def _one(self, case: Case) -> LabelMap:
        found, first = self._slid(case, "scores" if self.plan.spacing else "labels")
        if self.plan.spacing:
            found = unet.back_on_grid(found, first, self.plan)
        return LabelMap.of(found if self.plan.axes == 3 else found[None])

    def _slid(self, case: Case, gives: str) -> tuple[np.ndarray, Image]:
        """Labels or scores on the network's grid, and the case's first image."""
        from medspectrum.engine.window_network import window_network
        from medspectrum.engine.windows import slide

        if not self._ready:
            self._ready.append(
                window_network(self.network, roi=self.plan.patch, channels=self.plan.channels, keep=False)
            )
        images = [image.load() for image in _dense.roles(case)]
        try:
            made = unet.prepare(images, self.plan)
        except UserError as error:
            raise UserError(f"case {case.id}: {error}") from None
        given = made[:, 0] if self.plan.axes == 2 else made
        if self.plan.axes == 2 and made.shape[1] != 1:
            raise UserError(f"case {case.id} is a volume; the network was made for pictures")
        return slide(self._ready[0], given, roi=self.plan.patch, overlap=OVERLAP, gives=gives), images[0]


def _restore(_model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> UNetPredictor:
    import torch

    plan = unet.Design.of(settings["plan"])
    network = unet.together([unet.network(plan, 0, deep=False) for _ in range(settings.get("members", 1))])
    mine = dict(network.named_parameters())
    if set(mine) != set(arrays) or any(tuple(mine[n].shape) != a.shape for n, a in arrays.items()):
        raise UserError("the saved weights do not fit the network of their plan; save the predictor again")
    with torch.no_grad():
        for name, array in arrays.items():
            mine[name].copy_(torch.from_numpy(np.array(array)))
    rest = {k: v for k, v in settings.items() if k not in ("classes", "plan")}
    return _predictor(network.eval(), plan, tuple(settings["classes"]), rest)


def _predictor(
    network: torch.nn.Module, plan: unet.Design, classes: tuple[str, ...], settings: dict[str, Any]
) -> UNetPredictor:
    trained = sum(p.numel() for p in network.parameters())
    return UNetPredictor(classes, trained, network, plan, settings)


def number_of_steps(labels: int, axes: int, epochs: float, least_steps: int, most_steps: int) -> int:
    """Steps for so many passes over the labelled cases, a patch of each a pass."""
    return int(min(most_steps, max(least_steps, math.ceil(epochs * labels / BATCH[axes]))))


def _pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
    steps = number_of_steps(
        labels,
        3,
        settings.get("epochs", EPOCHS),
        settings.get("least_steps", LEAST_STEPS),
        settings.get("most_steps", MOST_STEPS),
    )
    return steps * BATCH[3] * settings.get("members", 1)


@method(
    "unet",
    task="segment",
    trains="network",
    cost=3,
    restore=_restore,
    needs_model=False,
    level="scratch",
    pictures_seen=_pictures_seen,
    available=unet.lacking,
)
def unet_from_scratch(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    epochs: float = EPOCHS,
    least_steps: int = LEAST_STEPS,
    most_steps: int = MOST_STEPS,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    features: int = 0,
    voxels: int = 0,
    members: int = 1,
) -> UNetPredictor:
    """Train a U-Net with random weights, planned from the labelled cases' spacing and size.

    epochs: passes over the cases, within ``least_steps`` and ``most_steps`` steps. learning_rate: peak.
    features: of the first stage. voxels: of a patch at most, for which the network is planned. Both 0 for the
    plan's own number. members: networks that begin and learn by chances of their own, one after the other,
    and whose probabilities are averaged; each takes its own time.
    """
    if members < 1:
        raise UserError(f"members is {members}; give 1 or more")
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    labels = len(task.classes) + 1
    looked_at = list(cases[:FINGERPRINTED])
    images = [[image.load() for image in _dense.roles(case)] for case in looked_at]
    plan = unet.design(
        images, [task.target(case) for case in looked_at], labels, base=features, voxels=voxels
    )
    samples = [_sample(case, task, plan, seed + i) for i, case in enumerate(cases)]
    marked = _dense.marked_as(cases, task)
    change = _turning(images, plan, len(cases))
    steps = number_of_steps(len(cases), plan.axes, epochs, least_steps, most_steps)
    trained = []
    for member in range(members):
        own = seed + 1000 * member
        network = unet.network(plan, own)
        fitted = descend(
            network,
            _loss_of_steps(network, plan, samples, change, own, marked),
            rates=[Rate(list(network.parameters()), learning_rate, weight_decay)],
            steps=steps,
            frozen_statistics=False,
            seed=own,
        )
        trained.append(unet.without_supervision(network, plan))
    settings = {"steps": fitted.steps * members, "seed": seed, "members": members}
    return _predictor(unet.together(trained), plan, tuple(task.classes), settings)


def _loss_of_steps(
    network: torch.nn.Module,
    plan: unet.Design,
    samples: Sequence[patches.Sample],
    change: patches.Turning,
    seed: int,
    marked: np.ndarray | None,
) -> StepLoss:
    """The loss of a batch of new patches at each step. marked: see ``_dense.marked_as``."""
    import torch

    layout = torch.channels_last if plan.axes == 2 else torch.channels_last_3d
    network.to(memory_format=layout)  # type: ignore[call-overload]
    batch_cases = BATCH[plan.axes]
    order = Order(np.arange(len(samples)), seed)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = _again(order.batch(step, batch_cases), batch_cases)
        cut = [patches.cut(samples[i], plan.patch, change, generator) for i in chosen]
        seen = patches.shade(torch.stack([image for image, _ in cut]), generator)
        answer = torch.stack([own for _, own in cut])
        with quick_training():
            scores = network(seen.contiguous(memory_format=layout))
        scores = scores.float()
        deep = scores.ndim == plan.axes + 3
        carried = None if marked is None else torch.from_numpy(marked[chosen])
        return (deep_loss if deep else overlap_loss)(scores, answer, marked=carried)

    return step_loss


def _sample(case: Case, task: Task, plan: unet.Design, seed: int) -> patches.Sample:
    images = [image.load() for image in _dense.roles(case)]
    try:
        made = unet.prepare(images, plan)
    except UserError as error:
        raise UserError(f"case {case.id}: {error}") from None
    truth = unet.prepare_mask(task.target(case), images[0], plan)
    if plan.axes == 2:
        made, truth = made[:, 0], truth[0]
    return patches.Sample.of(made, truth, plan.labels, seed)


def _turning(images: Sequence[Sequence[Image]], plan: unet.Design, cases: int) -> patches.Turning:
    """Cells have no upright; volumes are turned a little, about a coarse axis only where there is one.

    With few cases nearly every patch is changed: the same ones come again and again.
    """
    share = FEW_CHANGED if cases <= FEW else patches.CHANGED
    if plan.axes == 2:
        if images[0][0].modality in augment.ANY_WAY_UP:
            return patches.Turning(degrees=180.0, mirror=(0, 1), share=share)
        mirrored = images[0][0].modality not in augment.RADIOGRAPHS
        return patches.Turning(mirror=(1,) if mirrored else (), share=share)
    spacing = plan.spacing or images[0][0].spacing_mm
    coarse = int(np.argmax(spacing))
    flat = coarse if spacing[coarse] > unet.NOT_POOLED * np.delete(spacing, coarse).max() else -1
    return patches.Turning(flat=flat, share=share)


def _again(chosen: np.ndarray, count: int) -> np.ndarray:
    """As many as the batch has room for; with few cases some stand in it twice, each time cut anew."""
    return np.resize(chosen, count)

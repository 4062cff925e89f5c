"""DETR (Carion et al., ECCV 2020) by transformers: a set of boxes from queries, the reference of the paper.

From random weights unless a folder is named that transformers wrote (config.json and model.safetensors) with
any of its networks for detection: DETR, Conditional and Deformable DETR, RT-DETR. Nothing is downloaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import augment as augmentation
from medspectrum import transforms
from medspectrum.case import Case, Model, Task
from medspectrum.detections import Detections
from medspectrum.engine import box_planes, box_views, patches
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.errors import UserError
from medspectrum.methods import _boxed, _dense
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.image import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEFAULTS: dict[str, Any] = {"epochs": 60.0, "least_steps": 150, "most_steps": 1500}
MOST, LEAST_SCORE = 100, 0.01
CLIP = 0.1  # as DETR was trained


@dataclass(frozen=True)
class _Input:
    """How pictures are prepared for the network: ``size`` and ``prepare`` as an encoder has them."""

    size: tuple[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def prepare(self, image: Image) -> np.ndarray:
        return transforms.flat_input(image, side=self.size[0], mean=self.mean, std=self.std)


@dataclass(frozen=True)
class DetrPredictor:
    """The trained network, plane by plane; ``case.Predictor`` for a detection. Looks at the first role."""

    classes: tuple[str, ...]
    trained_parameters: int
    network: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def predict(self, cases: Sequence[Case]) -> list[Detections]:
        """The boxes of each case, in pixels of its image."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All weights, and the network's own configuration."""
        kept = self.network.state_dict().items()
        arrays = {n: np.array(t.detach().numpy(), order="C") for n, t in kept}
        return arrays, {**self.settings, "classes": list(self.classes)}

    def _one(self, case: Case) -> Detections:
        import torch

        own, given = _dense.cuts(case)[0], _input(self.settings)
        side, size = given.size[0], own.plane
        found = []
        for some in _dense.in_batches(own.planes, 4):
            batch = torch.from_numpy(np.stack([given.prepare(image.load()) for image in some]))
            with torch.inference_mode():
                answer = self.network(pixel_values=batch)
            for logits, boxes in zip(answer.logits, answer.pred_boxes, strict=True):
                found.append(_kept(logits, boxes, size, side, len(self.classes)))
        return found[0] if own.size[0] == 1 else box_planes.joined(found, own.axis)


def _kept(
    logits: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], side: int, classes: int
) -> Detections:
    """The surest boxes of one plane. boxes: (q, 4) middle and extent as shares of the square input."""
    import torch
    from torchvision.ops import box_convert, clip_boxes_to_image

    # one output more than classes stands for nothing, as DETR has it; the others judge each class alone
    scores = logits.softmax(-1)[:, :-1] if logits.shape[-1] == classes + 1 else logits.sigmoid()
    corners = _boxed.to_plane(box_convert(boxes * side, "cxcywh", "xyxy"), size, side)
    corners = clip_boxes_to_image(corners, size)
    place, label = torch.nonzero(scores > LEAST_SCORE, as_tuple=True)
    score = scores[place, label]
    order = score.argsort(descending=True, stable=True)[: MOST * classes]
    place, label, score = place[order], label[order], score[order]
    wide = ((corners[place, 2:] - corners[place, :2]) > 1e-3).all(dim=1)
    return Detections.of(corners[place][wide].numpy(), score[wide].numpy(), label[wide].numpy())


def _input(settings: dict[str, Any]) -> _Input:
    return _Input((settings["side"],), tuple(settings["mean"]), tuple(settings["std"]))


def small_configuration(classes: int, queries: int) -> dict[str, Any]:
    """A DETR of 4 million parameters on a ResNet-18 of half width, for training on few pictures."""
    from transformers import DetrConfig, ResNetConfig

    stem: dict[str, Any] = {
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128, 256],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
        "out_features": ["stage4"],
    }
    settings: dict[str, Any] = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": ResNetConfig(**stem),
        "d_model": 128,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "num_queries": queries,
        "num_labels": classes,
        "auxiliary_loss": True,
    }
    made = DetrConfig(**settings)
    return made.to_dict()


def _network(configuration: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForObjectDetection

    rest = {k: v for k, v in configuration.items() if k != "model_type"}
    return AutoModelForObjectDetection.from_config(AutoConfig.for_model(configuration["model_type"], **rest))


def _from_folder(folder: Path, classes: Sequence[str]) -> tuple[Any, tuple[Any, Any]]:
    """The network of a folder with a new classifier, and its mean and standard deviation of pixels."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no {name}; give a folder that transformers' save_pretrained wrote"
            )
    try:
        known = AutoConfig.from_pretrained(
            folder, local_files_only=True, id2label=dict(enumerate(classes)), trust_remote_code=False
        )
        network = AutoModelForObjectDetection.from_pretrained(
            folder, config=known, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} cannot be read as a network for detection ({str(error)[:200]}); give a folder of "
            "DETR, RT-DETR or one of their kin"
        ) from error
    mean, std = IMAGENET
    beside = folder / "preprocessor_config.json"
    if beside.is_file():
        said = json.loads(beside.read_text())
        plain = said.get("do_normalize") is False
        mean = (0.0,) * 3 if plain else tuple(said.get("image_mean") or mean)
        std = (1.0,) * 3 if plain else tuple(said.get("image_std") or std)
    return network, (mean, std)


def _restore(_model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> DetrPredictor:
    network = _network(settings["configuration"]).eval()
    _boxed.take_back(network, arrays, "this network")
    rest = {k: v for k, v in settings.items() if k != "classes"}
    return DetrPredictor(tuple(settings["classes"]), _trained(network), network, rest)


def _trained(network: Any) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@method(
    "detr",
    task="detect",
    trains="network",
    cost=3,
    restore=_restore,
    needs_model=False,
    level="scratch",
    pictures_seen=_boxed.pictures_seen(DEFAULTS),
)
def detr(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    checkpoint: str = "",
    side: int = 320,
    queries: int = 60,
    epochs: float = DEFAULTS["epochs"],
    least_steps: int = DEFAULTS["least_steps"],
    most_steps: int = DEFAULTS["most_steps"],
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-4,
    any_way_up: bool = False,
) -> DetrPredictor:
    """Train DETR: from random weights, or from a folder of weights that transformers wrote.

    checkpoint: that folder. side: pixels of the square input. queries: boxes that a new network can find at
    most. epochs: passes over the labelled planes, within ``least_steps`` and ``most_steps`` steps.
    learning_rate: peak. any_way_up: what is looked for has no upright.
    """
    import torch

    given = [
        _boxed.Plane(plane.images[:1], plane.boxes, plane.labels, plane.size)
        for plane in _boxed.boxed_planes(cases, task)
    ]
    mean, std = IMAGENET
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if checkpoint:
            network, (mean, std) = _from_folder(Path(checkpoint), task.classes)
        else:
            network = _network(small_configuration(len(task.classes), queries))
    seen: Any = _Input((side,), tuple(mean), tuple(std))
    held = [_boxed.pictured(seen, plane) for plane in given]
    order = Order(np.arange(len(given)), seed)
    change = _boxed.turning(cases[0], any_way_up=any_way_up)

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        picked = np.resize(order.batch(step, _boxed.BATCH), _boxed.BATCH)
        views = [box_views.view(held[i], side, change, generator) for i in picked]
        batch = patches.shade(torch.stack([pixels for pixels, _ in views]), generator)
        batch = augmentation.tint(batch, generator, strength=augmentation.COLOUR)
        answer = network(pixel_values=batch, labels=[_told(truth, side) for _, truth in views])
        loss: torch.Tensor = answer.loss
        if not math.isfinite(float(loss.detach())):
            raise UserError("training DETR gave no finite loss; lower its learning_rate")
        return loss

    fitted = descend(
        network,
        step_loss,
        rates=[Rate([p for p in network.parameters() if p.requires_grad], learning_rate, weight_decay)],
        steps=_boxed.number_of_steps(len(given), epochs, least_steps, most_steps),
        clip=CLIP,
        frozen_statistics=bool(checkpoint),
        seed=seed,
    )
    settings = {
        "configuration": json.loads(network.config.to_json_string(use_diff=False)),
        "side": side,
        "mean": list(mean),
        "std": list(std),
        "steps": fitted.steps,
    }
    return DetrPredictor(tuple(task.classes), _trained(network), network.eval(), settings)


def _told(truth: Any, side: int) -> dict[str, torch.Tensor]:
    """True boxes as transformers takes them: middle and extent as shares of the picture."""
    from torchvision.ops import box_convert

    return {"class_labels": truth.labels, "boxes": box_convert(truth.boxes, "xyxy", "cxcywh") / side}

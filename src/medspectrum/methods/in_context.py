"""UniverSeg as a method: the labelled cases are the support set, nothing is trained.

The weights are the user's: ``checkpoint`` names the published file or one of the same form. Planes are made
grey, brought to the network's square and to 0-1 by their own ends, as its authors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.case import Case, LazyImage, Model, Task
from medspectrum.engine import universeg as published
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense
from medspectrum.registry import method

SUPPORT = 16
EMPTY_SHARE = 0.25
"""Of the support planes of a volume, so many may show none of the labels."""


@dataclass(frozen=True)
class InContextPredictor:
    """The network and its support set. images, labels: (n, side, side) uint8."""

    classes: tuple[str, ...]
    network: Any
    images: np.ndarray
    labels: np.ndarray
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One label map per case, on its image's grid."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The support set, and the network's weights with it."""
        weights = {f"network/{n}": v.numpy() for n, v in self.network.state_dict().items()}
        return {"images": self.images, "labels": self.labels, **weights}, {"classes": list(self.classes)}

    def _one(self, case: Case) -> LabelMap:
        own = _dense.cuts(case)[0]
        return LabelMap.of(own.joined([self._plane(image, own.plane) for image in own.planes]))

    def _plane(self, image: LazyImage, size: tuple[int, int]) -> np.ndarray:
        """(height, width) labels: each is asked for alone, the surest above one half wins."""
        import torch
        import torch.nn.functional as F

        target = torch.from_numpy(_square(image, self.images.shape[-1]))[None, None].float() / 255
        images = torch.from_numpy(self.images)[None, :, None].float() / 255
        logits = [torch.zeros(1, 1, *target.shape[2:])]
        with torch.inference_mode():
            for label in range(1, len(self.classes) + 1):
                shown = torch.from_numpy(self.labels == label)[None, :, None].float()
                seldom = not bool(shown.any())  # nothing was shown of it, nothing can be found
                logits.append(logits[0] - 1e4 if seldom else self.network(target, images, shown))
            whole = F.interpolate(torch.cat(logits, dim=1), size, mode="bilinear", align_corners=False)
        return whole[0].argmax(dim=0).to(torch.uint8).numpy()


def _square(image: LazyImage, side: int) -> np.ndarray:
    """The plane in grey, stretched to (side, side), its own least and greatest value 0 and 255; uint8."""
    from PIL import Image as Pillow

    unit = transforms.to_unit(image.load())[:, 0]
    if unit.dtype != np.uint8:
        unit = np.rint(unit * 255).astype(np.uint8)
    grey = Pillow.fromarray(np.ascontiguousarray(transforms.with_channels(unit, 1)[0]))
    made = np.asarray(grey.resize((side, side), Pillow.Resampling.BILINEAR)).astype(np.float32)
    low, high = made.min(), made.max()
    return np.rint((made - low) * (255 / max(high - low, 1))).astype(np.uint8)


def _labels(labels: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image as Pillow

    given = Pillow.fromarray(np.ascontiguousarray(labels.astype(np.uint8)))
    return np.asarray(given.resize((side, side), Pillow.Resampling.NEAREST))


def _restore(
    _model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> InContextPredictor:
    import torch

    weights = {
        n.removeprefix("network/"): torch.from_numpy(np.array(a))
        for n, a in arrays.items()
        if n.startswith("network/")
    }
    network = published.loaded(weights, "the predictor")
    classes = tuple(settings["classes"])
    return InContextPredictor(classes, network, np.asarray(arrays["images"]), np.asarray(arrays["labels"]))


def fake(folder: Path) -> dict[str, Any]:
    """Settings with a small checkpoint of drawn weights, to try the method with."""
    import torch

    path = folder / "universeg.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(published.network(((4, 4), (4, 4))).state_dict(), path)
    return {"checkpoint": str(path), "support": 4, "side": 32}


@method(
    "universeg",
    task="segment",
    trains="nothing",
    cost=1,
    restore=_restore,
    needs_model=False,
    level="modality",
    needs=("checkpoint",),
    licence="that of the checkpoint",
    commercial_use=False,
    fake=fake,
)
def universeg(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    checkpoint: str = "",
    support: int = SUPPORT,
    side: int = published.SIDE,
) -> InContextPredictor:
    """Outline as the labelled cases show, by UniverSeg's weights; trains nothing.

    checkpoint: the published file. support: planes shown to the network, whose time grows with them (the
    paper's largest is 64). side: pixels of the network's square.
    """
    if not checkpoint:
        raise UserError(
            'universeg needs the published weights: put checkpoint = "PATH" into a plan\'s table [universeg]'
        )
    if support < 1 or side < 16:
        raise UserError(
            f"universeg needs support of 1 or more and a side of 16 or more; got {support}, {side}"
        )
    network = published.loaded(tensors_of(Path(checkpoint)), checkpoint)
    given = _dense.labelled_planes(cases, task)
    chosen = [given[i] for i in _chosen(given, support, seed)]
    images = np.stack([_square(plane.images[0], side) for plane in chosen])
    labels = np.stack([_labels(plane.labels, side) for plane in chosen])
    return InContextPredictor(tuple(task.classes), network, images, labels)


def _chosen(given: Sequence[_dense.Plane], count: int, seed: int) -> list[int]:
    """Planes to show: spread over cases, of which some may show no label."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(given))
    filled = [int(i) for i in order if given[i].labels.any()]
    empty = [int(i) for i in order if not given[i].labels.any()]
    if not filled:
        return empty[:count]
    bare = min(len(empty), int(EMPTY_SHARE * count))
    turns: dict[int, int] = {}
    rank = []
    for i in filled:  # every case's first plane before any case's second
        turn = turns[given[i].case] = turns.get(given[i].case, 0) + 1
        rank.append((turn, len(rank), i))
    kept = [i for _, _, i in sorted(rank)][: count - bare]
    return sorted([*kept, *empty[: count - len(kept)]]) if len(given) > count else list(range(len(given)))

"""Labels carried over by registration: the labelled cases are atlases that are brought onto each new one.

Needs no training and no encoder, and one labelled case is enough. Several atlases vote, each as much as it
came to look like the case (Heckemann et al., "Automatic anatomical brain MRI segmentation combining label
propagation and decision fusion", NeuroImage 33, 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine.align.carry import carried
from medspectrum.engine.align.mind import grey
from medspectrum.engine.align.pipeline import align
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.methods._dense import refuse_partial, roles
from medspectrum.registry import method

ATLASES = 5
KEPT = 24  # labelled cases that are remembered at most; others add storage and little else
THUMB = 12  # side of the pictures by which atlases are chosen


@dataclass(frozen=True)
class Atlas:
    """A labelled case. image: one channel; labels: on its grid; thumb: (n,) its looks, unit length."""

    image: Image
    labels: Image
    thumb: np.ndarray


@dataclass(frozen=True)
class PropagatePredictor:
    """Brings the atlases that look most alike onto a case and lets them vote; ``case.Predictor``."""

    classes: tuple[str, ...]
    atlases: tuple[Atlas, ...]
    used: int
    how: str
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One label map per case, on its image's grid."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The atlases themselves."""
        arrays = {}
        for i, atlas in enumerate(self.atlases):
            arrays[f"image{i}"] = atlas.image.array
            arrays[f"labels{i}"] = atlas.labels.array
            arrays[f"affine{i}"] = atlas.image.affine
        settings = {
            "classes": list(self.classes),
            "count": len(self.atlases),
            "known": [atlas.image.spacing_known for atlas in self.atlases],
            "used": self.used,
            "how": self.how,
        }
        return arrays, settings

    def _one(self, case: Case) -> LabelMap:
        fixed = _seen(case)
        own = _thumb(fixed)
        order = np.argsort([-float(own @ atlas.thumb) for atlas in self.atlases], kind="stable")
        votes = np.zeros((len(self.classes) + 1, *fixed.size), np.float32)
        for place in order[: self.used]:
            atlas = self.atlases[int(place)]
            found = _aligned(atlas.image, fixed, self.how)
            if found is None:
                continue
            brought = carried(atlas.labels, found.fixed, found.field).array[0]
            weight = 1.0 / max(found.facts["mind_distance_after"], 1e-4)
            for label in range(len(votes)):
                votes[label] += weight * (brought == label)
        return LabelMap.of(votes.argmax(axis=0).astype(np.uint8))


def _aligned(moving: Image, fixed: Image, how: str) -> Any:
    """Where the headers place both, else middle on middle; None where one is blank."""
    known = moving.spacing_known and fixed.spacing_known
    for start in ("header", "centres") if known else ("centres",):
        try:
            return align(moving, fixed, method=how, start=start)
        except UserError:
            continue
    return None


def _seen(case: Case) -> Image:
    """The case's first image, one channel, scaled alike whatever its range."""
    return grey(roles(case)[0].load())


def _thumb(image: Image) -> np.ndarray:
    import torch

    size = tuple(THUMB if n > 1 else 1 for n in image.size)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(image.array[None], np.float32)), size, mode="trilinear"
    )
    flat = small.numpy().ravel()
    flat = flat - flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-12)


def _restore(
    _model: Model | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> PropagatePredictor:
    atlases = []
    for i, known in zip(range(settings["count"]), settings["known"], strict=True):
        affine = np.asarray(arrays[f"affine{i}"])
        image = Image(np.asarray(arrays[f"image{i}"]), affine, "", known)
        labels = Image(np.asarray(arrays[f"labels{i}"]), affine, "", known)
        atlases.append(Atlas(image, labels, _thumb(image)))
    return PropagatePredictor(tuple(settings["classes"]), tuple(atlases), settings["used"], settings["how"])


@method(
    "propagate",
    task="segment",
    trains="nothing",
    cost=1,
    restore=_restore,
    needs_model=False,
    level="registration",
)
def propagate(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    atlases: int = ATLASES,
    how: str = "convex_adam",
) -> PropagatePredictor:
    """Bring labelled cases onto each new one by registration and carry their labels over; trains nothing.

    atlases: how many labelled cases vote on each new one. how: the method of registration.
    """
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    refuse_partial(cases, task)
    chosen = np.random.default_rng(seed).permutation(len(cases))[:KEPT]
    made = []
    for place in sorted(chosen):
        image = _seen(cases[place])
        labels = Image(task.target(cases[place])[None], image.affine, "", image.spacing_known)
        made.append(Atlas(Image(image.array, image.affine, "", image.spacing_known), labels, _thumb(image)))
    flat = {atlas.image.size[0] == 1 for atlas in made}
    if len(flat) > 1:
        raise UserError("some cases are pictures and some volumes; explore them apart")
    return PropagatePredictor(tuple(task.classes), tuple(made), atlases, how)

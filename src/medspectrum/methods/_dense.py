"""What methods that outline share: planes of cases, their feature maps, and predictors plane by plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, LazyImage, Task
from medspectrum.engine import planes, promised
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

LEVEL = "maps"
BATCH_PLANES = 16

Roles = tuple[LazyImage, ...]
"""The pictures of one plane, one per role."""


@dataclass(frozen=True)
class Plane:
    """One flat picture to learn from. labels: (height, width), 0 background. roles: its images."""

    images: Roles
    labels: np.ndarray
    case: int
    patient: str


def roles(case: Case) -> Roles:
    """The case's images in the order of their roles. Raises UserError where there is none."""
    if not case.images:
        raise UserError(f"case {case.id} has no image; leave it out")
    return tuple(case.images[role] for role in sorted(case.images))


def cuts(case: Case) -> tuple[planes.Cut, ...]:
    """Each image of the case, cut alike. Raises UserError where they lie on different grids."""
    found = tuple(planes.cut(image) for image in roles(case))
    if len({(c.size, c.axis) for c in found}) > 1:
        sizes = ", ".join(" x ".join(map(str, c.size)) for c in found)
        raise UserError(f"case {case.id} has images on different grids ({sizes}); resample them to one")
    return found


def marked_as(cases: Sequence[Case], task: Task) -> np.ndarray | None:
    """(n, labels) the label that voxels of each label carry in each case's mask; None where each its own.

    See ``tasks.segment.Segment.marked_as``.
    """
    asked = getattr(task, "marked_as", None)
    found = [asked(case) for case in cases] if asked is not None else []
    if all(own is None for own in found):
        return None
    plain = np.arange(len(task.classes) + 1)
    return np.stack([plain if own is None else own for own in found]).astype(np.int64)


def refuse_partial(cases: Sequence[Case], task: Task) -> None:
    """Raise UserError where masks do not show all labels: most methods would take the rest for nothing."""
    if marked_as(cases, task) is not None:
        raise UserError(
            "some masks do not show all labels, and this method would take what they do not show for "
            "background; the methods unet, decoder, lora_decoder and full_decoder learn from them"
        )


def labelled_planes(cases: Sequence[Case], task: Task, *, partial: bool = False) -> list[Plane]:
    """All planes of the labelled cases.

    partial: whether masks that do not show all labels may be among them. Raises UserError where there is no
    case, or one that may not be.
    """
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    if not partial:
        refuse_partial(cases, task)
    made = []
    for place, case in enumerate(cases):
        own = cuts(case)
        for number, labels in enumerate(own[0].cut(task.target(case))):
            images = tuple(c.planes[number] for c in own)
            made.append(Plane(images, labels, place, case.patient))
    return made


def maps_of(model: Encoder, images: Sequence[Roles]) -> list[torch.Tensor]:
    """Feature maps of planes, fine to coarse, each (n, c, h, w); several roles stand along c."""
    import torch

    by_role = [model.embed([own[r] for own in images], LEVEL).maps for r in range(len(images[0]))]
    return [torch.from_numpy(np.concatenate(parts, axis=1)) for parts in zip(*by_role, strict=True)]


def pictures(model: Encoder, images: Sequence[Roles]) -> torch.Tensor:
    """The planes as the network's input, (n, C, side, side); several roles stand along C."""
    import torch

    rows = [np.concatenate([model.prepare(image.load()) for image in own]) for own in images]
    return torch.from_numpy(np.stack(rows))


class Held:
    """Maps and pictures of labelled planes, kept in memory at half precision up to a bound."""

    def __init__(self, model: Encoder, given: Sequence[Plane], *, bound: int) -> None:
        self._model, self._given, self._left = model, given, bound
        self._kept: dict[int, list[np.ndarray]] = {}

    def take(self, chosen: Sequence[int] | np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Maps, fine to coarse, each (n, c, h, w), and pictures (n, C, side, side), float32."""
        import torch

        lacking = [int(i) for i in chosen if int(i) not in self._kept]
        read: dict[int, list[np.ndarray]] = {}
        for some in in_batches(lacking):
            images = [self._given[i].images for i in some]
            parts = [*maps_of(self._model, images), pictures(self._model, images)]
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


def in_batches(items: Sequence[Any], size: int = BATCH_PLANES) -> Iterator[Sequence[Any]]:
    """Some at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@dataclass(frozen=True)
class PlanePredictor:
    """Outlines each plane by a function of its feature maps; ``case.Predictor`` for a segmentation.

    scores: (maps of n planes, their pictures) -> (n, labels, h, w), over the network's square input.
    arrays, settings: what was learned and set; classes are the task's labels. answer: (maps, pictures as
    tensors) -> the same scores, differentiable, where the method can say them so.
    """

    model: Encoder
    classes: tuple[str, ...]
    trained_parameters: int
    scores: Callable[[list[torch.Tensor], Sequence[Roles]], torch.Tensor]
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    answer: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor] | None = None

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One label map per case, on its image's grid."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What restore needs."""
        return dict(self.arrays), {**self.settings, "classes": list(self.classes)}

    def promised(self, cases: Sequence[Case]) -> list[np.ndarray]:
        """What each case's probabilities say of its outlines; see ``engine.promised.sums``."""
        return [
            np.sum([promised.sums(flat.softmax(dim=1)) for flat in self._flat(case)], axis=0)
            for case in cases
        ]

    def _one(self, case: Case) -> LabelMap:
        found: list[np.ndarray] = []
        for flat in self._flat(case):
            found.extend(flat.argmax(dim=1).to(dtype=_uint8()).numpy())
        return LabelMap.of(planes.cut(roles(case)[0]).joined(found))

    def _flat(self, case: Case) -> Iterator[torch.Tensor]:
        """Scores (n, labels, height, width) of the case's planes, some at a time."""
        own = cuts(case)
        images = [tuple(c.planes[i] for c in own) for i in range(len(own[0].planes))]
        for some in in_batches(images):
            scores = self.scores(maps_of(self.model, some), some)
            yield planes.to_plane(scores, own[0].plane, self.model.size[-1])


def _uint8() -> Any:
    import torch

    return torch.uint8

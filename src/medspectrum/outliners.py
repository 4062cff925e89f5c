"""What the verb ``segment`` asks for each image: what is pointed at, everything, or what plans say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import planned, pointing, transforms
from medspectrum.case import Case, LeftOut
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import sam
from medspectrum.models.nnunet_folder import Trained
from medspectrum.pointing import Pointing
from medspectrum.progress import Progress
from medspectrum.prompted import Outlined, axis_of, everything_in, outlined, pixels_of
from medspectrum.prompts import UNNAMED, read_boxes, read_points

MOST_THINGS = (1 << 16) - 1  # in one image: what a mask's numbers hold


@dataclass(frozen=True, eq=False)
class Answer:
    """One image's outlines. labels: (Z, Y, X), None where nobody speaks of it. names: of its values.

    rows: one for each outline. left_out: prompts that could not be used.
    """

    labels: np.ndarray | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    names: Mapping[int, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class Outliner:
    """values: of masks by label. instances: the things of an image are numbered. answer: of one image."""

    values: dict[str, int]
    instances: bool
    answer: Callable[[Case, Image], Answer]


def of_everything(network: sam.Promptable, window: tuple[float, float] | None, **settings: Any) -> Outliner:
    """Whatever stands out in each plane, numbered. settings: see ``prompted.everything_in``."""

    def answer(_case: Case, image: Image) -> Answer:
        axis = transforms.through_plane_axis(image) - 1 if image.is_volume else 0
        found = everything_in(network, pixels_of(image, window), axis=axis, **settings)
        if len(found.rows) > MOST_THINGS:
            raise UserError(f"holds {len(found.rows)} things; raise --min-iou or --min-stability")
        names = {row["value"]: str(row["label"]) for row in found.rows}
        return Answer(found.labels, found.rows, names)

    return Outliner({UNNAMED: 1}, True, answer)


def of_pointing(
    network: sam.Promptable,
    asked: Pointing,
    window: tuple[float, float] | None,
    *,
    instances: bool,
) -> Outliner:
    """What ``asked`` points at."""
    values = _values(asked.labels)

    def answer(case: Case, image: Image) -> Answer:
        pixels = pixels_of(image, window)
        given = asked.ask(case, image, pixels)
        if given is None:
            return Answer(None)
        pointers, left_out = [], []
        for pointer in given:
            try:
                pointers.append(pointer.checked(image.size))
            except UserError as error:
                left_out.append(LeftOut(f"{pointer.source} ({case.id})", str(error)))
        if given and not pointers:
            return Answer(None, left_out=left_out)
        own = list(range(1, len(pointers) + 1)) if instances else [values[p.label] for p in pointers]
        found: Outlined = outlined(network, pixels, pointers, own, axis=axis_of(pointers, image))
        names = {value: pointer.label for value, pointer in zip(own, pointers, strict=True)}
        return Answer(found.labels, found.rows, names, left_out)

    return Outliner(values, instances, answer)


def of_plans(trained: Trained, cache: Path | None, progress: Progress) -> Outliner:
    """Every label of a network of nnU-Net, in the whole image."""
    values = planned.values_of(trained.plans)
    find = planned.outliner(trained, cache, progress)
    source = f"fold {trained.fold}"

    def answer(case: Case, image: Image) -> Answer:
        labels = find(case, image)
        counts = np.bincount(labels.reshape(-1), minlength=max(values.values()) + 1)
        rows = [
            {
                "label": name,
                "value": value,
                "box": None,
                "score": None,
                "estimated_iou": None,
                "planes": int((labels == value).any(axis=(1, 2)).sum()),
                "voxels": int(counts[value]),
                "source": source,
            }
            for name, value in values.items()
            if counts[value]
        ]
        return Answer(labels, rows, {value: name for name, value in values.items()})

    return Outliner(values, False, answer)


def pointing_by(
    way: str,
    given: Any,
    cases: Sequence[Case],
    detector: Path | None,
    min_score: float,
    cache: Path | None,
    progress: Progress,
) -> Pointing:
    """Who points, in the way that was chosen: boxes, boxes_from, points, masks or text."""
    if way == "text":
        return pointing.by_text(given, detector, min_score)
    path = Path(given)
    if way == "boxes_from":
        return pointing.by_predictor(path, cases, min_score, cache, progress)
    if way == "masks":
        return pointing.by_masks(path, cases)
    given = read_boxes(path) if way == "boxes" else read_points(path)
    return pointing.by_file(given, cases, min_score)


def _values(labels: Sequence[str]) -> dict[str, int]:
    """A value of masks for each label: its own where all are whole numbers, else counted from 1."""
    if all(label.isdecimal() and 0 < int(label) < 1 << 16 for label in labels):
        return {label: int(label) for label in labels}
    return {label: number for number, label in enumerate(labels, start=1)}

"""Who points: a file of boxes or points, a folder of rough masks, a predictor that detects, or words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import formats
from medspectrum.case import Case, LeftOut, label_order
from medspectrum.datasets import _files
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.progress import Progress
from medspectrum.prompts import Given, Pointer
from medspectrum.tasks.segment import grid_of, on_grid

Ask = Callable[[Case, Image, np.ndarray], "Sequence[Pointer] | None"]
"""(case, its image, the pixels shown (3, Z, Y, X) uint8) -> pointers, None where it is not spoken of."""


@dataclass(frozen=True)
class Pointing:
    """Whom to ask what to outline in a case, the labels it may name, and what had to be left out."""

    labels: tuple[str, ...]
    ask: Ask
    left_out: list[LeftOut] = field(default_factory=list)


def by_file(given: Given, cases: Sequence[Case], min_score: float = 0.0) -> Pointing:
    """Boxes or points that a file gives; those with a score, as detectors write, from ``min_score`` on."""
    found, unknown = given.of_cases(cases)
    own = {
        name: [p for p in pointers if p.score is None or p.score >= min_score]
        for name, pointers in found.items()
    }
    labels = {p.label for pointers in found.values() for p in pointers}

    def ask(case: Case, _image: Image, _pixels: np.ndarray) -> Sequence[Pointer] | None:
        return own.get(case.id)

    return Pointing(tuple(sorted(labels, key=label_order)), ask, [*given.left_out, *unknown])


def by_masks(path: Path, cases: Sequence[Case]) -> Pointing:
    """Rough label maps with the images' names, each label of each an object."""
    if path.is_dir():
        left_out: list[LeftOut] = []
        files = {_files.stem(f): Path(f) for f in _files.images(path, left_out)}
    elif path.is_file():
        files, left_out = {_files.stem(path): path}, []
        if len(cases) == 1:  # one mask for one image needs no name
            files = {_files.stem(grid_of(cases[0]).source.partition("#")[0]): path}
    else:
        raise UserError(f"{path}: does not exist; give a folder of label maps with the images' names")
    if not files:
        raise UserError(f"{path}: holds no label map; give one with the name of each image")
    own = {case.id: _files.stem(grid_of(case).source.partition("#")[0]) for case in cases}
    strange = sorted(set(files) - set(own.values()))
    left_out += [LeftOut(str(files[s]), "has no image of the same name") for s in strange]

    def ask(case: Case, image: Image, _pixels: np.ndarray) -> Sequence[Pointer] | None:
        file = files.get(own[case.id])
        if file is None:
            return None
        labels = on_grid(formats.read(file), image, str(file), grid_of(case).source)
        values = [int(v) for v in np.unique(labels) if v]
        return [Pointer(str(v), f"{file.name}, label {v}", mask=labels == v) for v in values]

    found: set[int] = set()
    for case in cases:
        file = files.get(own[case.id])
        if file is not None:
            try:
                found.update(int(v) for v in np.unique(formats.read(file).array) if v)
            except UserError:
                continue  # named when its case is asked for
    if not found:
        raise UserError(f"{path}: none of its label maps belongs to an image and holds a label above 0")
    return Pointing(tuple(str(v) for v in sorted(found)), ask, left_out)


def by_predictor(
    folder: Path, cases: Sequence[Case], min_score: float, cache: Path | None, progress: Progress
) -> Pointing:
    """Boxes that a saved predictor of the task detect finds."""
    from medspectrum import registry, store
    from medspectrum.predictor import load_predictor, read_facts

    named = read_facts(folder)["task"]
    if named != "detect":
        raise UserError(f"{folder}: is a predictor for {named}; boxes come from one for the task detect")
    saved = load_predictor(folder, cache=store.cache_folder(cache))
    task = registry.find("task", named).thing(**saved.facts["task_settings"])
    if saved.model is not None:
        images = []
        for case in cases:
            try:
                images += task.seen(case)
            except UserError:
                continue  # named when its case is asked for
        step = progress.step(f"embedding by {saved.facts['model']}")
        saved.model.ensure(images, progress=step, level=task.level)

    def ask(case: Case, _image: Image, _pixels: np.ndarray) -> Sequence[Pointer] | None:
        [found] = saved.predictor.predict([case])
        return [
            Pointer(saved.classes[int(label)], f"{folder}, box {n}", _edges(box), score=float(score))
            for n, (box, score, label) in enumerate(
                zip(found.boxes, found.scores, found.labels, strict=True), start=1
            )
            if score >= min_score
        ]

    return Pointing(saved.classes, ask)


def by_text(words: str, detector: Path | None, min_score: float) -> Pointing:
    """Boxes of what words name, plane by plane."""
    from medspectrum.models import text_boxes

    if detector is None:
        raise UserError("text needs --detector: the folder of an OWL-ViT, OWLv2 or Grounding DINO")
    labels = tuple(dict.fromkeys(w.strip() for w in words.split(",") if w.strip()))
    if not labels:
        raise UserError(f"text {words!r} names nothing; write labels, separated by commas")
    finder = text_boxes.load(detector)

    def ask(_case: Case, image: Image, pixels: np.ndarray) -> Sequence[Pointer]:
        from medspectrum.transforms import through_plane_axis

        axis = through_plane_axis(image) - 1 if image.is_volume else 0
        found = []
        for place, plane in enumerate(np.moveaxis(pixels, axis + 1, 0)):
            boxes, scores, own = text_boxes.find(finder, plane, labels, min_score=min_score)
            for box, score, label in zip(boxes, scores, own, strict=True):
                edges = _edges(box) if not image.is_volume else _in_volume(_edges(box), place, axis)
                source = f"{labels[int(label)]!r} in plane {place}" if image.is_volume else labels[int(label)]
                found.append(Pointer(labels[int(label)], source, edges, score=float(score)))
        return found

    return Pointing(labels, ask)


def _edges(box: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in box)


def _in_volume(box: tuple[float, ...], place: int, axis: int) -> tuple[float, ...]:
    """A box on plane ``place`` of ``axis`` (of Z, Y, X) as six edges of the volume."""
    low, high = list(box[:2]), list(box[2:])
    low.insert(2 - axis, float(place))
    high.insert(2 - axis, float(place + 1))
    return (*low, *high)

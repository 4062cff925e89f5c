"""Find every thing of some kinds in a case: a box around each, with a label and a score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medspectrum import detections, store
from medspectrum.case import BoxTarget, Case, LazyImage, MaskTarget, label_order
from medspectrum.detections import Detections
from medspectrum.engine import box_planes, planes
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import RESAMPLES, resampled
from medspectrum.metrics.boxes import BoxMatches, match_boxes
from medspectrum.metrics.detection import FROC_RATES, average_precision, froc
from medspectrum.registry import task
from medspectrum.tasks._centres import by_centre
from medspectrum.tasks._given import checked_boxes, name_of, named
from medspectrum.tasks.segment import BACKGROUND, grid_of, on_grid

REPORTED = ("map50", "map", "map75", "recall", "froc")
HIT = 0.5
"""The overlap (IoU) from which a found box is a hit, for FROC and for what is drawn."""


class Boxes(NamedTuple):
    """What is truly there: boxes (n, 4) or (n, 6) in pixels, labels (n,) indices into the classes."""

    boxes: np.ndarray
    labels: np.ndarray


@task("detect")
class Detect:
    """Boxes in every case; scored by COCO's average precision, averaged over labels.

    Boxes are given with the cases, or drawn around the connected parts of each label of a mask.
    """

    name = "detect"
    level = "maps"
    strata = 1

    def __init__(self, classes: Sequence[str], *, primary: str = "map50") -> None:
        """classes: names of what is looked for."""
        if not classes:
            raise UserError("detection needs cases with at least one box; check the annotations")
        if primary not in REPORTED:
            raise UserError(f"{primary!r} cannot decide; use {', '.join(REPORTED)}")
        self.classes, self.primary = tuple(classes), primary
        self._kept: dict[str, Boxes] = {}
        self._sizes: dict[str, tuple[int, int, int]] = {}
        self._why: dict[str, str] = {}

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Detect:
        """The labels of the cases' boxes, or of their masks where they have no boxes."""
        found: set[str] = set()
        asked = 0
        for case in cases:
            boxes, mask = case.asked(BoxTarget), case.asked(MaskTarget)
            asked += boxes is not None or mask is not None
            if boxes is not None:
                found.update(boxes.labels)
            elif mask is not None:
                found.update(named(mask))
        if not asked:
            raise UserError(
                f"the {len(cases)} cases carry no boxes and no masks; detection needs boxes (Pascal VOC or "
                "COCO) or label maps to draw boxes around"
            )
        return cls(sorted(found, key=label_order))

    def seen(self, case: Case) -> list[LazyImage]:
        """Every plane of the case's images."""
        return [plane for image in case.images.values() for plane in planes.cut(image).planes]

    def lacking(self, case: Case) -> str:
        """Why the case cannot be learned from or judged; '' where it can."""
        if case.asked(BoxTarget) is None and case.asked(MaskTarget) is None:
            return "has no boxes"
        if case.id not in self._kept and case.id not in self._why:
            try:
                self._kept[case.id] = self._read(case)
            except UserError as error:
                self._why[case.id] = str(error)
        return self._why.get(case.id, "")

    def _read(self, case: Case) -> Boxes:
        given = case.asked(BoxTarget)
        if given is not None:
            grid = grid_of(case)
            size = planes.cut(grid).size
            boxes = checked_boxes(given, size, grid.source)
            names: Sequence[str] = given.labels
        else:
            mask = case.asked(MaskTarget)
            assert mask is not None
            labels = on_grid(mask.mask.load(), grid_of(case).load(), mask.mask.source, grid_of(case).source)
            table = {int(v): name_of(mask, int(v)) for v in np.unique(labels)}
            ground = [v for v, n in table.items() if v == 0 or n.strip().lower() in BACKGROUND]
            boxes, values = box_planes.boxes_of_labels(np.where(np.isin(labels, ground), 0, labels))
            names = [table[int(v)] for v in values]
        strange = [name for name in names if name not in self.classes]
        if strange:
            raise UserError(
                f"{grid_of(case).source}: has a box labelled {strange[0]!r}, which is none of the labels "
                f"({', '.join(self.classes)}); correct it or its table of labels"
            )
        return Boxes(boxes, np.array([self.classes.index(n) for n in names], np.int64))

    def stratum(self, case: Case) -> str:  # noqa: ARG002 - the protocol's signature
        """All cases are of one kind."""
        return ""

    def target(self, case: Case) -> Boxes:
        """The true boxes, in pixels of the image, with indices into ``classes``. Raises UserError."""
        why = self.lacking(case)
        if why:
            raise UserError(f"case {case.id}: {why}")
        return self._kept[case.id]

    def fingerprint(self, case: Case) -> Any:
        """The boxes themselves, or the mask's content."""
        given, mask = case.asked(BoxTarget), case.asked(MaskTarget)
        if given is not None:
            return [[*map(float, box), label] for box, label in zip(given.boxes, given.labels, strict=True)]
        return mask.mask.key() if mask else ""

    def score(
        self,
        predictions: Sequence[Detections],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """Every score with its interval over patients; labels and centres without."""
        matches = self._matches(predictions, cases)
        return {
            "scores": self._intervals(matches, cases, seed=seed, resamples=resamples),
            **self._parts(matches, cases, seed=seed, resamples=0),
        }

    def in_detail(
        self,
        predictions: Sequence[Detections],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """``per_class`` and ``per_centre`` with intervals."""
        return self._parts(self._matches(predictions, cases), cases, seed=seed, resamples=resamples)

    def difference(
        self, first: Sequence[Detections], second: Sequence[Detections], cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score, both on the same resampled patients."""
        ours, theirs = (self._matches(p, cases) for p in (first, second))

        def several(weights: np.ndarray | None) -> dict[str, Any]:
            pair = [self._scores(m, weights)[self.primary] for m in (ours, theirs)]
            return {"difference": pair[0] - pair[1]}

        found = resampled(several, [c.patient for c in cases])["difference"]
        return found["value"], found["low"], found["high"]

    def pack(self, predictions: Sequence[Detections]) -> dict[str, np.ndarray]:
        """Corners, scores and labels."""
        return detections.pack(predictions)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[Detections]:
        """The boxes found."""
        return detections.unpack(arrays)

    def shown(self, predictions: Sequence[Detections], cases: Sequence[Case]) -> dict[str, Any]:
        """``true_boxes`` (list of Boxes), ``found_boxes`` (list of Detections), ``images``, ``case_score``
        (n,): the primary score of each case by itself; ``froc``: sensitivity with its interval by rate.
        """
        matches = self._matches(predictions, cases)
        each = [self._scores([m], None)["map50"] for m in matches]
        curve = resampled(
            lambda w: {str(r): froc(matches, w, iou=HIT)[f"sensitivity@{r:g}"] for r in FROC_RATES},
            [c.patient for c in cases],
            resamples=300,
        )
        return {
            "true_boxes": [self.target(c) for c in cases],
            "found_boxes": list(predictions),
            "images": [grid_of(c) for c in cases],
            "case_score": np.array(each),
            "froc": curve,
        }

    def write(self, predictions: Sequence[Detections], cases: Sequence[Case], out: Path | None) -> Path:
        """A folder with boxes.json, as COCO describes it, each annotation with its score.

        ``file_name`` is that of the image. In volumes ``bbox`` is x, y, z, width, height, depth.
        """
        folder = Path(out or "predictions")
        store.write_bytes(
            folder / "boxes.json", (json.dumps(self._document(predictions, cases)) + "\n").encode()
        )
        return folder

    def _document(self, predictions: Sequence[Detections], cases: Sequence[Case]) -> dict[str, Any]:
        images, annotations = [], []
        for number, (case, found) in enumerate(zip(cases, predictions, strict=True), start=1):
            depth, height, width = planes.cut(grid_of(case)).size
            image = {"id": number, "file_name": _file_name(case), "width": width, "height": height}
            images.append(image | ({"depth": depth} if depth > 1 else {}) | {"case": case.id})
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
                low, high = box[: found.axes], box[found.axes :]
                extent = (high - low).astype(float)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(label) + 1,
                        "bbox": [round(float(v), 3) for v in (*low, *extent)],
                        "area": round(float(extent.prod()), 3),
                        "iscrowd": 0,
                        "score": round(float(score), 5),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(self.classes, start=1)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def settings(self) -> dict[str, Any]:
        """Labels and the primary score."""
        return {"classes": list(self.classes), "primary": self.primary}

    def _matches(self, predictions: Sequence[Detections], cases: Sequence[Case]) -> list[BoxMatches]:
        """Each case's part of every score: kept, so that resampling patients matches nothing again."""
        if len(predictions) != len(cases) or not len(cases):
            raise ValueError(f"{len(cases)} cases need as many answers; got {len(predictions)}")
        truths = [self.target(case) for case in cases]
        return [
            match_boxes(f.boxes, f.scores, f.labels, t.boxes, t.labels, classes=len(self.classes))
            for f, t in zip(predictions, truths, strict=True)
        ]

    def _scores(
        self, matches: Sequence[BoxMatches], weights: np.ndarray | None, label: int | None = None
    ) -> dict[str, Any]:
        found = average_precision(matches, weights)
        rate = froc(matches, weights, iou=HIT, label=label)["froc"]
        if label is not None:
            return {"map50": found[f"ap@0.5/{label}"], "map": found[f"ap/{label}"], "froc": rate}
        named = {"map50": "map@0.5", "map": "map", "map75": "map@0.75", "recall": "ar"}
        return {ours: found[theirs] for ours, theirs in named.items()} | {"froc": rate}

    def _intervals(
        self,
        matches: Sequence[BoxMatches],
        cases: Sequence[Case],
        label: int | None = None,
        *,
        seed: int,
        resamples: int,
    ) -> dict[str, dict[str, float | None]]:
        several = partial(self._scores, matches, label=label)
        return resampled(several, [c.patient for c in cases], resamples=resamples, seed=seed)

    def _parts(
        self, matches: Sequence[BoxMatches], cases: Sequence[Case], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        per_class = {
            name: {
                "n": int(sum(m.true[i] > 0 for m in matches)),
                "boxes": int(sum(m.true[i] for m in matches)),
                **self._intervals(matches, cases, i, seed=seed, resamples=resamples),
            }
            for i, name in enumerate(self.classes)
        }
        per_centre = by_centre(
            cases,
            lambda here, own: self._intervals(
                [matches[i] for i in here], own, seed=seed, resamples=resamples
            ),
        )
        return {"per_class": per_class, "per_centre": per_centre}


def _file_name(case: Case) -> str:
    return Path(grid_of(case).source.partition("#")[0]).name

"""Give each voxel of a case one of several labels, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import labelmap
from medspectrum.case import Case, LazyImage, MaskTarget, label_order
from medspectrum.engine import planes
from medspectrum.errors import UserError
from medspectrum.formats import paths_of
from medspectrum.formats.mask_grid import label_values, on_grid, read_mask
from medspectrum.formats.masks import mask_suffix, write_mask
from medspectrum.image import SHEARED_DEGREES, Image, shear_degrees
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.bootstrap import RESAMPLES, resampled
from medspectrum.registry import task
from medspectrum.tasks._centres import by_centre

REPORTED = ("dice", "iou", "nsd", "hd95_mm", "assd_mm", "sensitivity", "precision", "lesion_f1")
DISTANCES = ("hd95_mm", "assd_mm")
BACKGROUND = ("background", "bg")
MOST_LABELS = 254
TOLERANCE_MM = 1.0


@task("segment")
class Segment:
    """Outlines in every case; scored by the Dice overlap, averaged over cases and then over labels.

    A label that neither the truth nor the prediction of a case holds does not count there, nor one that the
    case's source did not outline (``MaskTarget.unseen``). Where one of the
    two lacks it, overlaps are 0 and surface distances are the diagonal of the image.
    """

    name = "segment"
    level = "maps"
    strata = 1

    def __init__(self, classes: Sequence[str], values: Sequence[int], *, primary: str = "dice") -> None:
        """classes: names of the labels, background not among them. values: what stands for them in masks."""
        if not classes or len(classes) != len(values) or len(set(values)) != len(values):
            raise UserError("segmentation needs masks with at least one label above 0; check the masks")
        if len(classes) > MOST_LABELS:
            raise UserError(
                f"the masks hold {len(classes)} different values; segmentation takes {MOST_LABELS} labels at "
                "most: give label maps, not grey pictures"
            )
        if primary not in REPORTED or primary in DISTANCES:
            raise UserError(
                f"{primary!r} cannot decide; use dice, iou, nsd, sensitivity, precision or lesion_f1"
            )
        self.classes, self.values, self.primary = tuple(classes), tuple(int(v) for v in values), primary
        self._kept: dict[str, tuple[LabelMap, np.ndarray]] = {}
        self._why: dict[str, str] = {}

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Segment:
        """The labels that the cases' masks hold. Names come from the data set where it has some."""
        masks = [m for case in cases if (m := case.asked(MaskTarget)) is not None]
        if not masks:
            raise UserError(
                f"the {len(cases)} cases carry no mask; segmentation needs a label map per case: folders "
                "images/ and labels/ with the same names, or a table with a column of masks (--mask)"
            )
        named = {value: name for mask in masks for value, name in mask.labels.items()}
        if not named:
            for mask in masks:
                try:
                    found = np.unique(label_values(read_mask(mask.mask), mask.mask.source))
                except UserError:
                    continue  # named when the case is looked at by itself
                named.update({int(v): str(int(v)) for v in found if v > 0})
        wanted = {v: n for v, n in named.items() if v != 0 and n.strip().lower() not in BACKGROUND}
        order = sorted(wanted, key=lambda v: (v, label_order(wanted[v])))
        return cls([wanted[v] for v in order], order)

    def seen(self, case: Case) -> list[LazyImage]:
        """Every plane of the case's images."""
        return [plane for image in case.images.values() for plane in planes.cut(image).planes]

    def lacking(self, case: Case) -> str:
        """Why the case cannot be learned from or judged; '' where it can."""
        asked = case.asked(MaskTarget)
        if asked is None:
            return "has no mask"
        if case.id not in self._kept and case.id not in self._why:
            try:
                image, mask = grid_of(case).load(), read_mask(asked.mask)
                labels = on_grid(mask, image, asked.mask.source, grid_of(case).source)
                self._kept[case.id] = LabelMap.of(self._indices(labels, asked)), image.affine
            except UserError as error:
                self._why[case.id] = str(error)
        return self._why.get(case.id, "")

    def forget(self, case: Case) -> None:
        """Let go of the case's label map; it is read again where it is asked for."""
        self._kept.pop(case.id, None)
        self._why.pop(case.id, None)

    def _indices(self, labels: np.ndarray, asked: MaskTarget) -> np.ndarray:
        """Values of the mask as indices, 0 for background."""
        table = {value: i + 1 for i, value in enumerate(self.values)}
        found = np.unique(labels)
        background = {0, *(v for v, n in asked.labels.items() if n.strip().lower() in BACKGROUND)}
        strange = [int(v) for v in found if int(v) not in table and int(v) not in background]
        if strange:
            known = ", ".join(map(str, self.values))
            raise UserError(
                f"{asked.mask.source}: holds the value {strange[0]}, which is none of the labels ({known}); "
                "correct the mask or its table of labels"
            )
        places = np.searchsorted(found, labels)
        return np.array([table.get(int(v), 0) for v in found], np.uint8)[places]

    def stratum(self, case: Case) -> str:  # noqa: ARG002 - the protocol's signature
        """All cases are of one kind."""
        return ""

    def target(self, case: Case) -> np.ndarray:
        """(Z, Y, X) uint8 on the image's grid: 0 background, i + 1 the i-th class. Raises UserError."""
        return self._truth(case)[0].array()

    def marked_as(self, case: Case) -> np.ndarray | None:
        """(k + 1,) uint8: the label that voxels of each label carry in this case's mask; None: each its own.

        A label that the case's source did not outline carries 0, or that of the larger part it belongs to.
        """
        asked = case.asked(MaskTarget)
        if asked is None or not asked.unseen:
            return None
        place = {name: i + 1 for i, name in enumerate(self.classes)}
        table = np.arange(len(self.classes) + 1, dtype=np.uint8)
        for name, under in asked.unseen.items():
            if name in place:
                table[place[name]] = place.get(under, 0)
        return table

    def fingerprint(self, case: Case) -> Any:
        """The mask's content, and what it does not show."""
        asked = case.asked(MaskTarget)
        if asked is None:
            return ""
        return [asked.mask.key(), sorted(asked.unseen.items())] if asked.unseen else asked.mask.key()

    def _truth(self, case: Case) -> tuple[LabelMap, np.ndarray]:
        """The true label map, and the affine of its grid."""
        why = self.lacking(case)
        if why:
            raise UserError(f"case {case.id}: {why}")
        return self._kept[case.id]

    def score(
        self,
        predictions: Sequence[LabelMap],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """Every score with its interval over patients; labels and centres without."""
        tables = self.tables(predictions, cases)
        return {
            "scores": _intervals(tables, cases, seed=seed, resamples=resamples),
            **self._parts(tables, cases, seed=seed, resamples=0),
        }

    def in_detail(
        self,
        predictions: Sequence[LabelMap],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """``per_class`` and ``per_centre`` with intervals."""
        return self._parts(self.tables(predictions, cases), cases, seed=seed, resamples=resamples)

    def difference(
        self, first: Sequence[LabelMap], second: Sequence[LabelMap], cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score, both on the same resampled patients."""
        ours, theirs = (self.tables(p, cases)[self.primary] for p in (first, second))

        def several(weights: np.ndarray | None) -> dict[str, Any]:
            return {"difference": mean_of_cases(ours, weights) - mean_of_cases(theirs, weights)}

        found = resampled(several, [c.patient for c in cases])["difference"]
        value, low, high = found["value"], found["low"], found["high"]
        return value, low, high

    def pack(self, predictions: Sequence[LabelMap]) -> dict[str, np.ndarray]:
        """The label maps' runs."""
        return labelmap.pack(predictions)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[LabelMap]:
        """The label maps."""
        return labelmap.unpack(arrays)

    def shown(self, predictions: Sequence[LabelMap], cases: Sequence[Case]) -> dict[str, Any]:
        """``true_maps``, ``label_maps`` (lists of LabelMap), ``images``, ``case_score`` (n,) primary each."""
        table = self.tables(predictions, cases)[self.primary]
        counted = np.maximum((~np.isnan(table)).sum(axis=1), 1)
        return {
            "true_maps": [self._truth(c)[0] for c in cases],
            "label_maps": list(predictions),
            "images": [grid_of(c) for c in cases],
            "case_score": np.where(np.isnan(table).all(axis=1), np.nan, np.nansum(table, axis=1) / counted),
        }

    def write(
        self,
        predictions: Sequence[LabelMap],
        cases: Sequence[Case],
        out: Path | None,
        *,
        format: str | None = None,
    ) -> Path:
        """A folder of label maps on the images' own grids, named as the images, and values as in training.

        format: see ``masks.FORMATS``; None: PNG for pictures without physical size, NIfTI for others.
        """
        folder = Path(out or "predictions")
        values = np.array([0, *self.values])
        names = dict(zip(self.values, self.classes, strict=True))
        taken: set[str] = set()
        for case, found in zip(cases, predictions, strict=True):
            lazy = grid_of(case)
            image = lazy.load()
            place = folder / f"{file_name(case, taken)}{mask_suffix(image, format)}"
            write_mask(values[found.array()], image, place, names=names, sources=paths_of(lazy))
        return folder

    def settings(self) -> dict[str, Any]:
        """Labels, their values in masks, and the primary score."""
        return {"classes": list(self.classes), "values": list(self.values), "primary": self.primary}

    def tables(self, predictions: Sequence[LabelMap], cases: Sequence[Case]) -> dict[str, np.ndarray]:
        """Scores of each case and label, (n, k); NaN where the score does not apply."""
        if len(predictions) != len(cases) or not len(cases):
            raise ValueError(f"{len(cases)} cases need as many label maps; got {len(predictions)}")
        tables = {name: np.full((len(cases), len(self.classes)), np.nan) for name in REPORTED}
        labels = range(1, len(self.classes) + 1)
        for row, (found, case) in enumerate(zip(predictions, cases, strict=True)):
            truth, affine = self._truth(case)
            told, marked = found.array(), self.marked_as(case)
            if marked is not None:
                told = marked[told]
            scores, diagonal = _scored(told, truth.array(), labels, affine)
            for column, label in enumerate(labels):
                if marked is not None and marked[label] != label:
                    continue  # nobody outlined it here, so nothing is known of it
                for name in REPORTED:
                    value = scores[label][name]
                    tables[name][row, column] = diagonal if np.isinf(value) else value
        return tables

    def _parts(
        self, tables: Mapping[str, np.ndarray], cases: Sequence[Case], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        per_class = {
            label: {
                "n": int((np.array([column + 1 in self._truth(c)[0].values for c in cases])).sum()),
                **_intervals(
                    {name: t[:, column : column + 1] for name, t in tables.items()},
                    cases,
                    seed=seed,
                    resamples=resamples,
                ),
            }
            for column, label in enumerate(self.classes)
        }
        per_centre = by_centre(
            cases,
            lambda here, own: _intervals(
                {name: t[here] for name, t in tables.items()}, own, seed=seed, resamples=resamples
            ),
        )
        return {"per_class": per_class, "per_centre": per_centre}


def grid_of(case: Case) -> LazyImage:
    """The image whose grid the case's mask lies on: the role ``image``, else the first one."""
    return case.images.get("image") or case.images[sorted(case.images)[0]]


def file_name(case: Case, taken: set[str]) -> str:
    """The image's file name without its suffix; the case's id where two images are named alike."""
    lazy = grid_of(case)
    files = paths_of(lazy)
    source = Path(files[0]).parent if len(files) > 1 else Path(lazy.source.partition("#")[0])
    name = (
        source.name if len(files) > 1 else source.name.removesuffix(".gz").rpartition(".")[0] or source.name
    )
    if name in taken:
        name = re.sub(r"[^\w.-]+", "_", case.id)
    taken.add(name)
    return name


def _scored(
    found: np.ndarray, truth: np.ndarray, labels: Sequence[int], affine: np.ndarray
) -> tuple[dict[int, dict[str, float]], float]:
    """Scores by label, and the diagonal of the grid in mm.

    On a sheared grid (tilted gantry) overlaps are counted voxel by voxel as ever, and distances once both
    maps were straightened, nearest neighbours taken: the axes would not be at right angles else.
    """
    from medspectrum.metrics.segmentation import SURFACE_SCORES, segmentation_scores

    straight = Image(truth[None], affine)
    spacing = straight.spacing_mm
    diagonal = float(np.linalg.norm(np.array(truth.shape) * spacing))
    scores = segmentation_scores(
        found, truth, labels, spacing_mm=spacing, tolerance_mm=TOLERANCE_MM, lesions=True
    )
    if shear_degrees(affine) > SHEARED_DEGREES:
        from medspectrum.formats.resampled import load_resampled

        depth = abs(float(np.linalg.det(affine[:3, :3]))) / (spacing[1] * spacing[2])
        upright = (depth, *spacing[1:])
        predicted, true = (
            load_resampled(
                Image(
                    np.pad(m, 1)[None].astype(np.uint8), affine
                ),  # nothing beyond, whatever lies at the edge
                spacing_mm=upright,
                orientation=None,
                nearest=True,
            ).array[0]
            for m in (found, truth)
        )
        measured = segmentation_scores(predicted, true, labels, spacing_mm=upright, tolerance_mm=TOLERANCE_MM)
        for label in labels:
            scores[label] |= {name: measured[label][name] for name in SURFACE_SCORES}
    return scores, diagonal


def mean_of_cases(table: np.ndarray, weights: np.ndarray | None) -> Any:
    """Mean over cases, then over labels; float, or (R,) for weights (n, R). NaN where nothing counts."""
    columns = np.ones((len(table), 1)) if weights is None else weights
    counts = ~np.isnan(table)
    sums = columns.T @ np.where(counts, table, 0.0)
    numbers = columns.T @ counts.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(numbers > 0, sums / numbers, np.nan)
    applies = ~np.isnan(means)
    total = np.where(applies, means, 0.0).sum(axis=1)
    found = np.where(applies.any(axis=1), total / np.maximum(applies.sum(axis=1), 1), np.nan)
    return float(found[0]) if weights is None else found


def _several(tables: Mapping[str, np.ndarray], weights: np.ndarray | None) -> dict[str, Any]:
    return {name: mean_of_cases(table, weights) for name, table in tables.items()}


def _intervals(
    tables: Mapping[str, np.ndarray], cases: Sequence[Case], *, seed: int, resamples: int
) -> dict[str, dict[str, float | None]]:
    patients = [case.patient for case in cases]
    return resampled(partial(_several, tables), patients, resamples=resamples, seed=seed)

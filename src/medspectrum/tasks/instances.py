"""Tell things of a kind apart, one by one: nuclei, cells, and others that touch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import labelmap, store
from medspectrum.case import Case, LazyImage, MaskTarget, label_order
from medspectrum.engine import tiles
from medspectrum.errors import UserError
from medspectrum.formats.coco_rle import document
from medspectrum.formats.masks import mask_suffix, write_mask
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.bootstrap import RESAMPLES, resampled
from medspectrum.metrics.instances import InstanceMatches, instance_scores, match_instances
from medspectrum.registry import task
from medspectrum.tasks._centres import by_centre
from medspectrum.tasks.segment import BACKGROUND, file_name, grid_of, on_grid

REPORTED = ("ap", "f1_50", "pq", "aji", "dice", "ap_pooled", "f1_50_pooled")
LARGEST_TILE = 256
LOOKED_AT = 32  # masks that decide what the numbers in them mean
ONE_PIECE = 0.8  # share of numbered things that are in one piece, at least
MOST_CLASSES = 20
THING = "object"


@task("instances")
class Instances:
    """Things of a kind told apart; scored by average precision over IoU 0.5 to 0.95, as StarDist counts.

    A mask may number its things (every value is one thing), or mark them by a value (every connected piece of
    a value is one thing of that class); ``of`` finds out which. In a map of things, the number v is of the
    class (v - 1) % k of the k classes, so that one map holds both.
    """

    name = "instances"
    level = "maps"
    strata = 1

    def __init__(
        self,
        classes: Sequence[str] = (THING,),
        values: Sequence[int] = (),
        *,
        tile: int = LARGEST_TILE,
        primary: str = "ap",
    ) -> None:
        """classes: kinds of things. values: what marks each kind in masks; empty where masks number things of
        one kind. tile: pixels per side of what is looked at at once.
        """
        if primary not in REPORTED:
            raise UserError(f"{primary!r} cannot decide; use one of {', '.join(REPORTED)}")
        if values and len(values) != len(classes):
            raise UserError("each class of things needs one value that marks it")
        if not 0 < len(classes) <= MOST_CLASSES or (not values and len(classes) > 1):
            raise UserError(
                f"the masks mark {len(classes)} kinds of things; there may be 1 to {MOST_CLASSES}: give "
                "masks that number things, or mark few kinds"
            )
        self.classes, self.values = tuple(classes), tuple(int(v) for v in values)
        self.tile, self.primary = int(tile), primary
        self._kept: dict[str, LabelMap] = {}
        self._why: dict[str, str] = {}

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Instances:
        """What the cases' masks hold. Names come from the data set where it has some."""
        asked = [(c, m) for c in cases if (m := c.asked(MaskTarget)) is not None]
        if not asked:
            raise UserError(
                f"the {len(cases)} cases carry no mask; telling things apart needs masks that number them: "
                "folders images/ and labels/ with the same names, or a table with a column of masks (--mask)"
            )
        named = {value: name for _, mask in asked for value, name in mask.labels.items()}
        some = [asked[int(i)] for i in np.unique(np.linspace(0, len(asked) - 1, LOOKED_AT).astype(int))]
        read: list[np.ndarray] = []
        for case, mask in some:
            try:
                read.append(_mask_of(case, mask))
            except UserError:
                continue  # named when the case is looked at by itself
        side = int(np.median([max(m.shape) for m in read])) if read else LARGEST_TILE
        tile = min(LARGEST_TILE, max(32, -(-side // 32) * 32))
        if not named and _numbered(read):
            return cls(tile=tile)
        if not named:
            present = sorted({int(v) for m in read for v in np.unique(m)} - {0})
            named = {v: THING if len(present) == 1 else str(v) for v in present}
        wanted = {v: n for v, n in named.items() if v != 0 and n.strip().lower() not in BACKGROUND}
        order = sorted(wanted, key=lambda v: (v, label_order(wanted[v])))
        return cls([wanted[v] for v in order] or [THING], order, tile=tile)

    @property
    def side(self) -> int:
        """The input that encoders see a tile at: twice its pixels, as decoders answer at half the input."""
        return 2 * self.tile

    def seen(self, case: Case) -> list[LazyImage]:
        """The tiles of the case's images."""
        return [tile for image in case.images.values() for tile in tiles.tiled(image, self.tile).tiles]

    def lacking(self, case: Case) -> str:
        """Why the case cannot be learned from or judged; '' where it can."""
        asked = case.asked(MaskTarget)
        if asked is None:
            return "has no mask"
        if asked.unseen:
            hidden = ", ".join(sorted(asked.unseen))
            return f"its mask does not show {hidden}; things are told apart in whole ones"
        if case.id not in self._kept and case.id not in self._why:
            try:
                self._kept[case.id] = LabelMap.of(self._things(_mask_of(case, asked), asked))
            except UserError as error:
                self._why[case.id] = str(error)
        return self._why.get(case.id, "")

    def _things(self, mask: np.ndarray, asked: MaskTarget) -> np.ndarray:
        """The mask as a map of things, numbered from 1 on, their class in the number."""
        if not self.values:
            found = np.unique(mask)
            found = found[found != 0]
            return np.where(mask == 0, 0, np.searchsorted(found, mask) + 1).astype(np.int32)
        background = {0, *(v for v, n in asked.labels.items() if n.strip().lower() in BACKGROUND)}
        strange = [int(v) for v in np.unique(mask) if int(v) not in background and int(v) not in self.values]
        if strange:
            known = ", ".join(map(str, self.values))
            raise UserError(
                f"{asked.mask.source}: holds the value {strange[0]}, which marks no kind of thing ({known}); "
                "correct the mask or its table of labels"
            )
        made = np.zeros(mask.shape, np.int32)
        count = len(self.classes)
        for kind, value in enumerate(self.values):
            pieces, _ = _pieces(mask == value)
            made[pieces > 0] = (pieces[pieces > 0] - 1) * count + kind + 1
        return made

    def stratum(self, case: Case) -> str:  # noqa: ARG002 - the protocol's signature
        """All cases are of one kind."""
        return ""

    def target(self, case: Case) -> np.ndarray:
        """(1, Y, X) map of things on the image's grid: 0 background, v a thing of class (v - 1) % k."""
        return self._truth(case).array()

    def fingerprint(self, case: Case) -> list[Any]:
        """The mask's content, and how it is read."""
        asked = case.asked(MaskTarget)
        return [asked.mask.key() if asked else "", list(self.values)]

    def _truth(self, case: Case) -> LabelMap:
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
        """Every score with its interval over patients; classes and centres without."""
        tables = self._tables(predictions, cases)
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
        return self._parts(self._tables(predictions, cases), cases, seed=seed, resamples=resamples)

    def difference(
        self, first: Sequence[LabelMap], second: Sequence[LabelMap], cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score, both on the same resampled patients."""
        ours, theirs = (self._tables(p, cases) for p in (first, second))

        def several(weights: np.ndarray | None) -> dict[str, Any]:
            own, other = (_several(tables, weights)[self.primary] for tables in (ours, theirs))
            return {"difference": own - other}

        found = resampled(several, [c.patient for c in cases])["difference"]
        return found["value"], found["low"], found["high"]

    def pack(self, predictions: Sequence[LabelMap]) -> dict[str, np.ndarray]:
        """The maps' runs."""
        return labelmap.pack(predictions)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[LabelMap]:
        """The maps of things."""
        return labelmap.unpack(arrays)

    def shown(self, predictions: Sequence[LabelMap], cases: Sequence[Case]) -> dict[str, Any]:
        """``true_maps``, ``label_maps`` (lists of LabelMap), ``images``, ``case_score`` (n,) primary each."""
        tables = self._tables(predictions, cases)
        each = [_several([_rows(t, [i]) for t in tables], None)[self.primary] for i in range(len(cases))]
        return {
            "true_maps": [self._truth(c) for c in cases],
            "label_maps": list(predictions),
            "images": [grid_of(c) for c in cases],
            "case_score": np.array(each, float),
            "apart": True,
        }

    def write(
        self,
        predictions: Sequence[LabelMap],
        cases: Sequence[Case],
        out: Path | None,
        *,
        format: str | None = None,
    ) -> Path:
        """A folder of maps of things on the images' own grids, named as the images, and ``instances.csv``.

        Things are numbered from 1 on. format: nifti, png or rle (COCO JSON, an annotation per thing); None:
        PNG for pictures without physical size, NIfTI for others. The table has a row per thing: file, number,
        class, its pixels, its box.
        """
        if format == "dicom-seg":
            raise UserError("a DICOM SEG names few segments, not hundreds of things; use png, nifti or rle")
        folder = Path(out or "predictions")
        taken: set[str] = set()
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", "number", "class", "pixels", "x0", "y0", "x1", "y1"])
        for case, found in zip(cases, predictions, strict=True):
            image = grid_of(case).load()
            numbers, kinds = self._renumbered(found.array())
            place = folder / f"{file_name(case, taken)}{mask_suffix(image, format)}"
            if format == "rle":
                names = dict(enumerate(self.classes, start=1))
                store.write_bytes(place, document(numbers, names, place.stem, kinds=kinds))
            else:
                write_mask(numbers, image, place, format=format)
            table.writerows(_described(numbers, [self.classes[k - 1] for k in kinds.values()], place))
        store.write_bytes(folder / "instances.csv", text.getvalue().encode())
        return folder

    def _renumbered(self, things: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Numbers without gaps from 1 on, and the class of each, counted from 1 on."""
        values, numbers = np.unique(things, return_inverse=True)
        shift = 0 if len(values) and values[0] == 0 else 1
        numbers = (numbers.reshape(things.shape) + shift).astype(np.int32)
        values = values[values != 0]
        return numbers, {i: (int(v) - 1) % len(self.classes) + 1 for i, v in enumerate(values, start=1)}

    def settings(self) -> dict[str, Any]:
        """Classes, their values in masks, the tile, and the primary score."""
        return {
            "classes": list(self.classes),
            "values": list(self.values),
            "tile": self.tile,
            "primary": self.primary,
        }

    def _tables(self, predictions: Sequence[LabelMap], cases: Sequence[Case]) -> list[_Table]:
        """Matches and overlap of every case, a table per class."""
        if len(predictions) != len(cases) or not len(cases):
            raise ValueError(f"{len(cases)} cases need as many maps of things; got {len(predictions)}")
        count = len(self.classes)
        made: list[_Table] = [([], np.full(len(cases), np.nan)) for _ in range(count)]
        for row, (found, case) in enumerate(zip(predictions, cases, strict=True)):
            answer, truth = found.array(), self._truth(case).array()
            for kind, (matches, dice) in enumerate(made):
                ours, true = (_of_kind(m, kind, count) for m in (answer, truth))
                matches.append(match_instances(ours, true))
                either = int((ours > 0).sum() + (true > 0).sum())
                if either:
                    dice[row] = 2 * int(((ours > 0) & (true > 0)).sum()) / either
        return made

    def _parts(
        self, tables: Sequence[_Table], cases: Sequence[Case], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        per_class = {
            label: {
                "n": sum(m.true > 0 for m in tables[kind][0]),
                "objects": sum(m.true for m in tables[kind][0]),
                **_intervals([tables[kind]], cases, seed=seed, resamples=resamples),
            }
            for kind, label in enumerate(self.classes)
        }
        per_centre = by_centre(
            cases,
            lambda here, own: _intervals(
                [_rows(t, here) for t in tables], own, seed=seed, resamples=resamples
            ),
        )
        return {"per_class": per_class, "per_centre": per_centre}


_Table = tuple[list[InstanceMatches], np.ndarray]
"""Of one class: the matches of each case, and the Dice overlap of all its things as one region (n,)."""


def _mask_of(case: Case, asked: MaskTarget) -> np.ndarray:
    """The mask's values on the image's grid, (1, Y, X). Raises UserError."""
    image = grid_of(case).load()
    if image.is_volume:
        raise UserError(f"{grid_of(case).source}: is a volume; things are told apart in pictures so far")
    return on_grid(asked.mask.load(), image, asked.mask.source, grid_of(case).source)


def _numbered(masks: Sequence[np.ndarray]) -> bool:
    """Whether values number things: several, not the same in every mask, and nearly all in one piece."""
    held = [set(np.unique(m).tolist()) - {0} for m in masks]
    together = set().union(*held)
    if len(together) < 2 or (len(held) > 2 and all(h == together for h in held)):
        return False
    whole = pieces = 0
    for mask, values in zip(masks, held, strict=True):
        for value in values:
            whole += 1
            pieces += _pieces(mask == value)[1] == 1
    return pieces >= ONE_PIECE * whole


def _pieces(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected pieces, corners included, numbered from 1 on, and how many there are."""
    from scipy import ndimage

    found = np.zeros(inside.shape, np.int32)
    count = ndimage.label(inside, np.ones((3,) * inside.ndim), output=found)
    return found, int(count)  # type: ignore[arg-type]


def _of_kind(things: np.ndarray, kind: int, count: int) -> np.ndarray:
    """The map with the things of one class only."""
    if count == 1:
        return things
    return np.where((things > 0) & ((things.astype(np.int64) - 1) % count == kind), things, 0)


def _rows(table: _Table, rows: Sequence[int]) -> _Table:
    return [table[0][i] for i in rows], table[1][np.asarray(rows, int)]


def _several(tables: Sequence[_Table], weights: np.ndarray | None) -> dict[str, Any]:
    """Every score, the mean over classes; floats, or (R,) for weights (n, R). NaN where nothing counts."""
    of_class = []
    for matches, dice in tables:
        each = instance_scores(matches, weights)
        pooled = instance_scores(matches, weights, pooled=True)
        of_class.append(
            {
                **{name: each[name] for name in ("ap", "pq", "aji")},
                "f1_50": each["f1@0.5"],
                "ap_pooled": pooled["ap"],
                "f1_50_pooled": pooled["f1@0.5"],
                "dice": _mean(dice, weights),
            }
        )
    return {name: _over_classes([found[name] for found in of_class]) for name in REPORTED}


def _over_classes(values: Sequence[Any]) -> Any:
    """Mean over the classes that count."""
    stacked = np.stack([np.asarray(v, float) for v in values])
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, stacked, 0).sum(axis=0) / known.sum(axis=0)
    return float(mean) if mean.ndim == 0 else mean


def _mean(values: np.ndarray, weights: np.ndarray | None) -> Any:
    columns = np.ones((len(values), 1)) if weights is None else weights
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = (np.where(known, values, 0) @ columns) / (known @ columns)
    return float(mean[0]) if weights is None else mean


def _intervals(
    tables: Sequence[_Table], cases: Sequence[Case], *, seed: int, resamples: int
) -> dict[str, dict[str, float | None]]:
    patients = [case.patient for case in cases]
    return resampled(partial(_several, tables), patients, resamples=resamples, seed=seed)


def _described(numbers: np.ndarray, names: Sequence[str], place: Path) -> list[list[Any]]:
    """A row per thing: file, number, class, pixels, and the box as x0, y0, x1, y1, ends outside."""
    from scipy import ndimage

    sizes = np.bincount(numbers.reshape(-1), minlength=len(names) + 1)
    rows = []
    for number, (name, box) in enumerate(zip(names, ndimage.find_objects(numbers), strict=True), start=1):
        y, x = box[1], box[2]
        rows.append([place.name, number, name, int(sizes[number]), x.start, y.start, x.stop, y.stop])
    return rows

"""What points at objects in images: boxes, points and masks, read from files and checked against the images.

Boxes are edges in pixels of the image, x0, y0, x1, y1, or in a volume x0, y0, z0, x1, y1, z1: pixel i reaches
from i to i + 1. A point lies in the pixel whose numbers it has.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.case import Case, LeftOut
from medspectrum.datasets import _documents, _files, voc
from medspectrum.errors import UserError

UNNAMED = "object"
_COLUMNS = {
    "image": ("image", "file", "file_name", "filename", "path", "case", "image_path"),
    "label": ("label", "class", "name", "category", "label_name"),
    "object": ("object", "object_id", "instance"),
    "inside": ("inside", "positive", "point_label", "foreground"),
    **{axis: (axis,) for axis in "xyz"},
    **{f"{a}0": (f"{a}0", f"{a}min", f"{a}_min") for a in "xyz"},
    **{f"{a}1": (f"{a}1", f"{a}max", f"{a}_max") for a in "xyz"},
}
_YES = ("1", "true", "yes", "inside", "positive", "+", "")
_NO = ("0", "false", "no", "outside", "negative", "-")


@dataclass(frozen=True, slots=True, eq=False)
class Pointer:
    """What points at one object of an image.

    box: four or six edges. points: x, y or x, y, z each, with ``inside``. mask: (Z, Y, X) bool on its grid.
    source: where it was said. score: how sure who said it was, where that is known.
    """

    label: str
    source: str
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, ...], ...] = ()
    inside: tuple[bool, ...] = ()
    mask: np.ndarray | None = None
    score: float | None = None

    def checked(self, size: tuple[int, int, int]) -> Pointer:
        """The same, its box cut to an image of that size (Z, Y, X). Raises UserError where it misses it."""
        z, y, x = size
        ends = (x, y) if z == 1 else (x, y, z)
        words = " x ".join(map(str, ends))
        for point in self.points:
            if len(point) != len(ends):
                raise UserError(_wrong_axes("point", point, ends))
            if not all(math.isfinite(v) and 0 <= v < n for v, n in zip(point, ends, strict=True)):
                raise UserError(
                    f"the point {_shown(point)} lies outside the image of {words} pixels; check that it "
                    "belongs to this image and its resolution"
                )
        if self.box is None:
            return self
        half = len(self.box) // 2
        box = self.box
        if half == 2 and len(ends) == 3:
            raise UserError(_wrong_axes("box", box, ends))
        if half == 3 and len(ends) == 2:
            box, half = (*box[:2], *box[3:5]), 2
        low, high = box[:half], box[half:]
        if not all(map(math.isfinite, box)) or any(b <= a for a, b in zip(low, high, strict=True)):
            raise UserError(f"the box {_shown(box)} has no size; correct or remove it")
        if any(b <= 0 or a >= n for a, b, n in zip(low, high, ends, strict=True)):
            raise UserError(
                f"the box {_shown(box)} lies outside the image of {words} pixels; check that it belongs "
                "to this image and its resolution"
            )
        cut = [max(a, 0.0) for a in low] + [min(b, float(n)) for b, n in zip(high, ends, strict=True)]
        return replace(self, box=tuple(cut))


def _wrong_axes(what: str, numbers: Sequence[float], ends: Sequence[int]) -> str:
    if len(ends) == 2:
        return f"the {what} {_shown(numbers)} has {len(numbers)} numbers, a picture's has x and y only"
    return f"the {what} {_shown(numbers)} says no plane, and its image has {ends[2]}; add a column z, " + (
        "or z0 and z1" if what == "box" else "counted from 0"
    )


def _shown(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in numbers) + ")"


@dataclass(frozen=True)
class Given:
    """Everything one file or folder points at, by the name it has for an image."""

    pointers: Mapping[str, Sequence[Pointer]]
    left_out: list[LeftOut] = field(default_factory=list)

    def of_cases(self, cases: Sequence[Case]) -> tuple[dict[str, Sequence[Pointer]], list[LeftOut]]:
        """Pointers by case id; names that are no case's, or several cases', are left out."""
        known: dict[str, set[str]] = defaultdict(set)
        for case in cases:
            for name in _names(case):
                known[name].add(case.id)
        found: dict[str, list[Pointer]] = {}
        left_out = []
        for name, pointers in self.pointers.items():
            own = next((known[n] for n in (name, Path(name).name, _files.stem(name)) if n in known), set())
            if len(own) == 1:
                found.setdefault(next(iter(own)), []).extend(pointers)
                continue
            source = pointers[0].source if pointers else name
            others = ", ".join(repr(case.id) for case in cases[:3]) + (", ..." if len(cases) > 3 else "")
            why = (
                f"names the image {name!r}, which is not among those given ({others})"
                if not own
                else f"names the image {name!r}, which {len(own)} images could be; give its path"
            )
            more = f" ({len(pointers)} prompts)" if len(pointers) > 1 else ""
            left_out.append(LeftOut(source, why + more))
        return dict(found), left_out


def _names(case: Case) -> set[str]:
    """What a case may be called: its id, its images' paths, file names and stems."""
    found = {case.id, Path(case.id).name, _files.stem(case.id)}
    for image in case.images.values():
        path = image.source.partition("#")[0]
        found |= {path, Path(path).name, _files.stem(path)}
    return found


def read_boxes(path: Path) -> Given:
    """Boxes from COCO JSON, from a folder of Pascal VOC's XML, or from CSV. Raises UserError for others."""
    if path.is_dir():
        return _voc_boxes(path)
    if not path.is_file():
        raise UserError(f"{path}: does not exist; give COCO JSON, a folder of Pascal VOC XML, or CSV")
    if path.suffix.lower() == ".json":
        return _coco_boxes(path)
    found: dict[str, list[Pointer]] = defaultdict(list)
    left_out = []
    for source, row in _rows(path, ("image", "x0", "y0", "x1", "y1")):
        try:
            flat = [_number(row, f"{axis}{end}") for end in (0, 1) for axis in "xy"]
            depth = [_number(row, f"z{end}") for end in (0, 1)] if row.get("z0") else []
            if not depth and row.get("z"):
                depth = [(z := _number(row, "z")), z + 1]
        except UserError as error:
            left_out.append(LeftOut(source, str(error)))
            continue
        box = (*flat[:2], *depth[:1], *flat[2:], *depth[1:])
        found[row["image"]].append(Pointer(row.get("label") or UNNAMED, source, box))
    return Given(dict(found), left_out)


def read_points(path: Path) -> Given:
    """Points from CSV: image, x, y, and where needed z, label, object, inside. Raises UserError.

    Points of one object point together; without a column ``object`` each is an object of its own.
    """
    made: dict[tuple[str, str, str], list[Any]] = {}
    left_out = []
    for number, (source, row) in enumerate(_rows(path, ("image", "x", "y"))):
        try:
            point = tuple(_number(row, axis) for axis in "xyz" if axis in "xy" or row.get("z"))
            word = (row.get("inside") or "").lower()
            if word not in _YES + _NO:
                raise UserError(
                    f"inside is {word!r}; write 1 for a point of the object and 0 for one beside it"
                )
            inside, thing = word in _YES, row.get("object") or ""
            if not inside and not thing:
                raise UserError("is a point beside an object, but says of which; add a column object")
        except UserError as error:
            left_out.append(LeftOut(source, str(error)))
            continue
        key = (row["image"], row.get("label") or UNNAMED, thing or f"#{number}")
        made.setdefault(key, [source, [], []])
        made[key][1].append(point)
        made[key][2].append(inside)
    found: dict[str, list[Pointer]] = defaultdict(list)
    for (image, label, _), (source, points, inside) in made.items():
        found[image].append(Pointer(label, source, points=tuple(points), inside=tuple(inside)))
    return Given(dict(found), left_out)


def _rows(path: Path, needed: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Where each row stands, and its values by our names for the columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; give a CSV file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8 text") from error
    head = text.split("\n", 1)[0]
    mark = max(",;\t", key=head.count)
    reader = csv.DictReader(text.splitlines(), delimiter=mark)
    columns = {(c or "").strip().lower(): c for c in reader.fieldnames or ()}
    ours = {
        name: columns[alias]
        for name, words in _COLUMNS.items()
        for alias in reversed(words)
        if alias in columns
    }
    lacking = [name for name in needed if name not in ours]
    if lacking:
        raise UserError(
            f"{path}: has no column {', '.join(lacking)}; its first line names "
            f"{', '.join(c for c in columns if c) or 'nothing'}"
        )
    return [
        (f"{path.name}, line {number}", {name: (row.get(c) or "").strip() for name, c in ours.items()})
        for number, row in enumerate(reader, start=2)
    ]


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, ValueError):
        raise UserError(f"{column} is {row.get(column, '')!r}, which is no number") from None


def _coco_boxes(path: Path) -> Given:
    said = _documents.read(path)
    try:
        names = {one["id"]: str(one["name"]) for one in said["categories"]}
        found: dict[str, list[Pointer]] = {str(one["file_name"]): [] for one in said["images"]}
        images = {one["id"]: str(one["file_name"]) for one in said["images"]}
        left_out = []
        for place, one in enumerate(said["annotations"]):
            source = f"{path.name}, annotation {one.get('id', place)}"
            numbers = [float(v) for v in one["bbox"]]
            if one["image_id"] not in images or one["category_id"] not in names or len(numbers) not in (4, 6):
                left_out.append(LeftOut(source, "names an image or category that is not listed, or no box"))
                continue
            half = len(numbers) // 2
            ends = (a + b for a, b in zip(numbers[:half], numbers[half:], strict=True))
            score = None if one.get("score") is None else float(one["score"])
            pointer = Pointer(names[one["category_id"]], source, (*numbers[:half], *ends), score=score)
            found[images[one["image_id"]]].append(pointer)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not as COCO describes it ({type(error).__name__}: {error})") from error
    return Given(found, left_out)


def _voc_boxes(path: Path) -> Given:
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".xml")
    if not files:
        raise UserError(f"{path}: holds no XML file with boxes, as Pascal VOC has")
    found: dict[str, Sequence[Pointer]] = {}
    left_out = []
    for file in files:
        try:
            target = voc.read_boxes(file)
        except UserError as error:
            left_out.append(LeftOut(str(file), str(error)))
            continue
        pairs = zip(target.boxes, target.labels, strict=True)
        found[file.stem] = [
            Pointer(label, f"{file.name}, object {n}", tuple(box)) for n, (box, label) in enumerate(pairs, 1)
        ]
    return Given(found, left_out)

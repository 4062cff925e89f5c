"""Pascal VOC: boxes in XML files, splits in ImageSets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medspectrum import formats, registry
from medspectrum.case import BoxTarget, Case, CaseSet, LeftOut, Target
from medspectrum.datasets import _fake, _files
from medspectrum.errors import UserError


def recognise(path: Path) -> float:
    """Sure where Annotations holds XML beside a folder of images."""
    return 0.92 if path.is_dir() and _root(path) is not None else 0.0


def _root(path: Path) -> Path | None:
    """The folder itself, or the one year below ``VOCdevkit``."""
    for folder in (path, *_files.subfolders(path)[:20], *_files.subfolders(path / "VOCdevkit")):
        notes = folder / "Annotations"
        if notes.is_dir() and any(f.suffix.lower() == ".xml" for f in notes.iterdir()):
            return folder
    return None


def fake(folder: Path, seed: int) -> Path:
    """Six made-up pictures with one box each, in two splits."""
    for number, (patient, label, array) in enumerate(_fake.pictures(seed, each=1)):
        name = f"{patient}_{number}"
        _fake.write_png(folder / "JPEGImages" / f"{name}.png", array)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename><object><name>{label}</name><bndbox><xmin>3</xmin>"
            "<ymin>2</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object></annotation>"
        )
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True, exist_ok=True)
        with (sets / ("train.txt" if number < 4 else "test.txt")).open("a") as opened:
            opened.write(name + "\n")
    return folder


@registry.dataset("voc", recognise=recognise, fake=fake)
def voc(path: Path, *, patient_pattern: str | None = None) -> CaseSet:
    """Pascal VOC: JPEGImages, Annotations (XML), ImageSets/Main (train, val, test).

    patient_pattern: regular expression on the image's name; its first group is the patient.
    """
    root = _root(path)
    if root is None:
        raise UserError(f"{path}: has no Annotations folder of XML files, as Pascal VOC has")
    left_out: list[LeftOut] = []
    folder = next((f for f in _files.subfolders(root) if f.name.lower() in _files.IMAGE_FOLDERS), root)
    found = {_files.stem(file): file for file in _files.images(folder, left_out)}
    splits = _splits(root / "ImageSets" / "Main")
    names = sorted(found)
    notes = {f.stem: f for f in sorted((root / "Annotations").glob("*.xml"))}
    patients, assumed = _files.patients([f"{name}.x" for name in names], patient_pattern)
    cases = []
    for name, patient in zip(names, patients, strict=True):
        target: Target | None = None
        if name in notes:
            try:
                target = read_boxes(notes[name])
            except UserError as error:
                left_out.append(LeftOut(str(notes[name]), str(error)))
                continue
        cases.append(
            Case(name, patient, {"image": formats.lazy(found[name])}, target, split=splits.get(name))
        )
    left_out += [LeftOut(str(notes[name]), "has no image") for name in sorted(set(notes) - set(found))]
    return CaseSet(path.name, "voc", tuple(cases), tuple(left_out), tuple(assumed))


def _splits(folder: Path) -> dict[str, str]:
    """Image name to split; trainval alone says nothing."""
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        listed = folder / f"{split}.txt"
        if listed.is_file():
            for line in listed.read_text(errors="replace").splitlines():
                if line.strip():
                    name = line.split()[0]
                    if found.setdefault(name, split) != split:
                        raise UserError(
                            f"{listed}: {name} is in {found[name]} as well; an image has one split"
                        )
    return found


def read_boxes(path: Path) -> BoxTarget:
    """The boxes of one XML file, x0, y0, x1, y1 in pixels (VOC counts from 1). Raises UserError."""
    from defusedxml import DefusedXmlException, ElementTree

    try:
        tree = ElementTree.parse(path)
    except (ElementTree.ParseError, DefusedXmlException, OSError, ValueError) as error:
        raise UserError(f"cannot be read as VOC XML ({str(error)[:120] or type(error).__name__})") from error
    boxes, labels = [], []
    for thing in tree.iter("object"):
        corners = [_number(thing, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        name = (thing.findtext("name") or "").strip()
        if None in corners or not name:
            raise UserError("has an object without a name or a whole box")
        x0, y0, x1, y1 = (value or 0.0 for value in corners)
        if x1 < x0 or y1 < y0:
            raise UserError(f"has a box whose end lies before its start ({x0:g}, {y0:g}, {x1:g}, {y1:g})")
        boxes.append((max(x0 - 1, 0.0), max(y0 - 1, 0.0), x1, y1))
        labels.append(name)
    return BoxTarget(tuple(boxes), tuple(labels))


def _number(thing: Any, place: str) -> float | None:
    try:
        return float(thing.findtext(place) or "")
    except ValueError:
        return None

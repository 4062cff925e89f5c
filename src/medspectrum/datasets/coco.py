"""COCO: boxes in one JSON file per split."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from medspectrum import formats, registry
from medspectrum.case import BoxTarget, Case, CaseSet, LeftOut
from medspectrum.datasets import _documents, _fake, _files
from medspectrum.errors import UserError

KEYS = {"images", "annotations", "categories"}


def recognise(path: Path) -> float:
    """Sure of a JSON file with images, annotations and categories, alone or below ``annotations``."""
    return 0.94 if _documents_of(path) else 0.0


def _documents_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _documents.keys(path) >= KEYS else []
    near = [*path.glob("*.json"), *(path / "annotations").glob("*.json")]
    return [f for f in sorted(near)[:20] if _documents.keys(f) >= KEYS]


def fake(folder: Path, seed: int) -> Path:
    """Six made-up pictures with one box each."""
    images, annotations = [], []
    for number, (patient, label, array) in enumerate(_fake.pictures(seed, each=1), start=1):
        name = f"{patient}_{number}.png"
        _fake.write_png(folder / "images" / name, array)
        images.append({"id": number, "file_name": name, "width": 16, "height": 16})
        category = _fake.CLASSES.index(label) + 1
        annotations.append({"id": number, "image_id": number, "category_id": category, "bbox": [2, 1, 7, 11]})
    categories = [{"id": number, "name": name} for number, name in enumerate(_fake.CLASSES, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


@registry.dataset("coco", recognise=recognise, fake=fake)
def coco(path: Path, *, root: str | None = None, patient_pattern: str | None = None) -> CaseSet:
    """COCO boxes. An image without annotations is a case without boxes.

    root: folder of the images, where it is not beside the JSON file. patient_pattern: regular expression
    on the image's file name; its first group is the patient. A file named train, val or test is that split.
    """
    documents = _documents_of(path)
    if not documents:
        raise UserError(f"{path}: has no JSON file with images, annotations and categories, as COCO has")
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    assumed: list[str] = []
    for document in documents:
        split = _split_in(document.stem) if len(documents) > 1 else None
        found, gone, said = _read(document, Path(root) if root else None, split, patient_pattern)
        cases += found
        left_out += gone
        assumed = said
    return CaseSet(path.stem, "coco", tuple(cases), tuple(left_out), tuple(assumed))


def _split_in(stem: str) -> str | None:
    return next((split for split in ("train", "val", "test") if split in stem.lower()), None)


def _read(
    document: Path, root: Path | None, split: str | None, pattern: str | None
) -> tuple[list[Case], list[LeftOut], list[str]]:
    said = _documents.read(document)
    try:
        names = {one["id"]: str(one["name"]) for one in said["categories"]}
        pictures = {one["id"]: str(one["file_name"]) for one in said["images"]}
        boxes, labels, wrong = _boxes(said["annotations"], names, pictures)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{document}: is not as COCO describes it ({type(error).__name__}: {error})"
        ) from error
    folders = [root] if root else _folders(document, split)
    left_out = [LeftOut(f"{document}, annotation {name}", why) for name, why in wrong]
    ids = sorted(pictures, key=lambda key: pictures[key])
    patients, assumed = _files.patients([pictures[key] for key in ids], pattern)
    cases = []
    for key, patient in zip(ids, patients, strict=True):
        places = (_documents.inside(folder, pictures[key]) for folder in folders)
        found = next((place for place in places if place is not None and place.exists()), None)
        if found is None:
            left_out.append(LeftOut(pictures[key], f"image named in {document.name} is not there"))
            continue
        target = BoxTarget(tuple(boxes[key]), tuple(labels[key]))
        name = f"{split}/{pictures[key]}" if split else pictures[key]
        cases.append(Case(name, patient, {"image": formats.lazy(found)}, target, split=split))
    return cases, left_out, assumed


def _boxes(
    annotations: Any, names: dict[Any, str], pictures: dict[Any, str]
) -> tuple[dict[Any, list[Any]], dict[Any, list[str]], list[Any]]:
    """Boxes and labels by image; those without a size or category are named apart."""
    boxes: dict[Any, list[tuple[float, float, float, float]]] = defaultdict(list)
    labels: dict[Any, list[str]] = defaultdict(list)
    wrong = []
    for one in annotations:
        x, y, w, h = (float(value) for value in one["bbox"])
        if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
            wrong.append((one.get("id"), "has a box without a size"))
        elif one["category_id"] not in names:
            wrong.append((one.get("id"), f"names a category {one['category_id']} that is not listed"))
        elif one["image_id"] not in pictures:
            wrong.append((one.get("id"), f"names an image {one['image_id']} that is not listed"))
        else:
            boxes[one["image_id"]].append((x, y, x + w, y + h))
            labels[one["image_id"]].append(names[one["category_id"]])
    return boxes, labels, wrong


def _folders(document: Path, split: str | None) -> list[Path]:
    """Where the images may lie: beside the file, in a folder of images, or in one named like the split."""
    tops = (
        [document.parent, document.parent.parent]
        if document.parent.name == "annotations"
        else [document.parent]
    )
    found = list(tops)
    for top in tops:
        for folder in _files.subfolders(top):
            name = folder.name.lower()
            if name in _files.IMAGE_FOLDERS or (split and name.startswith(split)):
                found += [folder, *_files.subfolders(folder)[:10]]
    return found

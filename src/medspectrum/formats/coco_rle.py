"""Masks as COCO JSON with compressed run lengths, as COCO's own tools and their successors read them.

A mask is one dictionary ``{"size": [height, width], "counts": text}``. The counts are the lengths of runs
down the columns, outside and inside by turns, outside first; from the fourth on each is stored as its
difference to the last but one of its kind. A number is cut into groups of five bits, lowest first, a sixth
bit says that more follow, and 48 is added to make letters of them (format of cocodataset/cocoapi).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile

MOST_LETTERS = 1 << 26


def encode(mask: np.ndarray) -> dict[str, Any]:
    """(Y, X) of truth values as compressed run lengths."""
    height, width = mask.shape
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    begins = [0] if flat.size and flat[0] else []  # runs begin outside
    ends = np.concatenate([begins, changes, [flat.size]]).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    counts[3:] -= counts[1:-2].copy()
    return {"size": [height, width], "counts": "".join(map(_letters, counts.tolist()))}


def decode(packed: Mapping[str, Any]) -> np.ndarray:
    """The (Y, X) mask of compressed, or plain, run lengths. Raises ValueError where they do not fill it."""
    height, width = (int(side) for side in packed["size"])
    given = packed["counts"]
    counts = np.array(_numbers(given) if isinstance(given, str) else given, np.int64)
    if isinstance(given, str):
        for i in range(3, len(counts)):
            counts[i] += counts[i - 2]
    if height < 0 or width < 0 or (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"run lengths do not fill {height} x {width} pixels")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F")


def document(
    labels: np.ndarray, names: Mapping[int, str], file_name: str, *, kinds: Mapping[int, int] | None = None
) -> bytes:
    """A COCO data set of one image: an entry for every plane of (Z, Y, X), an annotation for every label.

    Category ids are the label values, or what ``kinds`` gives for each, where labels number things of some
    kinds. Planes of a volume are named ``file_name#z``.
    """
    values = np.unique(labels).tolist() if kinds is None else kinds.values()
    found = sorted({int(v) for v in values} | {int(v) for v in names}, key=int)
    planes, annotations = [], []
    for z, plane in enumerate(labels):
        name = file_name if len(labels) == 1 else f"{file_name}#{z}"
        planes.append({"id": z + 1, "file_name": name, "height": plane.shape[0], "width": plane.shape[1]})
        for value in np.unique(plane).tolist():
            if value == 0:
                continue
            mask = plane == value
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": z + 1,
                    "category_id": value if kinds is None else kinds[value],
                    "segmentation": encode(mask),
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": v, "name": str(names.get(v, v))} for v in found if v]
    made = {"images": planes, "categories": categories, "annotations": annotations}
    return json.dumps(made, indent=1).encode()


def read(path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """What ``document`` made: (Z, Y, X) label values, and their names. Raises UnreadableFile.

    Where masks overlap, the later one counts. All planes must be of one size.
    """
    try:
        given = json.loads(path.read_bytes())
        sizes = {(int(i["height"]), int(i["width"])) for i in given["images"]}
        if len(sizes) != 1:
            raise ValueError(f"its images have {len(sizes)} sizes")
        place = {i["id"]: z for z, i in enumerate(given["images"])}
        names = {int(c["id"]): str(c["name"]) for c in given["categories"]}
        labels = np.zeros((len(place), *sizes.pop()), np.uint16)
        for one in given["annotations"]:
            labels[place[one["image_id"]]][decode(one["segmentation"])] = int(one["category_id"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableFile(
            path, f"holds no masks in COCO's run lengths ({error}); write it again with the format rle"
        ) from None
    return labels, names


def _letters(number: int) -> str:
    made = []
    more = True
    while more:
        bits, number = number & 31, number >> 5
        more = number != (-1 if bits & 16 else 0)
        made.append(chr(48 + bits + (32 if more else 0)))
    return "".join(made)


def _numbers(letters: str) -> list[int]:
    if len(letters) > MOST_LETTERS:
        raise ValueError("run lengths are longer than any picture's")
    found, number, shift = [], 0, 0
    for letter in letters:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is no part of run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            found.append(number - (1 << shift) if bits & 16 else number)
            number, shift = 0, 0
    if shift:
        raise ValueError("run lengths end in the middle of a number")
    return found

"""Made pictures and volumes with things to find: bright squares and darker discs on noise."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from medspectrum.case import BoxTarget, Case, LazyImage
from medspectrum.image import Image

SIZE = (96, 128)
DEPTH = 7
NAMES = ("disc", "square")


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, list[tuple[float, ...]], list[str]]:
    """(pixels uint8, boxes, labels) of one picture; things do not overlap."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    pixels = rng.normal(70, 10, size)
    free = np.ones(size, bool)
    boxes, labels = [], []
    for _ in range(int(rng.integers(2, 6))):
        side = int(rng.integers(14, 26))
        top, left = (int(rng.integers(0, n - side)) for n in size)
        around = (slice(max(top - 3, 0), top + side + 3), slice(max(left - 3, 0), left + side + 3))
        if not free[around].all():
            continue
        free[around] = False
        kind = NAMES[int(rng.integers(0, 2))]
        if kind == "square":
            pixels[top : top + side, left : left + side] += 140
        else:
            middle = (top + side / 2, left + side / 2)
            pixels[np.hypot(rows + 0.5 - middle[0], columns + 0.5 - middle[1]) < side / 2] += 80
        boxes.append((float(left), float(top), float(left + side), float(top + side)))
        labels.append(kind)
    return np.clip(pixels, 0, 255).astype(np.uint8), boxes, labels


def solid(seed: int) -> tuple[np.ndarray, list[tuple[float, ...]], list[str]]:
    """(values uint8 (Z, Y, X), boxes, labels): the things of a scene, some planes deep each."""
    rng = np.random.default_rng([seed, 3])
    flat, boxes, labels = scene(seed)
    values = rng.normal(70, 10, (DEPTH, *SIZE))
    made = []
    for x0, y0, x1, y1 in boxes:
        z0 = int(rng.integers(0, DEPTH - 3))
        z1 = int(rng.integers(z0 + 3, DEPTH + 1))
        inside = np.s_[int(y0) : int(y1), int(x0) : int(x1)]
        values[(slice(z0, z1), *inside)] = flat[inside]
        made.append((x0, y0, float(z0), x1, y1, float(z1)))
    return np.clip(values, 0, 255).astype(np.uint8), made, labels


def _made(seed: int, kind: str) -> tuple[np.ndarray, list[tuple[float, ...]], list[str]]:
    return solid(seed) if kind == "volume" else scene(seed)


def _image(seed: int, kind: str) -> Image:
    pixels = _made(seed, kind)[0]
    if kind == "volume":
        return Image(pixels[None], np.diag([1.0, 1.0, 2.5, 1.0]), "MR", True)
    return Image(pixels[None, None])


def boxed(count: int, *, first: int = 0, kind: str = "plane", centre: bool = False) -> list[Case]:
    """Cases with boxes; every second patient has two."""
    cases = []
    for seed in range(first, first + count):
        _, boxes, labels = _made(seed, kind)
        image = LazyImage(
            f"made/{kind}{seed}.png",
            functools.partial(_image, seed, kind),
            functools.partial(str, f"boxed{seed:08x}{kind}"),
        )
        target = BoxTarget(tuple(boxes), tuple(labels))
        place = ("North", "Harbour")[seed % 2] if centre else None
        cases.append(Case(f"{kind}{seed}", f"p{seed // 2}", {"image": image}, target, place))
    return cases


def write_coco(folder: Path, count: int) -> Path:
    """images/ and instances.json."""
    images, annotations = [], []
    for seed in range(count):
        pixels, boxes, labels = scene(seed)
        path = folder / "images" / f"p{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels).save(path)
        images.append({"id": seed, "file_name": path.name, "height": SIZE[0], "width": SIZE[1]})
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": seed,
                    "category_id": NAMES.index(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder

"""Outline what boxes, points, masks, a detector or words point at, with any SAM-format checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medspectrum import __version__, pointing, store
from medspectrum.case import Case, LeftOut
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats import paths_of
from medspectrum.formats.masks import FORMATS, mask_suffix, write_mask
from medspectrum.models import sam
from medspectrum.outcome import write_left_out
from medspectrum.pointing import Pointing
from medspectrum.progress import Progress, progress_for
from medspectrum.prompted import axis_of, outlined, pixels_of, window_of
from medspectrum.prompts import read_boxes, read_points
from medspectrum.tasks.segment import file_name, grid_of


def segment(
    images: Path,
    *,
    model: Path,
    out: Path,
    boxes: Path | None = None,
    boxes_from: Path | None = None,
    points: Path | None = None,
    masks: Path | None = None,
    text: str | None = None,
    detector: Path | None = None,
    min_score: float = 0.3,
    preparation: str = "auto",
    window: str | None = None,
    instances: bool = False,
    format: str | None = None,
    layout: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Outline what boxes, points, masks, a detector or words point at, with any SAM-format checkpoint.

    images: file, folder or table of images; volumes are outlined plane by plane.
    model: Segment Anything: Meta's or MedSAM's own file, or a folder of transformers (SAM, SAM 2).
    out: folder for a label map per image, named as the image, and segmentation.json.
    boxes: COCO JSON, a folder of Pascal VOC XML, or CSV (image, x0, y0, x1, y1, label; in volumes also
        z0 and z1, or z).
    boxes_from: the folder 'predictor' of a finished run of the task detect; it draws the boxes.
    points: CSV (image, x, y, label; in volumes z). Points of one object share a value in the column object,
        and the column inside says 0 for a point beside it.
    masks: a folder of rough label maps with the images' names, to be redrawn.
    text: labels, separated by commas, that the detector looks for.
    detector: folder of an open-vocabulary detector of transformers (OWL-ViT, OWLv2, Grounding DINO).
    min_score: boxes of a detector, and boxes of COCO JSON that have a score, count from this one.
    preparation: how images are shown: sam, medsam or sam2; auto takes medsam where the checkpoint's name
        has that word.
    window: values that are shown as black and white, such as -160,240 for CT.
    instances: number the objects of an image from 1 instead of giving each its label's value.
    format: nifti, png, rle (COCO JSON) or dicom-seg; PNG for pictures and NIfTI for others where not given.
    layout: name of the data's layout where it is not recognised by itself.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns the content of segmentation.json. Prompts and images that cannot be used are left out and named.
    Raises UserError where the checkpoint cannot be loaded, or nothing at all can be outlined.
    """
    begun = time.perf_counter()
    shown = window_of(window)
    if format is not None and format not in FORMATS:
        raise UserError(f"there is no format {format!r} of masks; use {', '.join(FORMATS)}")
    ways = {"boxes": boxes, "boxes_from": boxes_from, "points": points, "masks": masks, "text": text}
    way = _one_of(ways, detector)
    network = sam.load(model, preparation=preparation)
    case_set = load(Path(images), layout=layout, cache=cache)
    folder, left_out = Path(out), []
    with progress_for(quiet=quiet) as progress:
        asked = _pointing(way, ways[way], case_set.cases, detector, min_score, cache, progress)
        left_out += asked.left_out
        values = _values(asked.labels)
        step = progress.step(f"outlining by {Path(model).name}")
        rows: list[dict[str, Any]] = []
        taken: set[str] = set()
        for number, case in enumerate(case_set.cases, start=1):
            try:
                row, gone = _outline(
                    case, asked, network, shown, values, folder, taken, instances=instances, format=format
                )
                left_out += gone
                rows += row
            except UserError as error:
                left_out.append(LeftOut(case.id, str(error)))
            step(number, len(case_set.cases))
    left_out += case_set.left_out
    if not rows:
        told = f"; {left_out[0].source}: {left_out[0].reason}" if left_out else ""
        raise UserError(f"{images}: nothing points at any of its {len(case_set.cases)} images{told}")
    result = {
        "version": __version__,
        "model": str(model),
        "preparation": network.preparation,
        "prompts_by": way,
        "labels": values,
        "instances": instances,
        "out": str(folder),
        "images": rows,
        "not_spoken_of": len(case_set.cases) - len(rows),
        "outlines": sum(len(row["outlines"]) for row in rows),
        "seconds": round(time.perf_counter() - begun, 3),
        "left_out": [asdict(x) for x in left_out],
    }
    store.write_json(folder / "segmentation.json", result)
    write_left_out(folder / "left_out.csv", result["left_out"])
    return result


def _one_of(ways: Mapping[str, Any], detector: Path | None) -> str:
    """The one way of pointing that was given. Raises UserError for none or several."""
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in given or ways)
        words = f"{names} were given; give one of them" if given else f"give one of {names}"
        raise UserError(f"what is to be outlined must be said in one way: {words}")
    if detector is not None and given != ["text"]:
        raise UserError("--detector looks for what --text names; give --text, or leave the detector out")
    return given[0]


def _pointing(
    way: str,
    given: Any,
    cases: Sequence[Case],
    detector: Path | None,
    min_score: float,
    cache: Path | None,
    progress: Progress,
) -> Pointing:
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


def _outline(
    case: Case,
    asked: Pointing,
    network: sam.Promptable,
    window: tuple[float, float] | None,
    values: Mapping[str, int],
    folder: Path,
    taken: set[str],
    *,
    instances: bool,
    format: str | None,
) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """Outline and write one case; its row, or none where nobody speaks of it, and prompts left out."""
    lazy = grid_of(case)
    image = lazy.load()
    pixels = pixels_of(image, window)
    given = asked.ask(case, image, pixels)
    if given is None:
        return [], []
    pointers, left_out = [], []
    for pointer in given:
        try:
            pointers.append(pointer.checked(image.size))
        except UserError as error:
            left_out.append(LeftOut(f"{pointer.source} ({case.id})", str(error)))
    if given and not pointers:
        return [], left_out
    own = list(range(1, len(pointers) + 1)) if instances else [values[p.label] for p in pointers]
    found = outlined(network, pixels, pointers, own, axis=axis_of(pointers, image))
    place = folder / f"{file_name(case, taken)}{mask_suffix(image, format)}"
    names = {value: pointer.label for value, pointer in zip(own, pointers, strict=True)}
    written = write_mask(found.labels, image, place, format=format, names=names, sources=paths_of(lazy))
    return [{"image": case.id, "file": written.name, "outlines": found.rows}], left_out

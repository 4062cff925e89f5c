"""Outline what boxes, points, masks, a detector or words point at, with any SAM-format checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medspectrum import __version__, outliners, planned, store
from medspectrum.case import LeftOut
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats import paths_of
from medspectrum.formats.masks import FORMATS, mask_suffix, write_mask
from medspectrum.models import sam
from medspectrum.outcome import write_left_out
from medspectrum.progress import progress_for
from medspectrum.prompted import window_of
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
    everything: bool = False,
    points_per_side: int = 32,
    min_iou: float = 0.88,
    min_stability: float = 0.95,
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
    model: Segment Anything: Meta's or MedSAM's own file, or a folder of transformers (SAM, SAM 2). Or
        nnunet:FOLDER, what nnU-Net trained, or a row of such networks: it needs nothing that points.
    out: folder for a label map per image, named as the image, and segmentation.json.
    boxes: COCO JSON, a folder of Pascal VOC XML, or CSV (image, x0, y0, x1, y1, label; in volumes also
        z0 and z1, or z).
    boxes_from: the folder 'predictor' of a finished run of the task detect; it draws the boxes.
    points: CSV (image, x, y, label; in volumes z). Points of one object share a value in the column object,
        and the column inside says 0 for a point beside it.
    masks: a folder of rough label maps with the images' names, to be redrawn.
    text: labels, separated by commas, that the detector looks for.
    detector: folder of an open-vocabulary detector of transformers (OWL-ViT, OWLv2, Grounding DINO).
    everything: outline whatever stands out, from a grid of points; the things are numbered from 1.
    points_per_side: of that grid.
    min_iou: of everything what the network estimates to be outlined that well.
    min_stability: of everything what hardly changes with the threshold, as the IoU of two thresholds.
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
    trained = planned.named(Path(model), cache)
    way = _one_of({**ways, "everything": everything or None}, detector, needed=trained is None)
    network: Any = sam.load(model, preparation=preparation) if trained is None else None
    case_set = load(Path(images), layout=layout, cache=cache)
    cases = case_set.cases if trained is None else planned.together(case_set.cases, trained.plans.channels)
    folder, left_out = Path(out), []
    with progress_for(quiet=quiet) as progress:
        if trained is not None:
            outliner = outliners.of_plans(trained, cache, progress)
        elif everything:
            outliner = outliners.of_everything(
                network,
                shown,
                points_per_side=points_per_side,
                least_trust=min_iou,
                least_stability=min_stability,
            )
        else:
            asked = outliners.pointing_by(way, ways[way], cases, detector, min_score, cache, progress)
            left_out += asked.left_out
            outliner = outliners.of_pointing(network, asked, shown, instances=instances)
        step = progress.step(f"outlining by {Path(model).name}")
        rows: list[dict[str, Any]] = []
        taken: set[str] = set()
        for number, case in enumerate(cases, start=1):
            try:
                lazy = grid_of(case)
                image = lazy.load()
                found = outliner.answer(case, image)
                left_out += found.left_out
                if found.labels is not None:
                    name = planned.name_of(case, file_name(case, taken))
                    place = folder / f"{name}{mask_suffix(image, format)}"
                    written = write_mask(
                        found.labels, image, place, format=format, names=found.names, sources=paths_of(lazy)
                    )
                    rows.append({"image": case.id, "file": written.name, "outlines": found.rows})
            except UserError as error:
                left_out.append(LeftOut(case.id, str(error)))
            step(number, len(cases))
    left_out += case_set.left_out
    if not rows:
        told = f"; {left_out[0].source}: {left_out[0].reason}" if left_out else ""
        raise UserError(f"{images}: nothing points at any of its {len(cases)} images{told}")
    result = {
        "version": __version__,
        "model": str(model),
        "preparation": "plans" if network is None else network.preparation,
        "prompts_by": way,
        "labels": outliner.values,
        "instances": outliner.instances,
        "out": str(folder),
        "images": rows,
        "not_spoken_of": len(cases) - len(rows),
        "outlines": sum(len(row["outlines"]) for row in rows),
        "seconds": round(time.perf_counter() - begun, 3),
        "left_out": [asdict(x) for x in left_out],
    }
    store.write_json(folder / "segmentation.json", result)
    write_left_out(folder / "left_out.csv", result["left_out"])
    return result


def _one_of(ways: Mapping[str, Any], detector: Path | None, *, needed: bool) -> str:
    """The one way of pointing that was given. Raises UserError for none or several, or any if not needed."""
    given = [name for name, value in ways.items() if value is not None]
    if not needed:
        if given or detector is not None:
            word = "--" + (given or ["detector"])[0].replace("_", "-")
            raise UserError(f"a network of nnU-Net outlines the whole image by itself; leave {word} out")
        return "plans"
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in given or ways)
        words = f"{names} were given; give one of them" if given else f"give one of {names}"
        raise UserError(f"what is to be outlined must be said in one way: {words}")
    if detector is not None and given != ["text"]:
        raise UserError("--detector looks for what --text names; give --text, or leave the detector out")
    return given[0]

"""Why a predictor answers as it does: maps over the original pixels, like cases, and tests of the maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medspectrum import __version__, store
from medspectrum.case import Case, LeftOut
from medspectrum.errors import UserError
from medspectrum.evaluate import opened
from medspectrum.outcome import Thumbnails, plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.predictor import SavedPredictor
from medspectrum.progress import Progress, progress_for
from medspectrum.saliency.asked import drawn, explainable
from medspectrum.saliency.maps import METHODS
from medspectrum.saliency.rows import FORMAT, explained, summary


def explain(
    predictor: Path,
    data: Path,
    *,
    out: Path,
    methods: str = "",
    cases: int = 12,
    of: str = "",
    train: Path | None = None,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    split: str | None = None,
    part: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Show what a predictor's answers hang on, and test whether the maps that show it can be believed.

    predictor: the folder 'predictor' of a finished run.
    data: folder, table or archive of cases; where they have masks or boxes, maps are held against those.
    out: folder for explanations.json, report.html, overlays and, of volumes, maps as NIfTI.
    methods: names separated by commas; all that the network allows, where empty.
    cases: how many are explained, drawn by the seed and evenly over the answers; 0 for all.
    of: the class whose score is explained; the one that was answered, where empty.
    train: labelled cases, among which the most alike are shown beside each case.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    split: column with train, val or test (tables).
    part: explain cases of this part of a given split only (train, val or test).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    seed: where every random choice starts.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns the content of explanations.json. Raises UserError where the predictor cannot be explained.
    """
    columns = Plan(
        layout=layout,
        image=image,
        label=label,
        patient=patient,
        split=split,
        patient_pattern=patient_pattern,
        mask=mask,
    )
    folder = Path(out)
    asked = _asked(methods)
    with progress_for(quiet=quiet) as progress:
        saved, task, case_set, left_out = opened(predictor, data, columns, cache, progress)
        explainable(saved, of)
        some = [c for c in case_set.cases if part is None or c.split == part]
        if not some:
            raise UserError(f"no case stands in the part {part!r} of the given split")
        chosen, failed = drawn(saved, task, some, of, cases, seed)
        left_out += failed
        rows, failed = explained(saved, chosen, asked, folder, seed, progress.step("explaining"))
        left_out += failed
        if not rows:
            first = left_out[-1]
            raise UserError(f"none of the {len(some)} cases can be explained; {first.source}: {first.reason}")
        thumbnails: dict[str, Any] = {}
        if train is not None:
            labelled, lost = _labelled(saved, train, columns, cache, progress)
            left_out += lost
            thumbnails = _beside(saved, rows, [a.case for a in chosen], labelled)
    people = [row["patient"] for row in rows]
    results = plain(
        {
            "format": FORMAT,
            "version": __version__,
            "task": {"name": task.name, "classes": list(task.classes)},
            "predictor": {k: v for k, v in saved.facts.items() if k != "state"},
            "data": {"path": str(data), "cases": len(rows), "patients": len(set(people))},
            **summary(task.name, rows, seed),
            "left_out": [asdict(x) for x in left_out],
            "report": str(folder / "report.html"),
        }
    )
    store.write_json(folder / "explanations.json", results)
    write_left_out(folder / "left_out.csv", results["left_out"])
    from medspectrum.report.explanations import write_explanations

    write_explanations(folder / "report.html", results, folder=folder, thumbnails=thumbnails)
    return results


def _asked(methods: str) -> list[str]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise UserError(
            f"no method of explaining is called {', '.join(unknown)}; there are: {', '.join(METHODS)}"
        )
    return names


def _labelled(
    saved: SavedPredictor, train: Path, plan: Plan, cache: Path | None, progress: Progress
) -> tuple[list[Case], list[LeftOut]]:
    """Cases to compare with, those of the part train where a split is given; their features are ready."""
    from medspectrum.case import ClassTarget
    from medspectrum.datasets import load

    held = load(Path(train), layout=plan.layout, cache=store.cache_folder(cache), **plan.columns())
    cases = [c for c in held.cases if c.asked(ClassTarget) is not None and c.split in (None, "train")]
    images = [image for c in cases for image in c.images.values()]
    step = progress.step("looking at labelled cases")
    lost = saved.model.ensure(images, progress=step) if saved.model is not None else []
    gone = {x.source for x in lost}
    cases = [c for c in cases if not any(i.source in gone for i in c.images.values())]
    if not cases:
        raise UserError(f"{train}: holds no labelled case to compare with")
    return cases, [*held.left_out, *lost]


def _beside(
    saved: SavedPredictor, rows: list[dict[str, Any]], cases: Sequence[Case], labelled: Sequence[Case]
) -> dict[str, bytes]:
    """Put each row's nearest labelled cases into it; gives their pictures by case id."""
    from medspectrum.saliency.evidence import nearest

    by_id = {c.id: c for c in cases}
    found = nearest(saved.model, [by_id[row["case"]] for row in rows], labelled)
    pictures = Thumbnails(labelled)
    for row, near in zip(rows, found, strict=True):
        row["nearest"] = near
    return {n["case"]: pictures[n["case"]] for near in found for n in near}

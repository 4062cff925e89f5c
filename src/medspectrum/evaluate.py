"""Use a predictor: predictions of new cases, and what it is worth on labelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medspectrum import __version__, registry, store
from medspectrum.case import Case, CaseSet, LazyImage, LeftOut, Task
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.outcome import Thumbnails, for_report, plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.predictor import SavedPredictor, load_predictor
from medspectrum.progress import Progress, progress_for


def predict(
    predictor: Path,
    data: Path,
    *,
    out: Path | None = None,
    format: str | None = None,
    layout: str | None = None,
    image: str | None = None,
    patient: str | None = None,
    patient_pattern: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Predict new cases with a predictor that a run handed over.

    predictor: the folder 'predictor' of a finished run.
    data: folder, table, archive or single image of new cases; labels are not needed.
    out: CSV file (case, patient, one probability column per class, prediction), or for masks and
        registrations a folder; here predictions.csv or predictions/ where not given.
    format: of masks: nifti, png, rle (COCO JSON) or dicom-seg (beside a DICOM series); where not given, PNG
        for pictures without physical size and NIfTI for others.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    patient: column with the patient (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns the number of cases, the file written, and what was left out. Raises UserError where the
    predictor was altered or no case can be read.
    """
    plan = Plan(layout=layout, image=image, patient=patient, patient_pattern=patient_pattern)
    with progress_for(quiet=quiet) as progress:
        saved, task, case_set, left_out = opened(predictor, data, plan, cache, progress)
        if format is not None and task.name not in ("segment", "instances"):
            raise UserError(f"--format is for masks; this predictor is for the task {task.name}")
        if task.name == "register":
            written = _register_pairs(saved, case_set.cases, Path(out or "predictions"))
            write_left_out(written / "left_out.csv", [asdict(x) for x in left_out])
            return _told(case_set.cases, written, saved, left_out)
        predictions, cases, failed = _predicted(saved, task, case_set.cases)
        left_out += failed
        written = task.write(predictions, cases, out, **({"format": format} if format else {}))
    beside = written if written.is_dir() else written.parent
    write_left_out(beside / "left_out.csv", [asdict(x) for x in left_out])
    return _told(cases, written, saved, left_out)


def _told(
    cases: Sequence[Case], written: Path, saved: SavedPredictor, left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    return {
        "cases": len(cases),
        "out": str(written),
        "classes": list(saved.classes),
        "left_out": [asdict(x) for x in left_out],
    }


def _register_pairs(saved: SavedPredictor, cases: Sequence[Case], out: Path) -> Path:
    """Each pair's warped image, field and transform, in a folder of its own named after both images."""
    from medspectrum import formats
    from medspectrum.engine.align.files import write_alignment
    from medspectrum.methods._registering import pair_of

    pairs = [(case, *pair_of(case)) for case in cases]
    taken: set[str] = set()
    for case, moving, fixed in pairs:
        name = "_onto_".join(
            Path(lazy.source.partition("#")[0]).name.partition(".")[0] for lazy in (moving, fixed)
        )
        name = name if name not in taken else f"{name}_{len(taken)}"
        taken.add(name)
        a, b, found = saved.predictor.align(moving, fixed)  # type: ignore[attr-defined]
        picture = formats.kind(Path(fixed.source.partition("#")[0])) in ("raster", "tiff")
        facts = write_alignment(a, b, found, out / name, picture=picture)
        told = {"pair": case.id, "moving": moving.source, "fixed": fixed.source, **facts}
        store.write_json(out / name / "registration.json", told)
    return out


def evaluate(
    predictor: Path,
    data: Path,
    *,
    out: Path,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    part: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    reader: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge a predictor on labelled cases: scores with intervals over patients, per class and per centre.

    predictor: the folder 'predictor' of a finished run.
    data: folder, table or archive of labelled cases.
    out: folder for evaluation.json, predictions.csv and report.html.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class, or a column for each of several readers, separated by commas (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    part: judge on this part of a given split only (train, val or test); all cases where not given.
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    reader: column with the reader, where an image has a row for each of them (tables).
    seed: where the resampling of patients starts.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns the content of evaluation.json. Raises UserError where no case carries a class that the
    predictor knows.
    """
    plan = Plan(
        layout=layout,
        image=image,
        label=label,
        patient=patient,
        centre=centre,
        split=split,
        patient_pattern=patient_pattern,
        mask=mask,
        reader=reader,
    )
    folder = Path(out)
    with progress_for(quiet=quiet) as progress:
        saved, task, case_set, left_out = opened(predictor, data, plan, cache, progress)
        cases, unusable = judgeable(case_set.cases, task, part)
        left_out += unusable
        arrange = registry.find("task", task.name).facts.get("arrange")
        if arrange is not None:
            cases = arrange(task, cases, seed=seed)
        predictions, cases, failed = _predicted(saved, task, cases)
        left_out += failed
        judged = task.score(predictions, cases, seed=seed) | task.in_detail(predictions, cases, seed=seed)
    results = plain(
        {
            "version": __version__,
            "task": {"name": task.name, "primary": task.primary, "classes": list(task.classes)},
            "predictor": {k: v for k, v in saved.facts.items() if k != "state"},
            "data": {"path": str(data), "cases": len(cases), "patients": len({c.patient for c in cases})},
            **judged,
            "left_out": [asdict(x) for x in left_out],
            "report": str(folder / "report.html"),
        }
    )
    store.write_json(folder / "evaluation.json", results)
    task.write(predictions, cases, folder / ("predictions.csv" if task.name == "classify" else "predictions"))
    write_left_out(folder / "left_out.csv", results["left_out"])
    from medspectrum.report import write_evaluation

    write_evaluation(
        folder / "report.html",
        results,
        predictions=for_report(predictions, cases, task),
        thumbnails=Thumbnails(cases),
    )
    return results


def opened(
    predictor: Path, data: Path, plan: Plan, cache: Path | None, progress: Progress
) -> tuple[SavedPredictor, Task, CaseSet, list[LeftOut]]:
    """The predictor, the cases whose images can be embedded, and what had to be left out."""
    from medspectrum.datasets import load

    folder = store.cache_folder(cache)
    saved = load_predictor(Path(predictor), cache=folder)
    task: Task = registry.find("task", saved.facts["task"]).thing(**saved.facts["task_settings"])
    case_set = load(Path(data), layout=plan.layout, cache=folder, **plan.columns())
    left_out = list(case_set.left_out)
    cases: Sequence[Case] = case_set.cases
    if saved.model is not None:
        seen, lost = _seen(cases, task)
        left_out += lost
        cases = [c for c in cases if c.id in seen]
        images = [image for c in cases for image in seen[c.id]]
        step = progress.step(f"embedding by {saved.facts['model']}")
        failed = {x.source: x for x in saved.model.ensure(images, progress=step, level=task.level)}
        left_out += failed.values()
        cases = tuple(c for c in cases if not any(i.source in failed for i in seen[c.id]))
    if not cases:
        told = f"; {left_out[0].source}: {left_out[0].reason}" if left_out else ""
        raise UserError(f"{data}: none of its {len(case_set.cases)} cases can be read{told}")
    return saved, task, CaseSet(case_set.name, case_set.layout, tuple(cases)), left_out


def _seen(cases: Sequence[Case], task: Task) -> tuple[dict[str, Sequence[LazyImage]], list[LeftOut]]:
    """What an encoder sees of each case by its id, and the cases that cannot even be opened."""
    seen: dict[str, Sequence[LazyImage]] = {}
    lost = []
    for case in cases:
        try:
            seen[case.id] = task.seen(case)
        except UnreadableFile as error:
            lost.append(LeftOut(error.source, error.reason))
        except UserError as error:
            lost.append(LeftOut(case.id, str(error)))
    return seen, lost


def _predicted(
    saved: SavedPredictor, task: Task, cases: Sequence[Case]
) -> tuple[Any, Sequence[Case], list[LeftOut]]:
    """Predictions, the cases they are of, and the cases that the predictor cannot take.

    Raises UserError where it can take none.
    """
    if task.level == "pooled":
        return saved.predictor.predict(cases), cases, []
    try:
        return saved.predictor.predict(cases), cases, []
    except UserError:
        pass  # one by one, to find out which
    found, kept, failed = [], [], []
    for case in cases:
        try:
            found += list(saved.predictor.predict([case]))
            kept.append(case)
        except UnreadableFile as error:
            failed.append(LeftOut(error.source, error.reason))
        except UserError as error:
            failed.append(LeftOut(case.id, str(error)))
    if not kept:
        raise UserError(
            f"none of the {len(cases)} cases can be predicted; {failed[0].source}: {failed[0].reason}"
        )
    return found, kept, failed


def judgeable(cases: Sequence[Case], task: Task, part: str | None) -> tuple[list[Case], list[LeftOut]]:
    """The cases of that part that can be judged, and the others. Raises UserError where none can."""
    if part is not None:
        cases = [c for c in cases if c.split == part]
        if not cases:
            raise UserError(f"no case stands in the part {part!r} of the given split")
    known, left_out = [], []
    for case in cases:
        why = task.lacking(case)
        if why:
            left_out.append(LeftOut(case.id, why))
        else:
            known.append(case)
    if not known:
        raise UserError(
            f"none of the {len(cases)} cases carries what the predictor knows "
            f"({', '.join(task.classes)}); name the column with --label or correct the labels"
        )
    return known, left_out

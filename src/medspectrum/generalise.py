"""Where a predictor breaks: at other centres, under other acquisition, for whom; and what helps."""

from __future__ import annotations

import inspect
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, compared, remedies, shifted, shifts, standing, store
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.evaluate import judgeable, opened
from medspectrum.left_out_centre import leave_centres_out
from medspectrum.outcome import plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.predictor import SUMS, SavedPredictor, file_sum
from medspectrum.progress import Progress, progress_for
from medspectrum.reference import Reference, evenly, read_reference
from medspectrum.remedies import Adapted
from medspectrum.trial import case_digest

FORMAT = 1
SHIFT_CASES = {"classify": 300, "segment": 40}


def generalise(
    predictor: Path,
    data: Path,
    *,
    out: Path,
    shifts: str = "",
    severities: str = "1,2,3,4,5",
    shift_cases: int | None = None,
    remedies: str = "",
    leave_centre_out: bool = False,
    by: str = "",
    other: Path | None = None,
    modality: str | None = None,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    part: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Say where a predictor breaks: centres, acquisition shifts, subgroups, calibration, and what mends it.

    predictor: the folder 'predictor' of a finished run.
    data: folder, table or archive of labelled cases; those it learned from or was chosen on are left aside.
    out: folder for generalise.json and report.html.
    shifts: names separated by commas, or 'none'; those that fit the images' modality where empty.
    severities: of the shifts, from 1 (passes unnoticed) to 5 (a reader would complain).
    shift_cases: shifts are judged on at most so many cases, whole patients; 300 (outlines: 40) where not
        given.
    remedies: names separated by commas, or 'none'; all where empty. None of them needs new labels.
    leave_centre_out: train the predictor's method again without each centre, and judge it there.
    by: columns whose groups are compared, separated by commas, or 'none'; age, sex and the like where empty.
    other: further data, of another kind: is it noticed that they are not what was learned from?
    modality: DICOM code of the images (CR, MR, SM...) where the files do not say it.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    part: judge on this part of a given split only (train, val or test).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    seed: where every random choice starts.
    cache: folder for features and finished answers, shared between runs.
    quiet: show no progress.

    Returns the content of generalise.json. Raises UserError where no case is left to judge on.
    """
    given = {n: v for n, v in locals().items() if n not in ("predictor", "data", "out", "quiet")}
    started = time.monotonic()
    plan = Plan(
        layout=layout,
        image=image,
        label=label,
        patient=patient,
        centre=centre,
        split=split,
        patient_pattern=patient_pattern,
        mask=mask,
    )
    wanted = _wanted(shifts, severities, shift_cases, remedies, by, modality, seed)
    with progress_for(quiet=quiet) as progress:
        results = _judged(
            Path(predictor),
            Path(data),
            Path(out),
            plan,
            wanted,
            part,
            other,
            cache,
            progress,
            leave_centre_out=leave_centre_out,
        )
    results["seconds"] = time.monotonic() - started
    results["report"] = str(Path(out) / "report.html")
    results["repeat"] = _command(predictor, data, out, given)
    results = plain(results)
    store.write_json(Path(out) / "generalise.json", results)
    write_left_out(Path(out) / "left_out.csv", results["left_out"])
    from medspectrum.report.generalisation import write_generalisation

    write_generalisation(Path(out) / "report.html", results)
    return results


def _command(predictor: Path, data: Path, out: Path, given: dict[str, Any]) -> str:
    """The command line that repeats it: what is not as it would be by itself."""
    words = ["medspectrum", "generalise", str(predictor), str(data), "--out", str(out)]
    for p in inspect.signature(generalise).parameters.values():
        value = given.get(p.name, p.default)
        if value != p.default:
            flag = "--" + p.name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, checked before anything is read."""

    names: str
    severities: tuple[int, ...]
    cases: int | None
    remedies: tuple[str, ...]
    by: str
    modality: str | None
    seed: int


def _wanted(
    names: str, severities: str, cases: int | None, mended: str, by: str, modality: str | None, seed: int
) -> _Wanted:
    if cases is not None and cases < 1:
        raise UserError(f"shift-cases must be 1 or more; got {cases}")
    shifts.chosen(names, "", colour=True, volume=False)
    return _Wanted(
        names, shifts.severities_of(severities), cases, remedies.chosen(mended), by, modality, seed
    )


def _judged(
    folder: Path,
    data: Path,
    out: Path,
    plan: Plan,
    wanted: _Wanted,
    part: str | None,
    other: Path | None,
    cache: Path | None,
    progress: Progress,
    *,
    leave_centre_out: bool,
) -> dict[str, Any]:
    from medspectrum.datasets import load

    saved, task, case_set, left_out = opened(folder, data, plan, cache, progress)
    if task.name not in SHIFT_CASES:
        compared.judge(task, None, ())  # one sentence says for which tasks there is an answer
    usable, unusable = judgeable(case_set.cases, task, part)
    notes: list[str] = []
    reference = _reference(folder, notes)
    cases, known = _new_cases(usable, reference, data)
    if known:
        notes.append(f"{known} cases that the predictor learned from or was chosen on were left aside")
    strange = (other, load(other, cache=store.cache_folder(cache)).cases) if other is not None else None
    adapted = Adapted(saved.facts["method"], saved.model, *_state(saved))
    kept = _kept(folder, cases, task, out, cache)
    found = shifted.answered(adapted, reference, task, cases, kept)
    predictions = task.unpack(found)
    of = compared.judge(task, predictions, cases)
    limits = standing.limits_of(task, reference, notes)
    some = _some(cases, wanted.cases or SHIFT_CASES[task.name], wanted.seed)
    results: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "task": {"name": task.name, "primary": task.primary, "classes": list(task.classes)},
        "predictor": {k: v for k, v in saved.facts.items() if k != "state"},
        "data": {"path": str(data), "cases": len(cases), "patients": len({c.patient for c in cases})},
        "scores": task.score(predictions, cases, seed=wanted.seed)["scores"],
        "centres": {
            "per_centre": task.in_detail(predictions, cases, seed=wanted.seed)["per_centre"],
            "worst": compared.worst_group(of, cases, [c.centre for c in cases], seed=wanted.seed),
        },
        "subgroups": standing.groups(of, cases, wanted.by, wanted.seed),
        **standing.honesty(task, predictions, cases, limits, wanted.seed),
        "unlikeness": standing.likeness(
            adapted.model, reference, cases, found, strange, progress.step("other data"), seed=wanted.seed
        ),
    }
    names = _shift_names(some, wanted)
    here = kept if some is cases else replace(kept, name=f"{kept.name} {case_digest(some, task)}")
    clean = found if some is cases else shifted.answered(adapted, reference, task, some, here)
    results["shifts"] = shifted.under_shifts(
        adapted,
        reference,
        task,
        some,
        clean,
        names,
        wanted.severities,
        here,
        progress.step("shifts"),
        limits=limits,
        seed=wanted.seed,
    )
    results["shift_cases"] = {"cases": len(some), "patients": len({c.patient for c in some})}
    results["remedies"] = _remedies(
        adapted, reference, task, some, clean, names, _learned(usable, reference), here, progress, wanted
    )
    results["left_out_centres"] = (
        _without_centres(saved, task, usable, out, cache, progress, wanted, notes)
        if leave_centre_out
        else None
    )
    results["notes"] = notes
    results["left_out"] = [asdict(x) for x in (*left_out, *unusable)]
    return results


def _reference(folder: Path, notes: list[str]) -> Reference | None:
    try:
        return read_reference(folder)
    except UserError as error:
        if "older version" not in str(error):
            raise
        notes.append(str(error))
        return None


def _new_cases(usable: Sequence[Case], reference: Reference | None, data: Path) -> tuple[list[Case], int]:
    """The cases that the predictor has not seen, and how many it has."""
    if reference is None:
        return list(usable), 0
    new = [c for c in usable if not reference.seen_before(c)]
    if not new:
        raise UserError(
            f"{data}: the predictor learned from, or was chosen on, all of the {len(usable)} cases; "
            "give cases that it has not seen"
        )
    return new, len(usable) - len(new)


def _learned(usable: Sequence[Case], reference: Reference | None) -> list[Case]:
    """Some of the cases that the predictor learned from, where they are among the data."""
    if reference is None:
        return []
    return evenly([c for c in usable if reference.seen_before(c) == "train"], remedies.MOST_IMAGES)


def _state(saved: SavedPredictor) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return saved.predictor.state()[0], saved.facts["state"]


def _kept(folder: Path, cases: Sequence[Case], task: Task, out: Path, cache: Path | None) -> shifted.Kept:
    name = store.digest(shifted.code(), file_sum(folder / SUMS), case_digest(cases, task))
    return shifted.Kept(store.cache_folder(cache) / "generalise", name, task, out / ".features")


def _some(cases: Sequence[Case], most: int, seed: int) -> Sequence[Case]:
    """At most so many cases: whole patients, drawn at random; the same object where all are taken."""
    if len(cases) <= most:
        return cases
    own = Counter(c.patient for c in cases)
    patients = sorted(own)
    chosen: set[str] = set()
    count = 0
    order = np.random.default_rng([seed, 5]).permutation(len(patients))
    for place in order:
        if chosen and count + own[patients[place]] > most:
            continue
        chosen.add(patients[place])
        count += own[patients[place]]
        if count >= most:
            break
    return [c for c in cases if c.patient in chosen]


def _shift_names(cases: Sequence[Case], wanted: _Wanted) -> tuple[str, ...]:
    if not cases:
        return ()
    image = next(iter(cases[0].images.values())).load()
    return shifts.chosen(
        wanted.names,
        wanted.modality or image.modality,
        colour=image.array.shape[0] == 3,
        volume=image.is_volume,
    )


def _remedies(
    adapted: Adapted,
    reference: Reference | None,
    task: Task,
    cases: Sequence[Case],
    clean: dict[str, np.ndarray],
    names: Sequence[str],
    learned: Sequence[Case],
    kept: shifted.Kept,
    progress: Progress,
    wanted: _Wanted,
) -> dict[str, Any] | None:
    if reference is None or not wanted.remedies or not names:
        return None
    severity = min(wanted.severities, key=lambda s: (abs(s - shifted.REMEDIED_AT), -s))
    rows = shifted.remedied_shifts(
        adapted,
        reference,
        task,
        cases,
        clean,
        names,
        severity,
        wanted.remedies,
        kept,
        progress.step("remedies"),
        learned=learned,
        seed=wanted.seed,
    )
    return {"severity": severity, "rows": rows}


def _without_centres(
    saved: SavedPredictor,
    task: Task,
    usable: Sequence[Case],
    out: Path,
    cache: Path | None,
    progress: Progress,
    wanted: _Wanted,
    notes: list[str],
) -> list[dict[str, Any]]:
    name = store.digest(
        "centres",
        shifted.code(),
        saved.facts["model_key"],
        saved.facts["method"],
        saved.facts.get("settings", {}),
        case_digest(usable, task),
    )
    if "settings" not in saved.facts:
        notes.append(
            "the predictor does not say with which settings it was trained: centres were left out with "
            "the method's own"
        )
    kept = shifted.Kept(store.cache_folder(cache) / "generalise", name, task, out / ".features")
    return leave_centres_out(
        saved.facts["method"],
        saved.facts.get("settings", {}),
        saved.model,
        task,
        usable,
        wanted.remedies,
        kept,
        progress.step("centres left out"),
        seed=wanted.seed,
    )

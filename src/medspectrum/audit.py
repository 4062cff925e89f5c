"""The audit: would a good score on these data mean what it says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import Case, CaseSet, ClassTarget
from medspectrum.describe import describe_cases
from medspectrum.errors import UserError
from medspectrum.leakage.findings import accepted, of_leaks, of_probes, standing
from medspectrum.leakage.known import known_as
from medspectrum.leakage.shortcuts import probes
from medspectrum.scan import Scan, scan


def audit(
    data: Path,
    *,
    out: Path | None = None,
    accept: str = "",
    predictor: Path | None = None,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Look for leaks and shortcuts that would make a score too good, before anything is learned.

    data: folder, table or archive of cases.
    out: folder for audit.json and audit.html; nothing is written where not given.
    accept: names of findings, separated by commas, that are known and accepted.
    predictor: the folder 'predictor' of a finished run: its score is taken again with marks and frames
        blanked that tell the class, and its encoder is asked for centre and scanner.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    seed: where folds and resampling start.
    cache: folder where facts are kept, so that a second look decodes nothing.
    quiet: show no progress.

    Returns passed, findings (failing ones first), probes, leaks, and what the data are known as. Raises
    UserError where there is no data set, or a name to accept is none of a finding.
    """
    from medspectrum.datasets import load
    from medspectrum.progress import progress_for

    columns = {
        "image": image, "label": label, "mask": mask, "patient": patient, "centre": centre, "split": split,
    }  # fmt: skip
    names = names_of(accept)
    accepted((), names)
    case_set = load(Path(data), layout=layout, cache=cache, patient_pattern=patient_pattern, **columns)
    with progress_for(quiet=quiet) as progress:
        seen = scan(case_set, cache=cache, progress=progress.step("reading cases"))
        facts = describe_cases(case_set, cache=cache, seen=seen)
        found = audit_cases(case_set, facts, Path(data), (case_set, seen), accept=names, seed=seed)
        if predictor is not None:
            found |= leans_on(Path(predictor), case_set, seen, found["probes"], cache, seed)
    result = {
        "data": {k: facts[k] for k in ("name", "layout", "cases", "patients", "classes", "centres", "split")},
        **found,
        "leaks": facts["leaks"],
        "leak_count": facts["leak_count"],
        "unreadable": facts["unreadable"],
    }
    if out is not None:
        from medspectrum.report.audited import write_audit

        store.write_json(Path(out) / "audit.json", result)
        write_audit(Path(out) / "audit.html", result)
    return result


def audit_cases(
    case_set: CaseSet,
    facts: Mapping[str, Any],
    data: Path,
    scanned: tuple[CaseSet, Scan],
    *,
    accept: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The same of cases that were described already (``facts``): ``passed``, ``findings``, ``probes``.

    scanned: the cases that were looked at, of which these are all or some, and what was seen.
    """
    whole, seen = scanned
    row = _first_rows(whole, seen)
    cases = [c for c in case_set.cases if c.id in row]
    of = np.array([row[c.id] for c in cases], int)
    made = probes(cases, seen.traces[of], seen.size[of], seen.spacing_mm[of], seed=seed)
    findings = accepted([*of_leaks(facts["leaks"], case_set.cases), *of_probes(made)], accept)
    told = [f.as_row() for f in findings]
    return {
        "passed": not standing(told),
        "findings": told,
        "probes": [p.as_row() for p in made],
        "masked": [],
        "encoder": [],
        "known_as": known_as(data, case_set.name),
    }


def _first_rows(case_set: CaseSet, seen: Scan) -> dict[str, int]:
    """Of each case that could be read the first row of its images."""
    found: dict[str, int] = {}
    for row, index in enumerate(seen.case):
        found.setdefault(case_set.cases[int(index)].id, row)
    return found


def leans_on(
    folder: Path, case_set: CaseSet, seen: Scan, made: Sequence[Mapping[str, Any]], cache: Any, seed: int
) -> dict[str, Any]:
    """``masked``: the predictor's fall once seen shortcuts are blanked; ``encoder``: what its features tell.

    Judged on cases that it neither learned from nor was chosen on. Raises UserError where it does not
    classify, or none of its classes is among them.
    """
    from medspectrum import leaning
    from medspectrum.predictor import load_predictor
    from medspectrum.reference import read_reference

    saved, reference = load_predictor(folder, cache=store.cache_folder(cache)), read_reference(folder)
    if saved.facts["task"] != "classify":
        raise UserError(f"{folder}: shortcuts are blanked for predictors that classify; this one does not")
    row = _first_rows(case_set, seen)
    lost = {case_set.cases[index].id for index, _, _ in seen.unreadable}
    readable = [c for c in case_set.cases if c.id in row and c.id not in lost]
    classes = saved.classes
    new = [c for c in readable if _class(c) in classes and not reference.seen_before(c)]
    truth = np.array([classes.index(str(_class(c))) for c in new], int)
    if len(set(truth.tolist())) < 2:
        raise UserError(
            f"{folder}: it has seen these cases, or does not know two of their classes; give new ones"
        )
    told = [p["name"] for p in made if p["fails"] or p["seen"]]
    boxes = {}
    if "marks" in told:
        known = [c for c in readable if _class(c) is not None]
        labels, rows = [str(_class(c)) for c in known], seen.traces[[row[c.id] for c in known]]
        boxes["marks"] = leaning.mark_boxes(known, labels, rows)
    if "border" in told:
        boxes["border"] = leaning.border_boxes(seen.traces)
    model = saved.model
    return {
        "predictor": {"path": str(folder), "model": saved.facts["model"], "method": saved.facts["method"]},
        "masked": leaning.without_shortcuts(saved.predictor.predict, truth, new, boxes, seed=seed),
        "encoder": [] if model is None else leaning.told_by_features(model, readable, seed=seed),
    }


def _class(case: Case) -> str | None:
    target = case.asked(ClassTarget)
    return target.label if target else None


def kept_together(cases: Sequence[Case], leaks: Sequence[Mapping[str, Any]]) -> tuple[list[Case], int]:
    """Cases of which no split by patient parts what ``leaks`` pairs: their patients become one.

    Gives the cases and how many patients were joined. Only for data without a split of their own.
    """
    patient = {case.id: case.patient for case in cases}
    root: dict[str, str] = {}

    def of(name: str) -> str:
        while name in root:
            name = root[name]
        return name

    for leak in leaks:
        if leak["crosses"] != "patients" or not all(name in patient for name in leak["cases"]):
            continue
        one, two = sorted(of(patient[name]) for name in leak["cases"])
        if one != two:
            root[two] = one
    if not root:
        return list(cases), 0
    joined = {*root, *(of(name) for name in root)}
    return [replace(c, patient=of(c.patient)) if c.patient in root else c for c in cases], len(joined)


def names_of(accept: str | Sequence[str]) -> tuple[str, ...]:
    """``"a,b"`` as names."""
    words = accept.split(",") if isinstance(accept, str) else accept
    return tuple(dict.fromkeys(w.strip() for w in words if w.strip()))

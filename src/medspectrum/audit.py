"""The audit: would a good score on these data mean what it says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import Case, CaseSet
from medspectrum.describe import describe_cases
from medspectrum.leakage.findings import accepted, of_leaks, of_probes, standing
from medspectrum.leakage.known import known_as
from medspectrum.leakage.shortcuts import probes
from medspectrum.scan import scan


def audit(
    data: Path,
    *,
    out: Path | None = None,
    accept: str = "",
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
        facts = describe_cases(case_set, cache=cache, progress=progress.step("reading cases"))
        found = audit_cases(case_set, facts, Path(data), accept=names, cache=cache, seed=seed)
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
    *,
    accept: Sequence[str] = (),
    cache: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The same of cases that were described already (``facts``): ``passed``, ``findings``, ``probes``."""
    seen = scan(case_set, cache=cache)
    first = np.full(len(case_set.cases), -1)
    first[seen.case[::-1]] = np.arange(len(seen.case))[::-1]
    rows = np.flatnonzero(first >= 0)
    cases = [case_set.cases[i] for i in rows]
    of = first[rows]
    made = probes(cases, seen.traces[of], seen.size[of], seen.spacing_mm[of], seed=seed)
    findings = accepted([*of_leaks(facts["leaks"], case_set.cases), *of_probes(made)], accept)
    told = [f.as_row() for f in findings]
    return {
        "passed": not standing(told),
        "findings": told,
        "probes": [p.as_row() for p in made],
        "masked": [],
        "known_as": known_as(data, case_set.name),
    }


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

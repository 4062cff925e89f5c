"""Which cases to label or to keep: chosen by what an encoder sees of them, and shown with the reason."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, store
from medspectrum.case import Case, CaseSet, LeftOut, MaskTarget
from medspectrum.engine import selection
from medspectrum.errors import UserError
from medspectrum.outcome import Thumbnails, plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.pool import Pool, asked, see, seeing, twins
from medspectrum.progress import Progress, progress_for
from medspectrum.strategies import STRATEGIES, Chosen, baseline, value_of

DRAWS = 20
"""Choices by chance that the coverage of the chosen is compared with."""

JUDGED_ON = 4096
"""Cases, at most, whose coverage is looked at."""


def curate(
    data: Path,
    *,
    n: int,
    out: Path,
    strategy: str = "representative",
    by: str = "class",
    models: str = "",
    predictor: str = "",
    labelled: Path | None = None,
    part: str | None = None,
    seed: int = 0,
    size: int | None = None,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Choose cases to label or to keep, and show what was chosen and why.

    data: folder, table or archive of cases; labels are needed by balanced and mislabelled only.
    n: how many cases to choose.
    out: folder for chosen.csv, baseline.csv (a choice by chance), curation.json and gallery.html.
    strategy: representative, spread, typical, corner, balanced, next, mislabelled or random.
    by: what to balance: class, centre or a column of the table.
    models: encoders separated by commas; the smallest real one that fits and is here, where empty.
    predictor: folder 'predictor' of a finished run that next asks; several are separated by commas.
    labelled: table with a column 'case' of what is labelled or chosen already, such as a chosen.csv.
    part: choose from this part of a given split only (train, val or test).
    seed: where every random choice starts.
    size: pixels per side that models see; chosen from the images where not given.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    cache: folder for features, shared with explore.
    quiet: show no progress.

    Returns the content of curation.json. Raises UserError for input that cannot be used.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"there is no strategy {strategy!r}; there are {', '.join(STRATEGIES)}")
    if n < 1:
        raise UserError(f"n is {n}; choose one case at least")
    started = time.monotonic()
    plan = Plan(
        layout=layout, image=image, label=label, patient=patient, centre=centre, split=split,
        patient_pattern=patient_pattern, mask=mask,
    )  # fmt: skip
    folder = store.cache_folder(cache)
    with progress_for(quiet=quiet) as progress:
        case_set, facts, left_out = _cases(Path(data), plan, part, folder, progress)
        encoders = seeing(models, case_set.cases, facts, size, folder)
        rows, cases, lost = see(encoders, case_set.cases, progress)
        given = _given(cases, labelled, strategy)
        same = twins(cases, facts, [cases[place].id for place in given])
        unsure, told, shown = asked(predictor, cases, folder, progress) if predictor else (None, (), None)
        place_of = {case.id: place for place, case in enumerate(cases)}
        pool = Pool(
            cases=cases,
            rows=rows[0],
            others=tuple(rows[1:]),
            given=given,
            aside=tuple(place_of[name] for name in same if name in place_of),
            seed=seed,
            unsure=unsure,
            told=told,
            foreground=shown,
            by=by,
        )
        free = int(pool.room(n).open.sum())
        if free < 1:
            raise UserError(
                f"{data}: all {len(cases)} cases are labelled or shown twice; none is left to choose"
            )
        step = progress.step("choosing")
        chosen = STRATEGIES[strategy](pool, min(n, free))
        step(1, 1)
        results = _told(pool, chosen, plan, n) | {
            "data": {"path": str(data), "name": case_set.name, "layout": case_set.layout},
            "strategy": strategy,
            "about": (STRATEGIES[strategy].__doc__ or "").strip(),
            "models": [{"name": e.card.name, "size": list(e.size)} for e in encoders],
            "predictor": predictor,
            "by": by if strategy == "balanced" else "",
            "seed": seed,
            "same_picture": [{"case": name, "as": other} for name, other in sorted(same.items())],
            "left_out": [asdict(x) for x in (*left_out, *lost)],
            "seconds": time.monotonic() - started,
            "gallery": str(Path(out) / "gallery.html"),
        }
        return _write(Path(out), plain(results), pool, chosen, progress)


def _cases(
    data: Path, plan: Plan, part: str | None, folder: Path, progress: Progress
) -> tuple[CaseSet, dict[str, Any], list[LeftOut]]:
    """The readable cases of that part, what is in the data, and what was left out."""
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable

    case_set = load(data, layout=plan.layout, cache=folder, **plan.columns())
    if part is not None:
        own = tuple(c for c in case_set.cases if c.split == part)
        if not own:
            raise UserError(f"{data}: no case stands in the part {part!r} of a given split")
        case_set = CaseSet(case_set.name, case_set.layout, own, case_set.left_out, case_set.warnings)
    facts = describe_cases(case_set, cache=folder, progress=progress.step("reading cases"))
    case_set, left_out = usable(case_set, facts)
    return case_set, facts, left_out


def _given(cases: Sequence[Case], labelled: Path | None, strategy: str) -> tuple[int, ...]:
    """Places of the cases that a table names; for ``next``, of those with a label where some have none."""
    if labelled is None:
        known = [place for place, case in enumerate(cases) if case.target is not None]
        return tuple(known) if strategy == "next" and len(known) < len(cases) else ()
    from medspectrum.datasets.table import read_table

    table = read_table(Path(labelled))
    if "case" not in table.columns:
        raise UserError(f"{labelled}: has no column 'case' (columns: {', '.join(table.columns)})")
    place_of = {case.id: place for place, case in enumerate(cases)}
    names = [name for name in table["case"].to_list() if name]
    unknown = [name for name in names if name not in place_of]
    if unknown:
        raise UserError(
            f"{labelled}: names {len(unknown)} cases that the data do not have (such as {unknown[0]!r}); "
            "give a table of cases of the same data"
        )
    return tuple(dict.fromkeys(place_of[name] for name in names))


def _told(pool: Pool, chosen: Sequence[Chosen], plan: Plan, wanted: int) -> dict[str, Any]:
    """What was chosen, and what a choice by chance would have been."""
    places = [one.place for one in chosen]
    chance = baseline(pool, len(chosen), pool.seed)
    taken = [place for place, _ in chance]

    def covered_by(some: Sequence[int]) -> np.ndarray:
        return selection.coverage(pool.rows, [*some, *pool.given], most=JUDGED_ON)

    covered = covered_by(places)
    drawn = [covered_by([p for p, _ in baseline(pool, len(chosen), pool.seed + d)]) for d in range(DRAWS)]
    means, worst = [float(d.mean()) for d in drawn], [float(d.min()) for d in drawn]
    return {
        "format": 1,
        "version": __version__,
        "wanted": wanted,
        "pool": {
            "cases": len(pool.cases),
            "patients": len(set(pool.patients)),
            "given": len(pool.given),
            "same_picture": len(pool.aside),
        },
        "chosen": [
            {
                "rank": rank,
                "case": case.id,
                "patient": case.patient,
                "centre": case.centre,
                "class": value_of(case, "class"),
                "score": one.score,
                "reason": one.reason,
            }
            for rank, one in enumerate(chosen, start=1)
            for case in [pool.cases[one.place]]
        ],
        "baseline": [{"case": pool.cases[place].id, "reason": reason} for place, reason in chance],
        "coverage": {
            "chosen": {"mean": float(covered.mean()), "least": float(covered.min())},
            "chance": {
                "draws": DRAWS,
                "mean": float(np.mean(means)),
                "low": min(means),
                "high": max(means),
                "least": float(np.mean(worst)),
            },
        },
        "counts": {
            by: {
                "pool": _counted(pool.cases, by),
                "chosen": _counted([pool.cases[p] for p in places], by),
                "chance": _counted([pool.cases[p] for p in taken], by),
            }
            for by in ("class", "centre")
            if any(value_of(c, by) is not None for c in pool.cases)
        },
        "patients": {
            "chosen": len({pool.patients[p] for p in places}),
            "chance": len({pool.patients[p] for p in taken}),
        },
        "columns": plan.columns(),
    }


def _counted(cases: Sequence[Case], by: str) -> dict[str, int]:
    return dict(Counter(v for c in cases if (v := value_of(c, by)) is not None).most_common())


def _write(
    out: Path, results: dict[str, Any], pool: Pool, chosen: Sequence[Chosen], progress: Progress
) -> dict[str, Any]:
    """The tables, the facts and the gallery."""
    from medspectrum.report import write_gallery

    step = progress.step("writing the gallery")
    rows = [(one.place, one.score, one.reason) for one in chosen]
    _write_table(out / "chosen.csv", pool.cases, rows)
    place_of = {case.id: place for place, case in enumerate(pool.cases)}
    chance = [(place_of[one["case"]], 0.0, one["reason"]) for one in results["baseline"]]
    _write_table(out / "baseline.csv", pool.cases, chance)
    store.write_json(out / "curation.json", results)
    write_left_out(out / "left_out.csv", results["left_out"])
    picked = [pool.cases[one.place] for one in chosen]
    write_gallery(
        out / "gallery.html",
        results,
        rows=pool.rows,
        chosen=[one.place for one in chosen],
        given=pool.given,
        classes=[value_of(case, "class") for case in pool.cases],
        thumbnails=Thumbnails(picked),
    )
    step(1, 1)
    return results


def _write_table(path: Path, cases: Sequence[Case], rows: Sequence[tuple[int, float, str]]) -> None:
    """A table that the layout 'table' reads again where images are files: ranks, paths, class, reason."""
    roles = list(dict.fromkeys(role for place, _, _ in rows for role in cases[place].images))
    masked = any(cases[place].asked(MaskTarget) is not None for place, _, _ in rows)
    names = ["rank", "case", "patient", "centre", "class", *roles, *(["mask"] if masked else [])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "score", "reason"])
    for rank, (place, score, reason) in enumerate(rows, start=1):
        case = cases[place]
        mask = case.asked(MaskTarget)
        images = [case.images[role].source if role in case.images else "" for role in roles]
        known = [case.id, case.patient, case.centre or "", value_of(case, "class") or "", *images]
        outlined = [mask.mask.source if mask is not None else ""] if masked else []
        writer.writerow([rank, *known, *outlined, f"{score:.6g}", reason])
    store.write_bytes(path, text.getvalue().encode())

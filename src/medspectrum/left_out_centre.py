"""What it costs never to have seen a centre: the method is trained again without it, and judged on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum import compared, registry, store
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.predictor import SUMS, WEIGHTS, read_facts, save_predictor
from medspectrum.progress import Step
from medspectrum.reference import make_reference
from medspectrum.remedies import Adapted
from medspectrum.shifted import Kept, remedied

FOLDS = 5
LEAST_CASES = 10


def leave_centres_out(
    method: str,
    settings: dict[str, Any],
    model: Any,
    task: Task,
    cases: Sequence[Case],
    remedy_names: Sequence[str],
    kept: Kept,
    step: Step,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """For each centre with enough patients: the same cases answered with and without its other patients seen.

    ``included``: five folds by patient over all centres, so that other patients of the centre were learned
    from. ``left_out``: learned from all other centres only. ``gap``: included minus left out, on the same
    resampled patients; remedies say which share of it they close. The sizes of the two training sets
    (``learned_from``) differ too, and so does a little of the gap. Raises UserError where no centre is large
    enough.
    """
    centres = _centres(cases)
    fit = registry.find("method", method).thing
    people, of_case = np.unique([c.patient for c in cases], return_inverse=True)
    fold = np.random.default_rng([seed, 17]).permutation(len(people))[of_case] % FOLDS
    total, done = FOLDS + len(centres) * (1 + len(remedy_names)), 0
    included: dict[str, Any] = {}
    for number in range(FOLDS):
        own = [c for c, f in zip(cases, fold, strict=True) if f == number]
        rest = [c for c, f in zip(cases, fold, strict=True) if f != number]
        wanted = [c for c in own if c.centre in centres]
        if wanted:
            answers = kept.answers(
                ["fold", number, seed],
                lambda rest=rest, wanted=wanted: fit(model, rest, task, seed=seed, **settings).predict(
                    wanted
                ),
            )
            included.update(zip([c.id for c in wanted], answers, strict=True))
        done += 1
        step(done, total)
    rows = []
    for name in centres:
        own = [c for c in cases if c.centre == name]
        gone = {c.patient for c in own}
        rest = [c for c in cases if c.patient not in gone]
        try:
            adapted = _fitted(method, settings, model, task, rest, kept, ["fitted without", name, seed], seed)
        except UserError as error:
            rows.append({"centre": name, "n": len(own), "not_for": str(error)})
            done += 1 + len(remedy_names)
            continue
        alone = kept.answers(["without", name, seed], lambda a=adapted, own=own: a.on(a.model).predict(own))
        whole = [included[c.id] for c in own]
        whole = np.stack(whole) if task.name == "classify" else whole
        best, low = compared.judge(task, whole, own), compared.judge(task, alone, own)
        lost = compared.fallen(best, low, own, seed=seed)
        row = {
            "centre": name,
            "n": len(own),
            "patients": len(gone),
            "learned_from": {"included": round(len(cases) * (1 - 1 / FOLDS)), "left_out": len(rest)},
            "included": compared.scored(best, own, seed=seed),
            "left_out": lost["score"],
            "gap": lost["drop"],
        }
        done += 1
        step(done, total)
        if remedy_names:
            reference = make_reference(rest, task, model, seed=seed)
            row["remedies"] = remedied(
                adapted,
                reference,
                task,
                own,
                best,
                alone,
                remedy_names,
                kept,
                ["without", name],
                learned=rest,
                seed=seed,
            )
            done += len(remedy_names)
            step(done, total)
        rows.append(row)
    return rows


def _fitted(
    method: str,
    settings: dict[str, Any],
    model: Any,
    task: Task,
    cases: Sequence[Case],
    kept: Kept,
    what: Sequence[Any],
    seed: int,
) -> Adapted:
    """The method fitted on these cases, now or in an earlier run."""
    from safetensors.numpy import load_file

    folder = kept.folder / store.digest(kept.name, list(what))
    if not (folder / SUMS).is_file():
        predictor = registry.find("method", method).thing(model, cases, task, seed=seed, **settings)
        save_predictor(folder, predictor, {"method": method})
    return Adapted(method, model, load_file(folder / WEIGHTS), read_facts(folder)["state"])


def _centres(cases: Sequence[Case]) -> list[str]:
    groups = compared.groups_of([c.centre for c in cases])
    found = [
        name
        for name, places in groups.items()
        if len(places) >= LEAST_CASES
        and len({cases[i].patient for i in places}) >= compared.LEAST_PATIENTS
        and len(cases) - len(places) >= LEAST_CASES
    ]
    if not found:
        raise UserError(
            f"no centre of {len(groups)} has {LEAST_CASES} cases of {compared.LEAST_PATIENTS} patients and "
            "as many beside it; leaving a centre out needs that (name the column with --centre)"
        )
    return found

"""Attack a predictor before others do: who was learned from, and what else its answers tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, registry, store
from medspectrum.attributes import told
from medspectrum.audit import kept_together
from medspectrum.budgets import make_split
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.evaluate import judgeable, opened
from medspectrum.methods._features import case_features
from medspectrum.metrics.membership import log_odds
from medspectrum.outcome import plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.predictor import NO_MODEL, SavedPredictor, read_facts, write_attack
from medspectrum.progress import progress_for
from medspectrum.reference import FILE, read_reference
from medspectrum.shadows import at_hand, membership, people, refitted

FEWEST_PATIENTS = 8
FEWEST_SHADOWS = 8


def attack(
    predictor: Path,
    data: Path,
    *,
    out: Path,
    shadows: int = 64,
    attribute: str | None = None,
    seed: int = 0,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Attack a predictor before others do: who was learned from, and whether answers tell the centre.

    predictor: the folder 'predictor' of a finished run, of a head on frozen features; what was found is
        written beside its weights too.
    data: the data that it was made with: cases that were learned from, and others.
    out: folder for attack.json and report.html.
    shadows: how many refits by its own method and settings are made, each on other patients.
    attribute: column whose values are to be guessed; the centre where not given.
    seed: where draws start; where a predictor does not remember whom it learned from, the seed of its run.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    cache: folder for features and refits: a stopped attack goes on where it was.
    quiet: show no progress.

    Returns the content of attack.json. Raises UserError for a predictor that is no head on frozen features
    or for data that hold too few patients learned from, or too few others.
    """
    if shadows < FEWEST_SHADOWS:
        raise UserError(f"shadows is {shadows}; {FEWEST_SHADOWS} refits at least are needed, 64 are usual")
    predictor, out = Path(predictor), Path(out)
    entry = _attackable(predictor)
    folder = store.cache_folder(cache)
    plan = Plan(
        layout=layout, image=image, label=label, patient=patient, centre=centre, split=split,
        patient_pattern=patient_pattern,
    )  # fmt: skip
    with progress_for(quiet=quiet) as progress:
        from medspectrum.describe import describe_cases

        saved, task, case_set, left_out = opened(predictor, Path(data), plan, folder, progress)
        leaks = describe_cases(case_set, cache=folder, progress=progress.step("reading cases"))["leaks"]
        cases, unusable = judgeable(case_set.cases, task, None)
        left_out += unusable
        cases, _ = kept_together(cases, leaks)
        learned, others, known_by = _parted(predictor, saved, cases, task, seed)
        some = people(learned, others, task, seed=seed)
        model = at_hand(saved.model, some.cases)
        asked = log_odds(saved.predictor.predict(some.cases), np.array([task.target(c) for c in some.cases]))
        odds, inside = refitted(
            entry.thing, saved.facts["method"], saved.facts["settings"], model, some, task,
            shadows=shadows, seed=seed, cache=folder, progress=progress.step("refitting on other patients"),
        )  # fmt: skip
        found = membership(asked, odds, inside, some, seed=seed)
        if not found:
            raise UserError(
                f"{shadows} refits are too few to compare patients learned from with others; raise --shadows"
            )
        step = progress.step("guessing the attribute")
        rows = case_features(saved.model, cases) if saved.model is not None else np.zeros((len(cases), 0))
        guessed = told(cases, saved.predictor.predict(cases), rows, task, attribute, seed=seed)
        step(1, 1)
    low = found["attacks"]["online"]["advantage"]["low"]
    results = plain(
        {
            "format": 1,
            "version": __version__,
            "predictor": {
                k: saved.facts.get(k) for k in ("method", "settings", "model", "size", "classes", "licence")
            },
            "data": {"path": str(data), "cases": len(some.cases), "known_by": known_by},
            "shadows": shadows,
            "seed": seed,
            "membership": {**found, "told": low is not None and low > 0},
            "attribute": guessed,
            "left_out": [asdict(x) for x in left_out],
            "report": str(out / "report.html"),
        }
    )
    store.write_json(out / "attack.json", results)
    write_left_out(out / "left_out.csv", results["left_out"])
    from medspectrum.report.attack import write_attacked

    write_attacked(out / "report.html", results)
    write_attack(predictor, _card(results))
    return results


def _card(results: dict[str, Any]) -> dict[str, Any]:
    """What a predictor says of itself afterwards; no number of patients, which privacy may not promise."""
    online = results["membership"]["attacks"]["online"]
    guessed = results["attribute"]
    return {
        "membership": {**online, "told": results["membership"]["told"], "shadows": results["shadows"]},
        "attribute": guessed
        and {
            "attribute": guessed["attribute"],
            "auc_from_answers": guessed["from"]["answers"]["auc"],
            "auc_beyond_class": guessed["auc_beyond_class"]["answers"],
        },
        "version": results["version"],
    }


def _attackable(folder: Path) -> Any:
    """The predictor's method. Raises UserError for one whose refits would not be heads on frozen features."""
    facts = read_facts(folder)
    entry = registry.find("method", facts["method"])
    head = entry.facts.get("trains") in ("head", "nothing") and entry.facts.get("uses_labels", True)
    if facts["task"] != "classify" or facts["model"] == NO_MODEL or not head:
        raise UserError(
            f"{folder} is of the method {facts['method']} for the task {facts['task']}; attack takes "
            "classifiers that learn a head on frozen features (ridge, linear_probe, knn, prototype, "
            "private_probe)"
        )
    return entry


def _parted(
    folder: Path, saved: SavedPredictor, cases: Sequence[Case], task: Task, seed: int
) -> tuple[list[Case], list[Case], str]:
    """Cases learned from, others, and how that is known: what the predictor remembers, or the split."""
    if (folder / FILE).is_file():
        remembered = read_reference(folder)
        part = [remembered.seen_before(c) for c in cases]
        learned = [c for c, p in zip(cases, part, strict=True) if p == "train"]
        others = [c for c, p in zip(cases, part, strict=True) if p != "train"]
        known_by = "predictor"
    else:
        dealt = make_split(cases, seed=seed, stratum=task.stratum, strata=task.strata)
        learned, others, known_by = list(dealt.train), [*dealt.val, *dealt.test], "split"
        stated = saved.facts.get("labels")
        if stated is not None and stated != len(learned):
            raise UserError(
                f"{folder} learned from {stated} cases, and the training part of the data has "
                f"{len(learned)}: give the data, the split and the --seed of its run"
            )
    inside = {c.patient for c in learned}
    rest = {c.patient for c in others} - inside
    if min(len(inside), len(rest)) < FEWEST_PATIENTS:
        raise UserError(
            f"the data hold {len(inside)} patients that the predictor learned from and {len(rest)} others; "
            f"{FEWEST_PATIENTS} of each are needed: give all data of its run"
        )
    return learned, others, known_by

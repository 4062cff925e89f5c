"""Made pictures beside real cases of a training: read, and refused where their generator knew the judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medspectrum import store
from medspectrum.budgets import Budget, Split, label_of
from medspectrum.case import Case, Task
from medspectrum.errors import UserError

TRAINED_ON = "generator/trained_on.json"
"""Digests of the pictures that a generator learned from, beside what it made."""
MARK = "synthetic"
"""Key of a case's record that tells a made picture."""


def synthetic_cases(folder: Path, task: Task, split: Split, cache: Path) -> tuple[tuple[Case, ...], str]:
    """The cases that ``synthesise`` wrote to ``folder``, of classes that the task has, and a note on them.

    Raises UserError where a validation or test picture is among those that the generator learned from.
    """
    from medspectrum.datasets import load

    folder = Path(folder)
    if not (folder / "labels.csv").is_file():
        raise UserError(f"{folder} holds no labels.csv; give the folder that synthesise wrote to")
    cases = [
        replace(c, split="train", record={**c.record, MARK: "yes"})
        for c in load(folder / "labels.csv", cache=cache).cases
    ]
    fitting = tuple(c for c in cases if not task.lacking(c))
    if not fitting:
        named = ", ".join(sorted({label_of(c) for c in cases})) or "no class"
        raise UserError(f"{folder}: is of {named}; none of the classes asked for")
    place = folder / TRAINED_ON
    told = f"{len(fitting)} made pictures of {folder} are added to every training set, and to no other part"
    if not place.is_file():
        return fitting, f"{told}; without {TRAINED_ON} it is unknown whether their generator saw test cases"
    known = set(store.read_json(place))
    judges = [c for c in (*split.val, *split.test) if any(i.key() in known for i in c.images.values())]
    if judges:
        raise UserError(
            f"{folder}: its generator learned from {len(judges)} of the validation and test cases, so that "
            "every score would be false; make pictures again with the same split and seed as here"
        )
    return fitting, told


def added(budgets: Sequence[Budget], made: Sequence[Case], task: Task) -> list[Budget]:
    """Each labelled set with made pictures of the classes that it has a real case of."""
    found = []
    for budget in budgets:
        known = {task.stratum(c) for c in budget.cases}
        found.append(replace(budget, cases=(*budget.cases, *(c for c in made if task.stratum(c) in known))))
    return found


def is_real(case: Case) -> bool:
    """Whether the case is of a patient."""
    return case.record.get(MARK) != "yes"

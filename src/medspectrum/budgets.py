"""Who is learned from, who is chosen on, who is judged on: splits and label budgets, by patient, always."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum.case import Case, ClassTarget, LeftOut
from medspectrum.errors import UserError

PARTS = ("train", "val", "test")
FULL = "full"
Stratum = Callable[[Case], str]


@dataclass(frozen=True, slots=True)
class Split:
    """Cases to learn from, to choose on, and to judge on; no patient stands in two of them."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Cases and patients of each part."""
        return {
            part: {"cases": len(cases), "patients": len({c.patient for c in cases})}
            for part in PARTS
            for cases in [getattr(self, part)]
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """One labelled set: ``name`` is the number of cases per class or ``full``."""

    name: str
    draw: int
    cases: tuple[Case, ...]


def label_of(case: Case) -> str:
    """The class of a case that has one."""
    found = case.asked(ClassTarget)
    if found is None:
        raise UserError(f"case {case.id} has no class label; give one, or leave the case out")
    return found.label


def split_leaks(cases: Iterable[Case]) -> dict[str, list[str]]:
    """Patients that stand on several sides of the given split: patient -> parts."""
    parts: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.split is not None:
            parts[case.patient].add(case.split)
    return {p: sorted(found) for p, found in parts.items() if len(found) > 1}


def make_split(
    cases: Sequence[Case],
    *,
    seed: int = 0,
    allow_leak: bool = False,
    stratum: Stratum = label_of,
    strata: int = 2,
) -> Split:
    """Train, validation and test parts of labelled cases.

    A split that came with the data is kept; a part it lacks is carved out of its training patients
    (validation 20 %, test 20 %). Without one, patients are dealt 60/20/20, stratified by their rarest
    class, so that a class with two patients still has one to learn from and one to be judged on.

    stratum: what is kept in proportion. strata: how many there must be, here and in the parts.
    Raises UserError for too few strata, fewer than three patients, or a given split that leaks.
    """
    classes = {stratum(c) for c in cases}
    if len(classes) < strata:
        found = f"only the class {next(iter(classes))!r}" if classes else "no labelled case"
        raise UserError(f"the data hold {found}; classification needs labelled cases of two classes or more")
    patients = {c.patient for c in cases}
    if len(patients) < 3:
        raise UserError(
            f"all {len(cases)} labelled cases are of {len(patients)} patient(s); train, validation and test "
            "need three patients at least, since a split never parts a patient"
        )
    given = [c for c in cases if c.split is not None]
    if not given:
        return _deal(cases, {"train": 0.6, "val": 0.2, "test": 0.2}, seed, stratum)
    leaks = split_leaks(given)
    if leaks and not allow_leak:
        shown = ", ".join("+".join(parts) for parts in list(leaks.values())[:3])
        raise UserError(
            f"the given split leaks: {len(leaks)} patient(s) stand on several sides ({shown}); correct the "
            "split column, drop it to have a new split made by patient, or accept it with --allow-leak"
        )
    left_out = tuple(
        LeftOut(c.id, "has no split though other cases have one") for c in cases if c.split is None
    )
    notes: list[str] = (
        [f"the given split leaks {len(leaks)} patient(s), accepted by --allow-leak"] if leaks else []
    )
    parts = {part: [c for c in given if c.split == part] for part in PARTS}
    if not parts["train"]:
        raise UserError("the given split has no training case; name one part 'train'")
    for part in ("test", "val"):
        if not parts[part]:
            carved = _deal(parts["train"], {"train": 0.8, part: 0.2}, seed, stratum)
            parts["train"], parts[part] = list(carved.train), list(getattr(carved, part))
            notes.append(f"the given split has no {part} part: 20 % of its training patients make it")
    for part in ("train", "test"):
        if len({stratum(c) for c in parts[part]}) < strata:
            raise UserError(f"the {part} part of the split holds one class only; two are needed")
    return Split(*(tuple(parts[p]) for p in PARTS), notes=tuple(notes), left_out=left_out)


def _deal(cases: Sequence[Case], shares: Mapping[str, float], seed: int, stratum: Stratum) -> Split:
    """Deal whole patients to parts, stratum by stratum, keeping each part near its share of cases."""
    rng = np.random.default_rng([seed, 0])
    frequency: dict[str, int] = defaultdict(int)
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        frequency[stratum(case)] += 1
        by_patient[case.patient].append(case)
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, own in sorted(by_patient.items()):
        strata[min((stratum(c) for c in own), key=lambda s: (frequency[s], s))].append(patient)
    dealt: dict[str, str] = {}
    for name in sorted(strata):
        members = [strata[name][i] for i in rng.permutation(len(strata[name]))]
        wanted = {part: share * sum(len(by_patient[p]) for p in members) for part, share in shares.items()}
        filled = dict.fromkeys(shares, 0.0)
        # Few patients: learn from the first, be judged on the second, then fill where most is missing.
        first = [part for part in ("train", "test", "val") if part in shares]
        for index, patient in enumerate(members):
            part = (
                first[index]
                if index < len(first)
                else max(shares, key=lambda p: (wanted[p] - filled[p], p == "train"))
            )
            dealt[patient] = part
            filled[part] += len(by_patient[patient])
    parts = {p: tuple(c for c in cases if dealt[c.patient] == p) for p in PARTS}
    return Split(parts["train"], parts["val"], parts["test"])


def parse_budgets(text: str | Sequence[str | int]) -> tuple[str, ...]:
    """``"1,5,full"`` to names in rising order without doubles. Raises UserError for anything else."""
    words = text.split(",") if isinstance(text, str) else [str(word) for word in text]
    names = {word.strip().lower() for word in words if word.strip()}
    wrong = sorted(n for n in names if n != FULL and not (n.isdigit() and int(n) > 0))
    if wrong or not names:
        raise UserError(
            f"budgets are whole numbers of cases per class or 'full'; got {', '.join(wrong) or 'none'}"
        )
    return tuple(sorted(names, key=lambda n: (n == FULL, 0 if n == FULL else int(n))))


def nested_budgets(
    train: Sequence[Case], budgets: Sequence[str], *, draws: int, seed: int = 0, stratum: Stratum = label_of
) -> list[Budget]:
    """Labelled sets of rising size, each draw a chain in which every set holds the one before it.

    Within a draw and class, patients are put in random order and give their cases in turns, so that the
    first k cases come from as many patients as there are. A class with fewer than k cases gives all.
    A budget that no draw fills beyond the one before, or that equals the full set, is left out.
    """
    order_of: dict[int, dict[str, list[Case]]] = {}
    for draw in range(draws):
        rng = np.random.default_rng([seed, 1, draw])
        by_class: dict[str, list[Case]] = defaultdict(list)
        for case in train:
            by_class[stratum(case)].append(case)
        order_of[draw] = {label: _turns(own, rng) for label, own in sorted(by_class.items())}
    largest = max((len(own) for own in order_of[0].values()), default=0) if draws else 0
    made: list[Budget] = []
    for name in budgets:
        if name == FULL:
            made.append(Budget(FULL, 0, tuple(train)))
            continue
        if int(name) >= largest and FULL in budgets:
            continue
        for draw in range(draws):
            chosen = {id(c) for own in order_of[draw].values() for c in own[: int(name)]}
            made.append(Budget(name, draw, tuple(c for c in train if id(c) in chosen)))
    return made


def _turns(cases: Sequence[Case], rng: np.random.Generator) -> list[Case]:
    """Cases in random order, one patient after the other, then their second cases, and so on."""
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    names = sorted(by_patient)
    queues = [
        [by_patient[names[i]][j] for j in rng.permutation(len(by_patient[names[i]]))]
        for i in rng.permutation(len(names))
    ]
    depth = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(depth) for queue in queues if turn < len(queue)]

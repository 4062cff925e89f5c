"""Shortcuts: can the class be told from how, where and with what a picture was made?

Each group of facts (the centre, columns of the table, size, frame, markers, file format...) is asked alone:
a small forest learns the class from it and answers for patients it has not seen. Its AUC has an interval over
patients, and beside it stands what chance gives: the same answers against classes dealt out anew to patients.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medspectrum import formats
from medspectrum.case import Case, ClassTarget
from medspectrum.metrics.bootstrap import resampled
from medspectrum.metrics.classification import auc
from medspectrum.traces import GROUPS, NAMES

MOST_CASES = 2000
FEWEST = 5
"""Patients that a class needs to be asked about."""
FOLDS = 5
DEALS = 200
MADE_BY = re.compile(
    r"scanner|device|manufactur|vendor|equipment|machine|station|protocol|kvp|software|batch|plate|slide|"
    r"operator|technician|institution|hospital|site|cent(er|re)|date|year|month|time|view|position|modality",
    re.IGNORECASE,
)
"""Columns that say how or when a picture was made; others (age, sex, a finding) may truly tell the class."""
ALARM = {"centre": 0.80, "made": 0.80, "size": 0.90, "format": 0.90, "spacing": 0.90, "border": 0.90}
ALARM |= {"marks": 0.90, "compression": 0.95, "intensity": 0.95, "levels": 0.95, "noise": 0.97}
"""Least lower end of the interval for an alarm: low where the facts lie outside of the picture, high where
what is shown has a say in them."""
SEEN = 0.65
"""AUC from which a shortcut that is beyond chance is worth a remark."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How well the class is told from one group of facts.

    auc: {"value", "low", "high"} over patients, macro over classes. chance: 95 % of the AUC when classes are
    dealt anew. alarm: the lower end from which it counts as a shortcut, None where it never does.
    """

    name: str
    auc: dict[str, float | None]
    chance: tuple[float, float]
    alarm: float | None
    cases: int
    tells: str

    @property
    def fails(self) -> bool:
        """Whether this is a shortcut that a network could take instead of the disease."""
        low = self.auc["low"]
        return self.alarm is not None and low is not None and low >= self.alarm and low > self.chance[1]

    @property
    def seen(self) -> bool:
        """Whether it is worth a remark."""
        low, value = self.auc["low"], self.auc["value"]
        return value is not None and low is not None and value >= SEEN and low > max(self.chance[1], 0.5)

    def as_row(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "chance": list(self.chance), "fails": self.fails, "seen": self.seen}


def probes(
    cases: Sequence[Case], found: np.ndarray, sizes: np.ndarray, spacing: np.ndarray, *, seed: int = 0
) -> list[Probe]:
    """All groups of facts of labelled cases, the most telling first; [] where there is nothing to ask.

    found: (n, len(NAMES)) of ``traces``; sizes, spacing: (n, 3); rows as the cases.
    """
    rows = _asked(cases, seed)
    if rows is None:
        return []
    own = [cases[i] for i in rows]
    labels, truth = np.unique([str(_label(c)) for c in own], return_inverse=True)
    patients = [c.patient for c in own]
    asked: dict[str, tuple[np.ndarray, float | None, str]] = {}
    for name, (matrix, alarm) in _facts(own, found[rows], sizes[rows], spacing[rows]).items():
        if matrix.shape[1] and (matrix != matrix[:1]).any():
            asked[name] = matrix, alarm, name
    made = []
    for name, (matrix, alarm, _) in asked.items():
        answers = _answers(matrix, truth, patients, len(labels), seed)
        if answers is not None:
            tells = _tells(name, own, matrix, [str(labels[t]) for t in truth])
            made.append(judged(name, answers, truth, patients, alarm, tells, seed))
    return sorted(made, key=lambda p: -(p.auc["value"] or 0))


def _label(case: Case) -> str | None:
    target = case.asked(ClassTarget)
    return target.label if target else None


def _asked(cases: Sequence[Case], seed: int) -> np.ndarray | None:
    """Rows of the cases whose class has enough patients, at most so many; None for fewer than two classes."""
    people: dict[str, set[str]] = {}
    for case in cases:
        if (label := _label(case)) is not None:
            people.setdefault(label, set()).add(case.patient)
    kept = {label for label, own in people.items() if len(own) >= FEWEST}
    if len(kept) < 2:
        return None
    rows = np.array([i for i, c in enumerate(cases) if _label(c) in kept])
    if len(rows) > MOST_CASES:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_CASES])
    return rows


def _facts(
    cases: Sequence[Case], found: np.ndarray, sizes: np.ndarray, spacing: np.ndarray
) -> dict[str, tuple[np.ndarray, float | None]]:
    """Group -> (n, d) numbers and the alarm."""
    size = np.column_stack([sizes, sizes[:, 2] / np.maximum(sizes[:, 1], 1)])
    suffixes = [_suffix(c) for c in cases]
    place = {name: i for i, name in enumerate(NAMES)}
    made: dict[str, tuple[np.ndarray, float | None]] = {
        "size": (size, ALARM["size"]),
        "spacing": (np.nan_to_num(spacing, nan=-1), ALARM["spacing"]),
    }
    for group, names in GROUPS.items():
        numbers = found[:, [place[name] for name in names]]
        if group == "format":
            numbers = np.column_stack([numbers, _one_hot(suffixes)])
        made[group] = numbers, ALARM[group]
    if any(c.centre for c in cases):
        made["centre"] = _one_hot([c.centre or "" for c in cases]), ALARM["centre"]
    for column in sorted({key for c in cases for key in c.record}):
        matrix = _column([c.record.get(column) for c in cases])
        if matrix is not None:
            made[f"column {column}"] = matrix, ALARM["made"] if MADE_BY.search(column) else None
    return made


def _suffix(case: Case) -> str:
    source = next((image.source for image in case.images.values()), "").partition("#")[0]
    return formats.suffix_of(source)


def _one_hot(values: Sequence[str], most: int = 100) -> np.ndarray:
    """(n, k) of the values that come twice or more."""
    common = [v for v, count in Counter(values).most_common(most) if count > 1]
    return np.array([[v == c for c in common] for v in values], np.float32).reshape(len(values), -1)


def _column(values: Sequence[Any]) -> np.ndarray | None:
    """A column as numbers or as one column per word; None for free text, identifiers and blank ones."""
    words = ["" if v is None else str(v).strip() for v in values]
    filled = [w for w in words if w]
    if len(filled) < 0.5 * len(words) or len(set(words)) < 2:
        return None
    numbers = [_number(w) for w in words]
    if sum(np.isfinite(numbers)) >= 0.9 * len(filled):
        return np.nan_to_num(np.array(numbers, np.float32), nan=-1e6)[:, None]
    matrix = _one_hot(words)
    return matrix if matrix.any(axis=1).mean() >= 0.5 else None


def _number(word: str) -> float:
    """A number, or a date (2020-01-25, 20200125, 25/01/2020, January 25, 2020) as days."""
    from datetime import datetime

    try:
        return float(word)
    except ValueError:
        pass
    for form in ("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%d.%m.%Y", "%B %d, %Y", "%Y-%m-%d %H:%M:%S"):
        try:
            return float(datetime.strptime(word, form).toordinal())
        except ValueError:
            continue
    return float("nan")


def _answers(
    matrix: np.ndarray, truth: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> np.ndarray | None:
    """(n, classes) probabilities of each case from a forest that has not seen its patient."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    out = np.full((len(truth), classes), 1.0 / classes)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learned, asked in folds.split(matrix, truth, np.asarray(patients)):
        if len(np.unique(truth[learned])) < 2:
            return None
        forest = ExtraTreesClassifier(
            12, max_depth=5, min_samples_leaf=3, class_weight="balanced", random_state=seed
        ).fit(matrix[learned], truth[learned])
        out[asked[:, None], forest.classes_] = forest.predict_proba(matrix[asked])
    return out


def judged(
    name: str,
    answers: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[str],
    alarm: float | None,
    tells: str,
    seed: int,
) -> Probe:
    """The probe that answered so: (n, k) probabilities beside classes (n,)."""
    shown = resampled(lambda w: {"auc": auc(answers, truth, w)}, patients, resamples=200, seed=seed)["auc"]
    rng = np.random.default_rng([seed, 3])
    names, of_case = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(of_case, kind="stable")
    groups = np.split(truth[order], np.cumsum(np.bincount(of_case))[:-1])
    dealt = []
    for _ in range(DEALS):
        again = np.empty_like(truth)
        again[order] = np.concatenate([groups[i] for i in rng.permutation(len(names))])
        dealt.append(float(auc(answers, again)))
    low, high = np.nanpercentile(dealt, [2.5, 97.5])
    return Probe(
        name,
        {k: None if v is None else round(float(v), 4) for k, v in shown.items()},
        (round(float(low), 4), round(float(high), 4)),
        alarm,
        len(truth),
        tells,
    )


def _tells(name: str, cases: Sequence[Case], matrix: np.ndarray, labels: Sequence[str]) -> str:
    """A few words on how the group differs between classes."""
    said = []
    for label in sorted(set(labels))[:4]:
        inside = [i for i, own in enumerate(labels) if own == label]
        if name == "centre" or name.startswith("column "):
            values = [
                cases[i].centre if name == "centre" else cases[i].record.get(name.removeprefix("column "))
                for i in inside
            ]
            word, count = Counter(str(v) for v in values).most_common(1)[0]
            said.append(f"{label}: {word} in {count / len(inside):.0%}")
        elif name == "format":
            word, count = Counter(_suffix(cases[i]) or "archive" for i in inside).most_common(1)[0]
            said.append(f"{label}: {word} in {count / len(inside):.0%}")
        else:
            numbers: Mapping[str, Any] = {"median": np.median(matrix[inside], axis=0)}
            said.append(f"{label}: median {', '.join(f'{v:.3g}' for v in numbers['median'][:5])}")
    return "; ".join(said)

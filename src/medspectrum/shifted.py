"""A predictor under acquisition shifts, and what remedies bring back; each answer is kept to resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import compared, outliers, reliability, remedies, shifts, store
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.methods._features import mean_features
from medspectrum.metrics.bootstrap import resampled
from medspectrum.progress import Step
from medspectrum.reference import Reference
from medspectrum.remedies import Adapted
from medspectrum.trial import code_digest

REMEDIED_AT = 3


@lru_cache(maxsize=1)
def code() -> str:
    """Digest of the source that decides answers here, so that an upgrade never mixes with older ones."""
    names = ("shifts", "appearance", "outliers", "reference", "remedies", "shifted", "left_out_centre")
    return store.digest(code_digest(), *(Path(__file__).with_name(f"{n}.py").read_bytes() for n in names))


@dataclass(frozen=True)
class Kept:
    """Answers on disk by what they are answers to. Features of shifted images go again (``scratch``)."""

    folder: Path
    name: str
    task: Task
    scratch: Path

    def get(self, what: Sequence[Any], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays from an earlier run, else computed now and kept."""
        path = self.folder / f"{store.digest(self.name, list(what))}.npz"
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as held:
                    return {name: held[name] for name in held}
            except (ValueError, OSError, EOFError, KeyError):
                path.unlink()  # a disk fault: computed again
        found = compute()
        with store.atomic(path) as partial, partial.open("wb") as opened:
            np.savez(opened, **found)  # type: ignore[arg-type]
        return found

    def answers(self, what: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Predictions from an earlier run, else computed now and kept."""
        return self.task.unpack(self.get(what, lambda: self.task.pack(compute())))

    def passing(self, model: Any) -> Any:
        """The model with a place for features that are not worth keeping."""
        return replace(model, rows=self.scratch) if hasattr(model, "rows") else model

    def clear(self) -> None:
        """Let those features go."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def _computed(
    adapted: Adapted, reference: Reference | None, task: Task, cases: Sequence[Case]
) -> dict[str, np.ndarray]:
    """Packed answers on the cases, and how unlike the cases are what was learned from."""
    found = task.pack(adapted.on(adapted.model).predict(cases))
    if reference is not None and adapted.reads_pooled and reference.has("feature_mean"):
        rows = mean_features(adapted.model, cases)
        found |= {f"unlike_{n}": v for n, v in outliers.unlikeness(reference.arrays, rows).items()}
    return found


def under_shifts(
    adapted: Adapted,
    reference: Reference | None,
    task: Task,
    cases: Sequence[Case],
    clean: dict[str, np.ndarray],
    names: Sequence[str],
    severities: Sequence[int],
    kept: Kept,
    step: Step,
    *,
    limits: dict[str, float],
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each shift and severity: score, drop, coverage, and how well the shift is noticed.

    clean: what ``answered`` gave on the cases as they are. limits: conformal thresholds.
    """
    before = compared.judge(task, task.unpack(clean), cases)
    model = kept.passing(adapted.model)
    passing = replace(adapted, model=model)
    rows: list[dict[str, Any]] = []
    for name in names:
        for severity in severities:
            moved = shifts.shifted(cases, name, severity, seed=seed)
            found = kept.get(
                ["shift", shifts.VERSION, name, severity, seed],
                lambda moved=moved: _computed(passing, reference, task, moved),
            )
            kept.clear()
            shift = shifts.SHIFTS[name]
            answers = task.unpack(found)
            row: dict[str, Any] = {
                "shift": name,
                "severity": severity,
                "strength": shift.strengths[severity - 1],
                "unit": shift.unit,
                "meaning": shift.meaning,
                **compared.fallen(before, compared.judge(task, answers, cases), cases, seed=seed),
            }
            if task.name == "classify":
                truth, patients = reliability.truth_of(task, cases), [c.patient for c in cases]
                row["calibration_error"] = resampled(
                    lambda w, a=answers, t=truth: {"e": reliability.calibration_error(a, t, w)},
                    patients,
                    seed=seed,
                )["e"]
                row["coverage"] = reliability.coverage(answers, truth, patients, limits, seed=seed)
            row["noticed"] = compared.noticed(clean, found, cases, cases, seed=seed)
            rows.append(row)
            step(len(rows), len(names) * len(severities))
    return rows


def answered(
    adapted: Adapted, reference: Reference | None, task: Task, cases: Sequence[Case], kept: Kept
) -> dict[str, np.ndarray]:
    """Answers on the cases as they are, and their unlikeness, as packed arrays."""
    return kept.get(["clean"], lambda: _computed(adapted, reference, task, cases))


def remedied(
    adapted: Adapted,
    reference: Reference,
    task: Task,
    cases: Sequence[Case],
    before: compared.Judge | None,
    worse: Any,
    names: Sequence[str],
    kept: Kept,
    what: Sequence[Any],
    *,
    learned: Sequence[Case] = (),
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each remedy on these cases of a new kind; one that cannot serve says why.

    before: the judge of answers without the gap; None where it is not known. worse: answers without a remedy.
    """
    passing = replace(adapted, model=kept.passing(adapted.model))
    low = compared.judge(task, worse, cases)
    rows = []
    for name in names:
        row: dict[str, Any] = {"remedy": name}
        try:
            answers = kept.answers(
                [*what, "remedy", name, seed, [case.id for case in learned]],
                lambda name=name: remedies.REMEDIES[name](
                    passing, remedies.Unlabelled(cases, reference, learned, seed)
                ),
            )
        except UserError as error:
            rows.append({**row, "not_for": str(error)})
            continue
        finally:
            kept.clear()
        after = compared.judge(task, answers, cases)
        if before is None:
            lost = compared.fallen(low, after, cases, seed=seed)
            row |= {"score": lost["score"], "gain": _minus(lost["drop"])}
        else:
            row |= compared.closed(before, low, after, cases, seed=seed)
        rows.append(row)
    return rows


def _minus(score: compared.Score) -> compared.Score:
    value, low, high = (score[k] for k in ("value", "low", "high"))
    turned = [None if v is None else -v for v in (value, high, low)]
    return dict(zip(("value", "low", "high"), turned, strict=True))


def remedied_shifts(
    adapted: Adapted,
    reference: Reference,
    task: Task,
    cases: Sequence[Case],
    clean: dict[str, np.ndarray],
    names: Sequence[str],
    severity: int,
    remedy_names: Sequence[str],
    kept: Kept,
    step: Step,
    *,
    learned: Sequence[Case] = (),
    seed: int,
) -> list[dict[str, Any]]:
    """For each shift at one severity what each remedy brings back."""
    before = compared.judge(task, task.unpack(clean), cases)
    passing = replace(adapted, model=kept.passing(adapted.model))
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(names, start=1):
        moved = shifts.shifted(cases, name, severity, seed=seed)
        found = kept.get(
            ["shift", shifts.VERSION, name, severity, seed],
            lambda moved=moved: _computed(passing, reference, task, moved),
        )
        made = remedied(
            adapted, reference, task, moved, before, task.unpack(found), remedy_names, kept,
            ["shift", shifts.VERSION, name, severity], learned=learned, seed=seed,
        )  # fmt: skip
        rows += [{"shift": name, "severity": severity, **row} for row in made]
        step(done, len(names))
    return rows

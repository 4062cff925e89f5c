"""From results.json to what the page shows: groups of trials, tables, and who is a control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from medspectrum.report.words import number

NO_MODEL = "none"
CONTROL_METHODS = frozenset({"majority", "scratch", "scratch_detector"})
Trial = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """The draws of one model, method, settings and budget, taken together.

    score: mean of the primary score over the draws that have one. spread: its least and greatest.
    best: the draw to speak of, the recommended or front trial where there is one.
    """

    model: str
    method: str
    budget: str
    trials: tuple[Trial, ...]
    score: float | None
    spread: tuple[float, float] | None
    on_front: bool
    recommended: bool
    control: bool
    best: Trial

    def middle(self, key: str) -> float | None:
        """Median of one effort over the draws."""
        found = [value for trial in self.trials if (value := number(trial.get(key))) is not None]
        return float(median(found)) if found else None


def is_control(trial: Trial) -> bool:
    """True for what only shows what knowledge is worth: random weights, the majority class, from scratch."""
    return trial.get("level") == "control" or trial.get("method") in CONTROL_METHODS


def primary_of(results: Mapping[str, Any]) -> str:
    """The score that decides."""
    return str((results.get("task") or {}).get("primary") or "auc")


def primary_score(trial: Trial, primary: str) -> Any:
    """The trial's primary score with its interval."""
    return (trial.get("scores") or {}).get(primary)


def model_of(row: Mapping[str, Any]) -> str:
    """Name of the model of a trial or summary row; empty where the method uses none."""
    name = str(row.get("model") or "")
    return "" if name == NO_MODEL else name


def budget_order(budget: Any) -> tuple[int, float, str]:
    """``1``, ``2``, ``10``, ..., then ``full``."""
    value = number(_as_number(budget))
    return (0, value, "") if value is not None else (1, 0.0, str(budget))


def _as_number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def trial_name(trial: Trial) -> str:
    """``linear_probe on dinov2_s``; a method without a model stands alone."""
    model, method = model_of(trial), str(trial.get("method") or "")
    return f"{method} on {model}" if model and method else method or model


def groups(results: Mapping[str, Any]) -> list[Group]:
    """All groups, in the order of their first trial."""
    primary = primary_of(results)
    front, recommended = set(results.get("front") or ()), results.get("recommended")
    found: dict[tuple[str, ...], list[Trial]] = {}
    for trial in results.get("trials") or ():
        settings = json.dumps(trial.get("settings") or {}, sort_keys=True, default=str)
        key = (model_of(trial), str(trial.get("method")), str(trial.get("budget")), settings)
        found.setdefault(key, []).append(trial)
    return [_group(trials, primary, front, recommended) for trials in found.values()]


def _group(trials: Sequence[Trial], primary: str, front: set[Any], recommended: Any) -> Group:
    scores = [s for t in trials if (s := number(primary_score(t, primary))) is not None]
    marked = [t for t in trials if t.get("id") in front]
    chosen = [t for t in trials if recommended is not None and t.get("id") == recommended]
    first = trials[0]
    return Group(
        model=model_of(first),
        method=str(first.get("method") or ""),
        budget=str(first.get("budget")),
        trials=tuple(trials),
        score=sum(scores) / len(scores) if scores else None,
        spread=(min(scores), max(scores)) if len(scores) > 1 else None,
        on_front=bool(marked),
        recommended=bool(chosen),
        control=is_control(first),
        best=(chosen or marked or list(trials))[0],
    )


def in_order(values: Sequence[str]) -> list[str]:
    """Each value once, by first appearance."""
    return list(dict.fromkeys(values))


def trial_by_id(results: Mapping[str, Any], trial_id: Any) -> Trial | None:
    """The trial of that id, if there is one."""
    if trial_id is None:
        return None
    return next((t for t in results.get("trials") or () if t.get("id") == trial_id), None)


def columns_of(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys of all rows of a table by class, centre or group that hold anything, by first appearance.

    ``classes``, the members of a group, belong to its name and are no column.
    """
    keys = in_order([key for row in rows.values() for key in row if key != "classes"])
    return [key for key in keys if any(row.get(key) is not None for row in rows.values())]


LEVELS = (
    ("general", "General", "learned from everyday pictures"),
    ("modality", "Modality", "learned from one kind of scan"),
    ("organ-task", "Organ or task", "learned for one organ or question"),
    ("control", "Controls", "random weights, or no model at all"),
)


def spectrum(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models tried, by their place on the spectrum, each with its best group at its largest budget."""
    best: dict[tuple[str, str], Group] = {}
    for group in groups(results):
        level = str(group.best.get("level") or "general")
        if not group.model:
            level = "control"
        key = (level if level in {name for name, _, _ in LEVELS} else "general", group.model or group.method)
        known = best.get(key)
        rank = (budget_order(group.budget), group.score if group.score is not None else -1.0)
        if known is None or rank > (
            budget_order(known.budget),
            known.score if known.score is not None else -1.0,
        ):
            best[key] = group
    return [
        {
            "level": level,
            "name": name,
            "about": about,
            "models": [{"name": model, "group": g} for (at, model), g in best.items() if at == level],
        }
        for level, name, about in LEVELS
    ]

"""The settings of a run: what was given on the command line, else in a TOML plan, else the defaults."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from medspectrum import registry, store
from medspectrum.budgets import parse_budgets
from medspectrum.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run does. ``method_settings``: method -> setting -> value or list."""

    layout: str | None = None
    task: str = "classify"
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ("1", "2", "5", "10", "20", "50", "full")
    draws: int = 5
    seed: int = 0
    size: int | None = None
    budget_minutes: float = 30.0
    max_memory_gb: float | None = None
    commercial_use: bool = False
    workers: int = 0
    cluster: str | None = None
    threads: int | None = None
    allow_leak: bool = False
    accept: tuple[str, ...] = ()
    explained: int = 4
    synthetic: str | None = None
    image: str | None = None
    label: str | None = None
    patient: str | None = None
    centre: str | None = None
    split: str | None = None
    patient_pattern: str | None = None
    mask: str | None = None
    reader: str | None = None
    method_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, one after the other."""
        return tuple(dict.fromkeys(t.strip() for t in self.task.split(",") if t.strip()))

    def columns(self) -> dict[str, str]:
        """What was said of the data's columns and names."""
        named = ("image", "label", "mask", "reader", "patient", "centre", "split", "patient_pattern")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()}

    def digest(self) -> str:
        """Digest of all settings."""
        return store.digest(self.as_dict())

    def command(self, data: Path, out: Path) -> str:
        """The command line that repeats the run (settings of methods come from its plan file)."""
        words = ["medspectrum", "explore", str(data), "--out", str(out)]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "method_settings" or value == f.default:
                continue
            flag = "--" + f.name.replace("_", "-")
            if value is True:
                words.append(flag)
            else:
                words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
        return shlex.join(words)


DEFAULTS = Plan()


def methods_for(task: str) -> tuple[str, ...]:
    """Names of the methods that serve a task."""
    known = registry.entries("method")
    return tuple(name for name, entry in known.items() if entry.facts.get("task", "classify") == task)


def make_plan(path: Path | None, given: Mapping[str, Any]) -> Plan:
    """Join what was given with a TOML plan. A value equal to its default gives way to the plan's.

    Raises UserError for an unknown key, a value of the wrong kind, or a file that is no TOML.
    """
    values: dict[str, Any] = {}
    method_settings: dict[str, Any] = {}
    for key, value in _read(path).items():
        if isinstance(value, dict):
            registry.find("method", key)
            method_settings[key] = value
        elif key in Plan.__dataclass_fields__:
            values[key] = value
        else:
            known = ", ".join(f.name for f in fields(Plan) if f.name != "method_settings")
            raise UserError(f"{path}: {key!r} is no setting of a plan; there are: {known}, and method tables")
    for key, value in given.items():
        shown = _normal(key, value)
        if shown != getattr(DEFAULTS, key) or key not in values:
            values[key] = value
    plan = Plan(**{k: _normal(k, v) for k, v in values.items()}, method_settings=method_settings)
    _check(plan)
    return plan


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is not there; give a TOML file of settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML plan: {error}") from None


def _normal(key: str, value: Any) -> Any:
    if key == "budgets":
        return parse_budgets(value)
    if key in ("models", "methods", "accept"):
        words = value.split(",") if isinstance(value, str) else list(value or ())
        return tuple(dict.fromkeys(str(w).strip() for w in words if str(w).strip()))
    return value


def _check(plan: Plan) -> None:
    for task in plan.tasks or (plan.task,):
        registry.find("task", task)
    for name in plan.methods:
        asked = registry.find("method", name).facts.get("task", "classify")
        if asked not in plan.tasks:
            serving = ", ".join(m for task in plan.tasks for m in methods_for(task))
            raise UserError(f"method {name} is for the task {asked}, not {plan.task}; there are: {serving}")
    lowest = {"draws": 1, "budget_minutes": 0, "workers": 0, "seed": 0, "explained": 0}
    for name, low in lowest.items():
        value = getattr(plan, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
            raise UserError(f"{name.replace('_', '-')} must be a number of {low} or more; got {value!r}")
    if plan.max_memory_gb is not None and plan.max_memory_gb <= 0:
        raise UserError(f"max-memory-gb must be above 0; got {plan.max_memory_gb}")
    if plan.size is not None and plan.size < 8:
        raise UserError(f"size must be 8 pixels or more; got {plan.size}")
    if plan.workers and plan.cluster:
        raise UserError("give --workers for processes on this machine or --cluster for an address, not both")

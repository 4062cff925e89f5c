"""Names to things. A thing is registered where it is defined; no second list is kept.

The first question about a kind imports every file of its folder (they are light: heavy imports sit
inside functions) and every entry point of the group ``medspectrum.<kind>s``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from medspectrum.errors import UserError

T = TypeVar("T")
FOLDERS = {"model": "models", "dataset": "datasets", "task": "tasks", "method": "methods"}


@dataclass(frozen=True)
class Entry:
    """One registered thing: its name, the function or class, and what was said of it."""

    name: str
    thing: Any
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.thing.__doc__ or "").strip().split("\n")[0]


_entries: dict[str, dict[str, Entry]] = {kind: {} for kind in FOLDERS}
_loaded: set[str] = set()


def register(kind: str, name: str, **facts: Any) -> Callable[[T], T]:
    """Decorator: enter a function or class under a kind and name, with facts about it."""

    def enter(thing: T) -> T:
        known = _entries[kind].get(name)
        if known is not None and known.thing.__module__ != getattr(thing, "__module__", None):
            raise ValueError(f"{kind} {name!r} is registered by {known.thing.__module__} already")
        _entries[kind][name] = Entry(name, thing, facts)
        return thing

    return enter


def model(name: str, **facts: Any) -> Callable[[T], T]:
    """Register a function ``(**settings) -> Model``; facts hold ``card=Card`` and may hold ``tiny``."""
    return register("model", name, **facts)


def dataset(name: str, **facts: Any) -> Callable[[T], T]:
    """Register a function ``(path, **settings) -> CaseSet``; facts hold ``recognise`` and ``fake``."""
    return register("dataset", name, **facts)


def task(name: str, **facts: Any) -> Callable[[T], T]:
    """Register a class that is a ``Task``."""
    return register("task", name, **facts)


def method(name: str, **facts: Any) -> Callable[[T], T]:
    """Register a ``Method``; facts hold ``trains``, ``restore`` and ``cost`` (0 head ... 3 network)."""
    return register("method", name, **facts)


def entries(kind: str) -> dict[str, Entry]:
    """Everything of a kind, by name."""
    if kind not in _loaded:
        _loaded.add(kind)
        package = importlib.import_module(f"medspectrum.{FOLDERS[kind]}")
        for found in pkgutil.iter_modules(package.__path__):
            if not found.name.startswith("_"):
                importlib.import_module(f"{package.__name__}.{found.name}")
        for point in entry_points(group=f"medspectrum.{kind}s"):
            point.load()
    return _entries[kind]


def find(kind: str, name: str) -> Entry:
    """The entry of that name. Raises UserError with the nearest names where there is none."""
    known = entries(kind)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}."
    raise UserError(f"no {kind} is called {name!r}; {hint}")

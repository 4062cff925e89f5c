"""Which cases belong together: by age in bands, by sex, by any column of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case
from medspectrum.errors import UserError

USUAL = ("age", "sex", "gender", "view", "scanner", "manufacturer", "ethnicity")
AGE_BANDS = (0, 18, 40, 60, 80)
NOT_STATED = "not stated"
MOST_VALUES = 12


def columns(cases: Sequence[Case], by: str) -> dict[str, list[str]]:
    """Column -> the group of each case. by: columns separated by commas, ``none``, or the usual where empty.

    Ages come in bands (0, 18, 40, 60, 80 years), other numbers of many values in quarters. Raises UserError
    for a column that no case has.
    """
    asked = [n.strip() for n in by.split(",") if n.strip()]
    if asked == ["none"]:
        return {}
    there = {str(name): name for case in cases for name in case.record}
    missing = [n for n in asked if n not in there]
    if missing:
        raise UserError(
            f"no case has a column {missing[0]!r}; there are {', '.join(sorted(there)) or 'none at all'}"
        )
    names = asked or [n for n in there if n.strip().lower() in USUAL]
    found = {n: grouped(n, [case.record.get(there[n]) for case in cases]) for n in names}
    return {n: g for n, g in found.items() if len(set(g) - {NOT_STATED}) > 1 and (n in asked or _few(g))}


def _few(groups: Sequence[str]) -> bool:
    return len(set(groups)) <= MOST_VALUES


def grouped(name: str, values: Sequence[Any]) -> list[str]:
    """The group of each value; '' and None are not stated."""
    words = ["" if v is None else str(v).strip() for v in values]
    numbers = [_number(w) for w in words]
    stated = [n for n, w in zip(numbers, words, strict=True) if w]
    if not stated or any(n is None for n in stated):
        return [w or NOT_STATED for w in words]
    whole = np.array([n for n in stated if n is not None])
    if name.strip().lower() == "age":
        edges = [float(e) for e in AGE_BANDS]
    elif len(np.unique(whole)) <= 6:
        return [w or NOT_STATED for w in words]
    else:
        edges = np.unique(np.quantile(whole, [0, 0.25, 0.5, 0.75])).tolist()
    return [NOT_STATED if n is None else _band(n, edges) for n in numbers]


def _number(word: str) -> float | None:
    try:
        found = float(word)
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def _band(value: float, edges: Sequence[float]) -> str:
    place = int(np.searchsorted(edges, value, side="right")) - 1
    if place < 0:
        return f"below {edges[0]:g}"
    if place == len(edges) - 1:
        return f"{edges[place]:g} and above"
    return f"{edges[place]:g} to below {edges[place + 1]:g}"

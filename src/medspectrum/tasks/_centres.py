"""Scores by centre, alike for every task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from medspectrum.case import Case


def by_centre(
    cases: Sequence[Case],
    scores: Callable[[list[int], list[Case]], dict[str, Any]],
    patients: Callable[[Case], Iterable[str]] = lambda case: (case.patient,),
) -> dict[str, Any]:
    """{centre: {"n", "patients", scores...}}, in order; {} where no case names a centre.

    scores: of the cases at these places. Cases without a centre stand under ``unknown``.
    """
    if not any(case.centre is not None for case in cases):
        return {}
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(case.centre or "unknown", []).append(place)
    found = {}
    for centre in sorted(places):
        own = [cases[i] for i in places[centre]]
        people = {patient for case in own for patient in patients(case)}
        found[centre] = {"n": len(own), "patients": len(people), **scores(places[centre], own)}
    return found

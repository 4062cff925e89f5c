"""Bring one case onto another: pairs of cases, judged by what lands where it belongs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registered, store
from medspectrum.case import Case, LazyImage, MaskTarget, PairTarget
from medspectrum.engine import planes
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import RESAMPLES, resampled
from medspectrum.registered import Registered
from medspectrum.registry import task
from medspectrum.tasks._centres import by_centre
from medspectrum.tasks.segment import Segment, grid_of, mean_of_cases

OVERLAPS = ("dice", "hd95_mm", "nsd")
PRIMARIES = ("dice", "nsd", "landmark_gain")
MOST_PAIRS = 30
"""Pairs judged in each part: enough for an interval, few enough for a method that takes a second each."""


def arranged(asked: Register, cases: Sequence[Case], *, seed: int) -> tuple[Case, ...]:
    """The pairs of one part of a split, so that both patients of each stand in it."""
    return asked.paired(cases, seed=seed)


@task("register", arrange=arranged, budgets=("full",))
class Register:
    """Pairs of cases, moving onto fixed; scored by the Dice of carried labels, or by landmarks.

    Labels and landmarks judge, and are seen by no method. A case here is a pair with the images ``moving``
    and ``fixed``; where the data hold single cases, pairs are drawn within each part of the split.
    """

    name = "register"
    level = "maps"
    strata = 1

    def __init__(
        self,
        classes: Sequence[str] = (),
        values: Sequence[int] = (),
        *,
        primary: str = "dice",
        pairs: int = MOST_PAIRS,
    ) -> None:
        """classes, values: labels and what stands for them in masks. pairs: drawn at most in each part."""
        if primary not in PRIMARIES:
            raise UserError(f"{primary!r} cannot decide on registrations; use {', '.join(PRIMARIES)}")
        self.classes, self.values = tuple(classes), tuple(int(v) for v in values)
        self.primary, self.pairs = primary, pairs
        self._outlines = Segment(self.classes, self.values) if classes else None
        self._blank: dict[str, str] = {}

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Register:
        """The labels of the cases' masks; without masks, landmarks decide. Raises UserError for neither."""
        single = [one for case in cases for one in _singles(case)]
        if any(c.asked(MaskTarget) is not None for c in single):
            outlines = Segment.of(single)
            return cls(outlines.classes, outlines.values)
        if any(t is not None and t.landmarks for t in (c.asked(PairTarget) for c in cases)):
            return cls(primary="landmark_gain")
        raise UserError(
            f"the {len(cases)} cases carry neither masks nor landmarks, so no registration of them can be "
            "judged; give label maps (folders images/ and labels/), or register single pairs with "
            "medspectrum register"
        )

    def paired(self, cases: Sequence[Case], *, seed: int) -> tuple[Case, ...]:
        """Pairs of these cases: given ones as they are, others drawn so that each case serves about alike."""
        given = tuple(c for c in cases if is_pair(c))
        single = [c for c in cases if not is_pair(c)]
        if len(single) == 1 and not given:
            raise UserError(
                "registration is judged on pairs of cases of one part, and a part holds one case only; give "
                "more cases (about ten patients), or a split with two cases in each part"
            )
        order = np.random.default_rng([seed, 7]).permutation(len(single))
        drawn = []
        for step in range(1, len(single)):
            for place in range(len(single)):
                if len(drawn) < self.pairs:
                    a, b = order[place], order[(place + step) % len(single)]
                    drawn.append(pair(single[int(a)], single[int(b)]))
        return given + tuple(drawn)

    def seen(self, case: Case) -> list[LazyImage]:
        """Every plane of the case's images."""
        return [plane for image in case.images.values() for plane in planes.cut(image).planes]

    def lacking(self, case: Case) -> str:
        """Why the case cannot be registered and judged; '' where it can."""
        if case.id not in self._blank:
            self._blank[case.id] = next(
                (why for role, i in case.images.items() if (why := _blank(role, i))), ""
            )
        if self._blank[case.id]:
            return self._blank[case.id]
        target = case.asked(PairTarget)
        if target is not None and target.landmarks is not None:
            return ""
        if self._outlines is None:
            return "has no landmarks"
        for one in _singles(case):
            if why := self._outlines.lacking(one):
                return why
        return ""

    def stratum(self, case: Case) -> str:  # noqa: ARG002 - the protocol's signature
        """All cases are of one kind."""
        return ""

    def target(self, case: Case) -> np.ndarray | None:
        """(Z, Y, X) uint8: the labels of a pair's fixed image; None where it has none."""
        fixed = _singles(case)[-1]
        if self._outlines is None or fixed.asked(MaskTarget) is None:
            return None
        return self._outlines.target(fixed)

    def fingerprint(self, case: Case) -> Any:
        """Content of masks and landmarks."""
        target = case.asked(PairTarget)
        if target is None:
            asked = case.asked(MaskTarget)
            return asked.mask.key() if asked else ""
        masks = [m.mask.key() for m in target.masks or ()]
        return [list(target.patients), masks, [list(map(list, p)) for p in target.landmarks or ()]]

    def score(
        self,
        predictions: Sequence[Registered],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """Every score with its interval over patients; labels and centres without."""
        tables = self.tables(predictions, cases)
        return {
            "scores": _intervals(tables, cases, seed=seed, resamples=resamples),
            **self._parts(tables, cases, seed=seed, resamples=0),
        }

    def in_detail(
        self,
        predictions: Sequence[Registered],
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """``per_class`` and ``per_centre`` with intervals."""
        return self._parts(self.tables(predictions, cases), cases, seed=seed, resamples=resamples)

    def difference(
        self, first: Sequence[Registered], second: Sequence[Registered], cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score, both on the same resampled patients."""
        ours, theirs = (self.tables(p, cases)[self.primary] for p in (first, second))

        def several(weights: np.ndarray | None) -> dict[str, Any]:
            return {"difference": mean_of_cases(ours, weights) - mean_of_cases(theirs, weights)}

        found = _over_patients(several, cases)["difference"]
        return found["value"], found["low"], found["high"]

    def pack(self, predictions: Sequence[Registered]) -> dict[str, np.ndarray]:
        """The outcomes without their fields."""
        return registered.pack(predictions)

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> list[Registered]:
        """The outcomes."""
        return registered.unpack(arrays)

    def shown(self, predictions: Sequence[Registered], cases: Sequence[Case]) -> dict[str, Any]:
        """``registered``, ``moving``, ``fixed`` (images), ``moving_maps``, ``fixed_maps``, ``case_score``."""
        table = self.tables(predictions, cases)[self.primary]
        counted = np.maximum((~np.isnan(table)).sum(axis=1), 1)
        pairs = [_singles(c) for c in cases]
        return {
            "registered": list(predictions),
            "moving": [grid_of(a) for a, _ in pairs],
            "fixed": [grid_of(b) for _, b in pairs],
            "moving_maps": [self.target(a) for a, _ in pairs],
            "fixed_maps": [self.target(b) for _, b in pairs],
            "case_score": np.where(np.isnan(table).all(axis=1), np.nan, np.nansum(table, axis=1) / counted),
        }

    def write(self, predictions: Sequence[Registered], cases: Sequence[Case], out: Path | None) -> Path:
        """A table: each pair with its scores, averaged over labels, and what it took."""
        path = Path(out or "predictions.csv")
        path = path if path.suffix == ".csv" else path.with_name(f"{path.name}.csv")
        tables = self.tables(predictions, cases)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pair", "moving", "fixed", *tables, "seconds"])
        for row, (case, found) in enumerate(zip(cases, predictions, strict=True)):
            values = [mean_of_cases(table[row : row + 1], None) for table in tables.values()]
            names = [case.images[role].source for role in ("moving", "fixed")]
            told = ["" if np.isnan(v) else f"{v:.5g}" for v in (*values, found.facts["seconds"])]
            writer.writerow([case.id, *names, *told])
        store.write_bytes(path, text.getvalue().encode())
        return path

    def settings(self) -> dict[str, Any]:
        """Labels, their values in masks, the primary score, and how many pairs are drawn."""
        return {
            "classes": list(self.classes),
            "values": list(self.values),
            "primary": self.primary,
            "pairs": self.pairs,
        }

    def tables(self, predictions: Sequence[Registered], cases: Sequence[Case]) -> dict[str, np.ndarray]:
        """Scores of each pair and label, (n, k) or (n, 1); NaN where the score does not apply."""
        if len(predictions) != len(cases) or not len(cases):
            raise ValueError(f"{len(cases)} pairs need as many registrations; got {len(predictions)}")
        tables: dict[str, np.ndarray] = {}
        judged = [i for i, p in enumerate(predictions) if p.labels is not None]
        if self._outlines is not None and judged:
            own = self._outlines.tables(
                [found for p in predictions if (found := p.labels) is not None],
                [_singles(cases[i])[1] for i in judged],
            )
            for name in OVERLAPS:
                tables[name] = np.full((len(cases), len(self.classes)), np.nan)
                tables[name][judged] = own[name]
        errors = np.array([_landmark_errors(p, c) for p, c in zip(predictions, cases, strict=True)])
        if not np.isnan(errors).all():
            tables["landmark_error_mm"] = errors[:, 1:]
            tables["landmark_gain"] = 1 - errors[:, 1:] / np.maximum(errors[:, :1], 1e-9)
        for name in ("folding", "log_jacobian_std"):
            tables[name] = np.array([[p.facts[name]] for p in predictions])
        return tables

    def _parts(
        self, tables: Mapping[str, np.ndarray], cases: Sequence[Case], *, seed: int, resamples: int
    ) -> dict[str, Any]:
        per_class: dict[str, Any] = {}
        for column, label in enumerate(self.classes):
            own = {name: tables[name][:, column : column + 1] for name in OVERLAPS if name in tables}
            if own:
                n = int((~np.isnan(own["dice"])).sum())
                per_class[label] = {"n": n, **_intervals(own, cases, seed=seed, resamples=resamples)}
        per_centre = by_centre(
            cases,
            lambda here, own: _intervals(
                {name: t[here] for name, t in tables.items()}, own, seed=seed, resamples=resamples
            ),
            patients_of,
        )
        return {"per_class": per_class, "per_centre": per_centre}


def is_pair(case: Case) -> bool:
    """Whether the case has the two images that a registration takes."""
    return {"moving", "fixed"} <= set(case.images)


def pair(moving: Case, fixed: Case) -> Case:
    """Two cases as one pair. Its id names both; it is of the fixed one's patient, and of the moving one's."""
    masks = moving.asked(MaskTarget), fixed.asked(MaskTarget)
    both = None if masks[0] is None or masks[1] is None else (masks[0], masks[1])
    here, there = moving.centre or "unknown", fixed.centre or "unknown"
    return Case(
        f"{moving.id} onto {fixed.id}",
        fixed.patient,
        {"moving": grid_of(moving), "fixed": grid_of(fixed)},
        PairTarget((moving.patient, fixed.patient), both),
        fixed.centre if here == there else f"{here} onto {there}",
        split=fixed.split,
    )


def patients_of(case: Case) -> tuple[str, str]:
    """Whose the moving and the fixed image are."""
    target = case.asked(PairTarget)
    return (case.patient, case.patient) if target is None else target.patients


def _singles(case: Case) -> list[Case]:
    """The case itself, or the moving and the fixed half of a pair, each with its mask."""
    if not is_pair(case):
        return [case]
    target = case.asked(PairTarget)
    masks = target.masks if target is not None and target.masks is not None else (None, None)
    return [
        replace(
            case,
            id=case.images[role].source,
            patient=patient,
            images={"image": case.images[role]},
            target=mask,
            also=(),
        )
        for role, patient, mask in zip(("moving", "fixed"), patients_of(case), masks, strict=True)
    ]


def _blank(role: str, lazy: LazyImage) -> str:
    from medspectrum.engine.align.mind import constant

    return f"its image {role} has the same value everywhere" if constant(lazy.load()) else ""


def _landmark_errors(found: Registered, case: Case) -> tuple[float, float]:
    """Mean distance in mm of a pair's landmarks from their counterparts, before and after."""
    target = case.asked(PairTarget)
    if found.points_mm is None or target is None or target.landmarks is None:
        return np.nan, np.nan
    places = []
    for role, points in zip(("moving", "fixed"), target.landmarks, strict=True):
        affine = case.images[role].load().affine
        places.append(np.array(points, float).reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3])
    before = float(np.linalg.norm(places[1] - places[0], axis=1).mean())
    return before, float(np.linalg.norm(found.points_mm - places[0], axis=1).mean())


def _intervals(
    tables: Mapping[str, np.ndarray], cases: Sequence[Case], *, seed: int, resamples: int
) -> dict[str, dict[str, float | None]]:
    def several(weights: np.ndarray | None) -> dict[str, Any]:
        return {name: mean_of_cases(table, weights) for name, table in tables.items()}

    return _over_patients(several, cases, seed=seed, resamples=resamples)


def _over_patients(
    several: Any, cases: Sequence[Case], **settings: int
) -> dict[str, dict[str, float | None]]:
    people = [patients_of(case) for case in cases]
    firsts, seconds = ([p[side] for p in people] for side in (0, 1))
    return resampled(several, firsts, partners=seconds, **settings)

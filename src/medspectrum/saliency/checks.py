"""What a map is worth: tests on each case, and over all cases with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.case import BoxTarget, Case, MaskTarget
from medspectrum.engine.attribution import erasing
from medspectrum.engine.attribution.randomised import likeness, randomised
from medspectrum.metrics.bootstrap import resampled
from medspectrum.saliency.maps import Maps
from medspectrum.saliency.seen import Seen

MOST_ALIKE = 0.5
"""Mean rank correlation with the map by shuffled weights, above which a map says too little."""

CHECKS = {
    "randomised": "The map changes when the network's weights are shuffled: rank correlation of both maps, "
    f"whose interval has to end below {MOST_ALIKE} (Adebayo 2018).",
    "deletion": "Taking away what the map points at first lowers the answer's probability sooner than "
    "orders by chance: difference of the areas, above 0 (RISE, Petsiuk 2018).",
    "insertion": "Showing what the map points at first raises it sooner than orders by chance: difference "
    "of the areas, above 0.",
    "pointing": "The map's highest point lies in the mask or box more often than its share of the image: "
    "difference, above 0 (Zhang 2018).",
    "overlap": "Of the highest part of the map, as large as the mask or box, more lies inside than by "
    "chance: difference, above 0.",
    "pointing_randomised": "The highest point lies in the mask or box more often than with shuffled "
    "weights: difference, above 0.",
}
BELOW = {"randomised": MOST_ALIKE}


def marked(case: Case, answer: str) -> np.ndarray | None:
    """(Z, Y, X) bool: where the case's mask or boxes are, of the answered class where one is so named.

    None where there are none. Raises UnreadableFile for a mask that cannot be read.
    """
    target = case.asked(MaskTarget)
    if target is not None:
        values = target.mask.load().array[0]
        names = {int(v): str(v) for v in np.unique(values)} | dict(target.labels)
        named = [value for value, name in names.items() if name == answer]
        found = np.isin(values, named) if named else values > 0
        return found if found.any() else None
    boxes = case.asked(BoxTarget)
    if boxes is None or not boxes.boxes:
        return None
    size = next(iter(case.images.values())).load().size
    own = [b for b, name in zip(boxes.boxes, boxes.labels, strict=True) if name == answer] or boxes.boxes
    found = np.zeros(size, bool)
    for box in own:
        low, high = np.asarray(box[: len(box) // 2]), np.asarray(box[len(box) // 2 :])
        cut = [slice(max(0, int(np.floor(a))), int(np.ceil(b))) for a, b in zip(low, high, strict=True)][::-1]
        found[tuple(cut) if len(cut) == 3 else (slice(None), *cut)] = True
    return found if found.any() else None


def pointing(heat: np.ndarray, inside: np.ndarray) -> tuple[float, float, float]:
    """(hit, overlap, share): 1 where the highest place is inside; the part of the highest places, as many
    as are inside, that is inside; and the share of places that is inside. A flat map hits nothing.
    """
    share = float(inside.mean())
    if not np.ptp(heat) > 0:
        return 0.0, 0.0, share
    top = np.argwhere(heat >= heat.max())
    hit = float(inside[tuple(top[len(top) // 2])])
    count = int(inside.sum())
    highest = np.argsort(-heat.reshape(-1), kind="stable")[:count]
    return hit, float(inside.reshape(-1)[highest].mean()), share


class Tested:
    """Tests the maps of one case; what all methods are compared with is computed once."""

    def __init__(self, seen: Seen, answer: str, *, seed: int) -> None:
        self.maps = Maps(seen)
        self._seen = seen
        self._many = seen.batch.shape[1] > 1
        module = randomised(seen.module, seed)
        part = None if seen.network is None else _same_part(seen.module, seen.network, module)
        self._blind = Maps(seen.by(module, part))
        self.inside = marked(seen.case, answer)
        rng = np.random.default_rng([seed, 1])
        shape = tuple(n for i, n in enumerate(seen.batch.shape) if i not in (0, seen.channels))
        self._chance = np.mean(
            [self._areas(erasing.by_chance(shape, rng)) for _ in range(1 if self._many else erasing.CHANCES)],
            axis=0,
        )

    def _areas(self, order: np.ndarray) -> tuple[float, float]:
        seen = self._seen
        return erasing.areas(
            seen.sureness,
            seen.batch,
            self.maps.plain,
            order,
            channels=seen.channels,
            steps=erasing.STEPS // 2 if self._many else erasing.STEPS,
            at_once=max(1, 16 // seen.batch.shape[1]),
        )

    def test(self, method: str) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
        """The map on each image's own grid, by role, and its tests as plain numbers."""
        found, blind = self.maps.map(method), self._blind.map(method)
        own = self._seen.back(found)
        deletion, insertion = self._areas(found)
        told: dict[str, float | None] = {
            "randomised": likeness(found, blind),
            "deletion": float(self._chance[0]) - deletion,
            "insertion": insertion - float(self._chance[1]),
            "deletion_area": deletion,
            "insertion_area": insertion,
            "deletion_by_chance": float(self._chance[0]),
            "insertion_by_chance": float(self._chance[1]),
        }
        first = next(iter(own))
        told_of = self._seen.told_of
        whole = self.inside
        if whole is not None and whole.shape == own[first].shape and told_of(whole).any():
            inside = told_of(whole)
            hit, overlap, share = pointing(told_of(own[first]), inside)
            blind_hit = pointing(told_of(self._seen.back(blind)[first]), inside)[0]
            told |= {"hit": hit, "hit_randomised": blind_hit, "inside": overlap, "share": share}
            told |= {"pointing": hit - share, "overlap": overlap - share}
            told["pointing_randomised"] = hit - blind_hit
        return own, told


def _same_part(whole: Any, part: Any, other: Any) -> Any:
    """The part of ``other``, a copy of ``whole``, that ``part`` is of it."""
    name = next(name for name, module in whole.named_modules() if module is part)
    return other.get_submodule(name)


def verdict(told: Sequence[Mapping[str, Any]], patients: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Each check over cases: its mean with interval over patients; passed is True, False or None (too few).

    told: a case's tests each. ``passed`` of all is True where every check that can be told is.
    """
    checks: dict[str, Any] = {}
    for name in CHECKS:
        values = np.array([np.nan if t.get(name) is None else t[name] for t in told], float)
        known = ~np.isnan(values)
        if not known.any():
            continue
        found = _mean(values[known], [p for p, k in zip(patients, known, strict=True) if k], seed)
        limit = BELOW.get(name, 0.0)
        end = found["high"] if name in BELOW else found["low"]
        passed = None if end is None else bool(end < limit if name in BELOW else end > limit)
        checks[name] = {**found, "limit": limit, "cases": int(known.sum()), "passed": passed}
    told_of = [c["passed"] for c in checks.values() if c["passed"] is not None]
    extra = {
        name: _mean(
            np.array([t[name] for t in told if t.get(name) is not None]), _having(told, patients, name), seed
        )
        for name in ("hit", "hit_randomised", "inside", "share")
        if any(t.get(name) is not None for t in told)
    }
    return {
        "checks": checks,
        "passed": all(told_of) if told_of else None,
        "failed": [name for name, c in checks.items() if c["passed"] is False],
        **extra,
    }


def _having(told: Sequence[Mapping[str, Any]], patients: Sequence[str], name: str) -> list[str]:
    return [p for p, t in zip(patients, told, strict=True) if t.get(name) is not None]


def _mean(values: np.ndarray, patients: Sequence[str], seed: int) -> dict[str, float | None]:
    def several(weights: np.ndarray | None) -> dict[str, Any]:
        if weights is None:
            return {"mean": values.mean()}
        return {"mean": values @ weights / weights.sum(axis=0)}

    return resampled(several, patients, seed=seed)["mean"]

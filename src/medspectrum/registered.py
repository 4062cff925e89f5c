"""What a registration brings from a moving to a fixed image: small enough to keep by the hundred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medspectrum import labelmap
from medspectrum.labelmap import LabelMap

FACTS = ("folding", "log_jacobian_std", "alike_before", "alike_after", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Registered:
    """The outcome of one pair, without its field.

    labels: the moving labels on the fixed grid, 0 background, i + 1 the i-th class; None where the moving
    image has none. points_mm: (n, 3) where the fixed landmarks lie in the moving image, RAS mm; None
    without landmarks. picture: (h, w) uint8, the warped image in one plane of the fixed one, ``plane`` as
    (axis of Z, Y, X; place along it). facts: folding share, evenness of the field, how alike both images
    are before and after, and seconds, by name.
    """

    labels: LabelMap | None
    points_mm: np.ndarray | None
    picture: np.ndarray
    plane: tuple[int, int]
    facts: Mapping[str, float]


def pack(found: Sequence[Registered]) -> dict[str, np.ndarray]:
    """Many outcomes as plain arrays."""
    nothing = LabelMap.of(np.zeros((0, 0, 0), np.uint8))
    points = [np.empty((0, 3)) if r.points_mm is None else r.points_mm for r in found]
    return {
        **labelmap.pack([r.labels or nothing for r in found]),
        "has_labels": np.array([r.labels is not None for r in found], bool),
        "has_points": np.array([r.points_mm is not None for r in found], bool),
        "points": np.concatenate([np.empty((0, 3)), *points]),
        "counts": np.array([len(p) for p in points], np.int64),
        "pictures": np.concatenate([np.empty(0, np.uint8), *(r.picture.ravel() for r in found)]),
        "sides": np.array([r.picture.shape for r in found], np.int32).reshape(-1, 2),
        "planes": np.array([r.plane for r in found], np.int32).reshape(-1, 2),
        "facts": np.array([[r.facts[name] for name in FACTS] for r in found], np.float64).reshape(
            -1, len(FACTS)
        ),
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Registered]:
    """The outcomes that ``pack`` made arrays of."""
    maps = labelmap.unpack(arrays)
    points = np.split(arrays["points"], np.cumsum(arrays["counts"])[:-1]) if len(maps) else []
    areas = arrays["sides"].astype(np.int64).prod(axis=1)
    pictures = np.split(arrays["pictures"], np.cumsum(areas)[:-1]) if len(maps) else []
    return [
        Registered(
            maps[i] if arrays["has_labels"][i] else None,
            points[i] if arrays["has_points"][i] else None,
            pictures[i].astype(np.uint8).reshape(arrays["sides"][i]),
            (int(arrays["planes"][i][0]), int(arrays["planes"][i][1])),
            dict(zip(FACTS, map(float, arrays["facts"][i]), strict=True)),
        )
        for i in range(len(maps))
    ]

"""A label map packed by its runs: what a segmentation answers, small enough to keep by the thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = 2**31 - 1  # label, or number of an object


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """A label map of (Z, Y, X) voxels as runs of equal labels along the flattened array.

    shape: (Z, Y, X), a picture has Z = 1. values: (r,) unsigned, of as few bytes as hold the largest: 0 is
    background, i + 1 the i-th class, or the number of an object (see ``tasks.instances``). lengths: (r,)
    int32, their sum is the number of voxels.
    """

    shape: tuple[int, int, int]
    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> LabelMap:
        """Pack (Z, Y, X) integers of 0 to ``LARGEST``. Raises ValueError for others."""
        if labels.ndim != 3 or labels.dtype.kind not in "uib":
            raise ValueError(
                f"a label map holds (Z, Y, X) whole numbers; got {labels.dtype} of shape {labels.shape}"
            )
        flat = np.ascontiguousarray(labels).reshape(-1)
        largest = int(flat.max()) if flat.size else 0
        if flat.size and (int(flat.min()) < 0 or largest > LARGEST):
            raise ValueError(f"labels go from 0 to {LARGEST}; got {int(flat.min())} to {largest}")
        begins = (
            np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.empty(0)
        )
        begins = begins.astype(np.int64)
        lengths = np.diff(np.concatenate([begins, [flat.size]])).astype(np.int32)
        z, y, x = labels.shape
        return cls((z, y, x), flat[begins].astype(np.min_scalar_type(largest)), lengths)

    def array(self) -> np.ndarray:
        """The labels as (Z, Y, X) of the type of ``values``."""
        return np.repeat(self.values, self.lengths).reshape(self.shape)


def pack(maps: Sequence[LabelMap]) -> dict[str, np.ndarray]:
    """Many label maps as four arrays."""
    empty = np.empty(0)
    return {
        "shapes": np.array([m.shape for m in maps], np.int32).reshape(-1, 3),
        "runs": np.array([len(m.values) for m in maps], np.int64),
        "values": np.concatenate([np.empty(0, np.uint8), *(m.values for m in maps)]),
        "lengths": np.concatenate([empty, *(m.lengths for m in maps)]).astype(np.int32),
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> list[LabelMap]:
    """The label maps that ``pack`` made arrays of."""
    ends = np.cumsum(arrays["runs"])
    return [
        LabelMap((int(z), int(y), int(x)), arrays["values"][end - n : end], arrays["lengths"][end - n : end])
        for (z, y, x), n, end in zip(arrays["shapes"], arrays["runs"], ends, strict=True)
    ]

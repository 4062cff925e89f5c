"""What a predictor remembers of its training, to tell later whether new cases are like it.

A small file beside the predictor's weights, written when ``explore`` hands it over: means, spreads and main
directions of the frozen features, positions of at most 512 cases in them, the mean curve of intensities (or
mean and covariance of colours), the answers on validation patients with their classes, and digests that tell
whether an image was learned from. No pixel, name or identifier of a patient is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import outliers, store
from medspectrum.appearance import evenly, intensities
from medspectrum.case import Case, Task
from medspectrum.errors import UserError
from medspectrum.feature_store import packed
from medspectrum.methods._features import mean_features
from medspectrum.predictor import CARD, SUMS, WEIGHTS, file_sum

FILE = "reference.safetensors"
FORMAT = 1
MOST_FEATURES = 2000  # cases whose features are looked at


@dataclass(frozen=True)
class Reference:
    """Arrays by name, as in the file; which are there depends on the task and the images."""

    arrays: Mapping[str, np.ndarray]

    def has(self, *names: str) -> bool:
        """Whether all of these were kept."""
        return all(name in self.arrays for name in names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def seen_before(self, case: Case) -> str:
        """``train`` or ``val`` where one of the case's images was used there, else ''."""
        keys = packed([image.key() for image in case.images.values()])
        for part in ("train", "val"):
            if self.has(f"{part}_keys") and np.isin(keys, self[f"{part}_keys"].view("S17").ravel()).any():
                return part
        return ""


def make_reference(
    cases: Sequence[Case],
    task: Task,
    model: Any,
    *,
    validation: Sequence[Case] = (),
    answers: np.ndarray | None = None,
    seed: int = 0,
) -> Reference:
    """Look at the cases learned from and at answers (n, k) on validation cases.

    model: gives features where the task reads pooled ones (from the cache: nothing is embedded here), or
        None.
    """
    arrays: dict[str, np.ndarray] = {"format": np.array([FORMAT])}
    for part, own in (("train", cases), ("val", validation)):
        keys = packed([image.key() for case in own for image in case.images.values()])
        arrays[f"{part}_keys"] = keys.view(np.uint8).reshape(-1, 17).copy()
    if model is not None and task.level == "pooled":
        some = evenly(cases, MOST_FEATURES)
        arrays |= outliers.describe_features(mean_features(model, some), seed=seed)
        if len(validation) and "feature_mean" in arrays:
            rows = mean_features(model, evenly(validation, MOST_FEATURES))
            for name, found in outliers.unlikeness(arrays, rows).items():
                arrays[f"val_{name}"] = np.sort(found).astype(np.float32)
    if answers is not None and len(validation):
        _, patients = np.unique([c.patient for c in validation], return_inverse=True)
        arrays["val_answers"] = np.asarray(answers, np.float64)
        arrays["val_truth"] = np.array([task.target(c) for c in validation], np.int64)
        arrays["val_patients"] = patients.astype(np.int64)
    return Reference(arrays | intensities([image for case in cases for image in case.images.values()]))


def write_reference(folder: Path, reference: Reference) -> None:
    """Put it beside a predictor's weights, and its checksum beside theirs."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(a) for name, a in reference.arrays.items() if a.size}
    store.write_bytes(folder / FILE, save(arrays))
    store.write_json(folder / SUMS, {name: file_sum(folder / name) for name in (CARD, WEIGHTS, FILE)})


def read_reference(folder: Path) -> Reference:
    """What a predictor remembers. Raises UserError where it was altered, or was never written."""
    from safetensors.numpy import load_file

    if not (folder / FILE).is_file():
        raise UserError(
            f"{folder} remembers nothing of its training ({FILE} is missing: an older version made it); "
            "run explore again with the same --out and cache, which takes seconds, and use its predictor"
        )
    if store.read_json(folder / SUMS).get(FILE) != file_sum(folder / FILE):
        raise UserError(
            f"{folder / FILE} was altered after it was saved; copy the predictor again from its run"
        )
    arrays = load_file(folder / FILE)
    found = int(arrays["format"][0]) if "format" in arrays else 0
    if found != FORMAT:
        raise UserError(f"{folder / FILE} has format {found}; this version reads format {FORMAT}")
    return Reference(arrays)

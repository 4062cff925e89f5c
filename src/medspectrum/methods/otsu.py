"""Otsu's threshold and a watershed on the distance to the rim: things told apart without any learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.case import Case, Model, Task
from medspectrum.engine import apart, tiles
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.methods import _dense
from medspectrum.registry import method

KINDS_FROM = 32  # cases


@dataclass(frozen=True)
class Thresholded:
    """Brighter than the threshold is a thing; ``case.Predictor`` for things told apart."""

    classes: tuple[str, ...]
    kind: int
    smooth_px: float
    least_rise_px: float
    least_pixels: int
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[LabelMap]:
        """One map of things per case, on its image's grid."""
        return [LabelMap.of(self._one(case)[None]) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What was set."""
        names = ("kind", "smooth_px", "least_rise_px", "least_pixels")
        return {}, {**{n: getattr(self, n) for n in names}, "classes": list(self.classes)}

    def _one(self, case: Case) -> np.ndarray:
        from scipy import ndimage
        from skimage.filters import threshold_otsu

        image = _dense.roles(case)[0].load()
        if image.is_volume:
            raise UserError(f"case {case.id} is a volume; things are told apart in pictures so far")
        grey = tiles.stretched(image).astype(np.float32).mean(axis=0)
        even = apart.smooth(grey, self.smooth_px)
        if even.min() == even.max():
            return np.zeros(grey.shape, np.int32)
        region = even > threshold_otsu(even)
        away = apart.smooth(np.asarray(ndimage.distance_transform_edt(region)), self.smooth_px)
        found = apart.filled(away, region, apart.peaks(away, self.least_rise_px) & region)
        likely = np.zeros((len(self.classes), *grey.shape), np.float32)
        likely[self.kind] = 1
        return apart.numbered(found, likely, self.least_pixels)


def _restore(_model: Model | None, _arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Thresholded:
    return Thresholded(**{**settings, "classes": tuple(settings["classes"])})


@method(
    "otsu",
    task="instances",
    trains="nothing",
    cost=0,
    restore=_restore,
    needs_model=False,
    level="control",
    available=apart.lacking,
)
def otsu(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001 - nothing is random
    smooth_px: float = 1.0,
    least_rise_px: float = 0.3,
    least_pixels: int = 15,
) -> Thresholded:
    """Take what is brighter than Otsu's threshold and cut it where it is narrow; learns nothing.

    smooth_px: deviation of the blur, in pixels. least_rise_px: how far the distance to the rim has to rise
    from a saddle to a peak for two things. least_pixels: smaller things are dropped. Of several kinds the
    labelled cases hold, everything is taken for the commonest.
    """
    if not len(cases):
        raise UserError("there is no labelled case to learn from; label some or raise the budget.")
    seen: Counter[int] = Counter()
    for case in cases[:KINDS_FROM] if len(task.classes) > 1 else ():
        values = np.unique(task.target(case))
        seen.update(((values[values > 0] - 1) % len(task.classes)).tolist())
    kind = int(seen.most_common(1)[0][0]) if seen else 0
    return Thresholded(tuple(task.classes), kind, smooth_px, least_rise_px, least_pixels)

"""Give each case one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from medspectrum.case import Case, ClassTarget
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import RESAMPLES, intervals, resampled
from medspectrum.metrics.classification import one_class
from medspectrum.registry import task

REPORTED = ("auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "calibration_error")


@task("classify")
class Classify:
    """One class per case; scored by AUC unless another score is named primary."""

    name = "classify"

    def __init__(self, classes: Sequence[str], *, primary: str = "auc") -> None:
        """classes: the columns of every prediction, in order; for two, the last is the positive one."""
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise UserError(
                f"classification needs two or more different classes; got {', '.join(classes) or 'none'}: "
                "check the column or folders that hold the labels."
            )
        if primary not in REPORTED:
            raise UserError(f"no score is called {primary!r}; there are: {', '.join(REPORTED)}.")
        self.classes = tuple(classes)
        self.primary = primary
        self._index = {label: i for i, label in enumerate(self.classes)}

    def target(self, case: Case) -> int:
        """The case's class as an index into ``classes``. Raises UserError where it has none of them."""
        if not isinstance(case.target, ClassTarget):
            raise UserError(f"case {case.id} has no class; leave it out or give it a label.")
        found = self._index.get(case.target.label)
        if found is None:
            raise UserError(
                f"case {case.id} has the class {case.target.label!r}, which is none of "
                f"{', '.join(self.classes)}; correct the label or train anew with this class."
            )
        return found

    def score(
        self,
        probabilities: np.ndarray,
        cases: Sequence[Case],
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> dict[str, Any]:
        """All scores of predictions (n, k), rows in the order of ``cases``, as JSON values.

        Each score is {"value", "low", "high"}, None where undefined. resamples: of patients, from which
        the 95 % intervals of ``scores`` are taken; 0 for values alone. ``per_class``: each class against
        the rest, and ``per_centre`` ({} where no case names one): values alone; see ``in_detail``.
        """
        probabilities, truth = self._checked(probabilities, cases)
        patients = [case.patient for case in cases]
        return {
            "scores": intervals(
                probabilities, truth, patients, scores=REPORTED, resamples=resamples, seed=seed
            ),
            **self._parts(probabilities, truth, cases, resamples=0, seed=seed),
        }

    def in_detail(
        self, probabilities: np.ndarray, cases: Sequence[Case], *, seed: int = 0, resamples: int = RESAMPLES
    ) -> dict[str, Any]:
        """``per_class`` and ``per_centre`` with their intervals, which cost a resampling each."""
        probabilities, truth = self._checked(probabilities, cases)
        return self._parts(probabilities, truth, cases, resamples=resamples, seed=seed)

    def _checked(self, probabilities: np.ndarray, cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if probabilities.shape != (len(cases), len(self.classes)) or not len(cases):
            raise ValueError(
                f"{len(cases)} cases and {len(self.classes)} classes need as many probabilities; "
                f"got {probabilities.shape}"
            )
        if not np.isfinite(probabilities).all():
            raise ValueError("probabilities must be finite")
        return probabilities, np.array([self.target(case) for case in cases])

    def _parts(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray,
        cases: Sequence[Case],
        *,
        resamples: int,
        seed: int,
    ) -> dict[str, Any]:
        """Scores of each class, and of each centre; cases without a centre stand under ``unknown``."""
        patients = np.array([case.patient for case in cases])
        per_class = {
            label: {
                "n": int((truth == column).sum()),
                **resampled(
                    partial(one_class, probabilities, truth, column),
                    patients.tolist(),
                    resamples=resamples,
                    seed=seed,
                ),
            }
            for column, label in enumerate(self.classes)
        }
        per_centre: dict[str, Any] = {}
        centres = np.array([case.centre or "unknown" for case in cases])
        if any(case.centre is not None for case in cases):
            for centre in sorted(set(centres.tolist())):
                here = np.flatnonzero(centres == centre)
                own = patients[here].tolist()
                per_centre[centre] = {
                    "n": len(here),
                    "patients": len(set(own)),
                    **intervals(
                        probabilities[here],
                        truth[here],
                        own,
                        scores=REPORTED,
                        resamples=resamples,
                        seed=seed,
                    ),
                }
        return {"per_class": per_class, "per_centre": per_centre}

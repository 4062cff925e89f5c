"""Give each case one of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.case import Case, ClassTarget
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import RESAMPLES, intervals
from medspectrum.metrics.classification import SCORES, one_class
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

        resamples: of patients, from which intervals are taken; 0 for values alone.

        ``scores``: value and 95 % interval over patients. ``per_class``: each class against the rest.
        ``per_centre``: point values, {} where no case names a centre. None where undefined.
        """
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if probabilities.shape != (len(cases), len(self.classes)) or not len(cases):
            raise ValueError(
                f"{len(cases)} cases and {len(self.classes)} classes need as many probabilities; "
                f"got {probabilities.shape}"
            )
        if not np.isfinite(probabilities).all():
            raise ValueError("probabilities must be finite")
        truth = np.array([self.target(case) for case in cases])
        patients = [case.patient for case in cases]
        return {
            "scores": intervals(
                probabilities, truth, patients, scores=REPORTED, resamples=resamples, seed=seed
            ),
            "per_class": {
                label: _plain(one_class(probabilities, truth, column))
                for column, label in enumerate(self.classes)
            },
            "per_centre": self._per_centre(probabilities, truth, cases),
        }

    def _per_centre(
        self, probabilities: np.ndarray, truth: np.ndarray, cases: Sequence[Case]
    ) -> dict[str, dict[str, Any]]:
        """Scores of each centre's cases; those without a centre stand under ``unknown``."""
        if all(case.centre is None for case in cases):
            return {}
        centres = np.array([case.centre or "unknown" for case in cases])
        found = {}
        for centre in sorted(set(centres.tolist())):
            here = np.flatnonzero(centres == centre)
            found[centre] = {
                "n": len(here),
                "patients": len({cases[int(i)].patient for i in here}),
                **_plain({name: SCORES[name](probabilities[here], truth[here]) for name in REPORTED}),
            }
        return found


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """NaN as None: what JSON can say."""
    return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in values.items()}

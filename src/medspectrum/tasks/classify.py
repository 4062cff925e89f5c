"""Give each case one of several classes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import Case, CaseSet, ClassTarget, LazyImage, label_order
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.metrics.bootstrap import RESAMPLES, intervals, paired_difference, resampled
from medspectrum.metrics.classification import long_tail, one_class, some_classes
from medspectrum.metrics.readers import beside_readers
from medspectrum.registry import task
from medspectrum.tasks._centres import by_centre

REPORTED = ("auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "calibration_error")


@task("classify")
class Classify:
    """One class per case; scored by AUC unless another score is named primary."""

    name = "classify"
    level = "pooled"
    strata = 2

    def __init__(self, classes: Sequence[str], *, primary: str = "auc", counts: Sequence[int] = ()) -> None:
        """classes: the columns of every prediction, in order; for two, the last is the positive one.

        counts: cases of each class in the data set, by which rare classes are told from common ones.
        """
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise UserError(
                f"classification needs two or more different classes; got {', '.join(classes) or 'none'}: "
                "check the column or folders that hold the labels."
            )
        if primary not in REPORTED:
            raise UserError(f"no score is called {primary!r}; there are: {', '.join(REPORTED)}.")
        self.classes = tuple(classes)
        self.primary = primary
        self.counts = tuple(map(int, counts))
        self._index = {label: i for i, label in enumerate(self.classes)}

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Classify:
        """The task that the cases' own classes ask for. Raises UserError where they carry none."""
        if not any(case.asked(ClassTarget) for case in cases):
            masks = any(case.target is not None for case in cases)
            found = "masks or boxes, but no class" if masks else "no label"
            raise UserError(
                f"the {len(cases)} cases carry {found}; classification needs a class per case: sort images "
                "into a folder per class, or name the column with --label"
            )
        classes = CaseSet("", "", tuple(cases)).labels()
        found = Counter(own.label for case in cases if (own := case.asked(ClassTarget)))
        return cls(classes, counts=[found[label] for label in classes])

    def seen(self, case: Case) -> list[LazyImage]:
        """The case's images."""
        return list(case.images.values())

    def lacking(self, case: Case) -> str:
        """Why the case cannot be learned from or judged; '' where it can."""
        found = case.asked(ClassTarget)
        if found is None:
            return "has no label"
        return "" if found.label in self._index else f"its class {found.label!r} is unknown to the predictor"

    def stratum(self, case: Case) -> str:
        """The class."""
        return self.classes[self.target(case)]

    def fingerprint(self, case: Case) -> Any:
        """The class as an index; with the shares of its readers where there are some."""
        asked = case.asked(ClassTarget)
        if asked is None or not asked.readers:
            return self.target(case)
        return [self.target(case), sorted(map(list, asked.readers))]

    def target(self, case: Case) -> int:
        """The case's class as an index into ``classes``. Raises UserError where it has none of them."""
        asked = case.asked(ClassTarget)
        if asked is None:
            raise UserError(f"case {case.id} has no class; leave it out or give it a label.")
        found = self._index.get(asked.label)
        if found is None:
            raise UserError(
                f"case {case.id} has the class {asked.label!r}, which is none of "
                f"{', '.join(self.classes)}; correct the label or train anew with this class."
            )
        return found

    @one_blas_thread
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
        the rest, ``per_centre`` ({} where no case names one) and ``per_group`` ({} where no class is rare
        beside another): values alone; see ``in_detail``.
        """
        probabilities, truth = self._checked(probabilities, cases)
        patients = [case.patient for case in cases]
        return {
            "scores": intervals(
                probabilities, truth, patients, scores=REPORTED, resamples=resamples, seed=seed
            ),
            **self._parts(probabilities, truth, cases, resamples=0, seed=seed),
        }

    @one_blas_thread
    def in_detail(
        self, probabilities: np.ndarray, cases: Sequence[Case], *, seed: int = 0, resamples: int = RESAMPLES
    ) -> dict[str, Any]:
        """``per_class``, ``per_centre``, ``per_group`` with their intervals, which cost a resampling each.

        ``readers`` too, where cases have several: see ``metrics.readers``.
        """
        probabilities, truth = self._checked(probabilities, cases)
        return {
            **self._parts(probabilities, truth, cases, resamples=resamples, seed=seed),
            **self._readers(probabilities, cases, resamples=resamples, seed=seed),
        }

    @one_blas_thread
    def difference(
        self, first: np.ndarray, second: np.ndarray, cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score, with its interval over patients."""
        truth = np.array([self.target(case) for case in cases])
        return paired_difference(first, second, truth, [c.patient for c in cases], score=self.primary)

    def pack(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """The probabilities."""
        return {"probabilities": predictions}

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probabilities, (n, k)."""
        return arrays["probabilities"]

    def shown(self, predictions: np.ndarray, cases: Sequence[Case]) -> dict[str, Any]:
        """``truth`` (n,) indices of the classes and ``probabilities`` (n, k)."""
        return {
            "truth": np.array([self.target(case) for case in cases]),
            "probabilities": predictions,
        }

    def write(self, predictions: np.ndarray, cases: Sequence[Case], out: Path | None) -> Path:
        """A CSV file: case, patient, one probability column per class, prediction."""
        path = Path(out or "predictions.csv")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", "patient", *self.classes, "prediction"])
        for case, row in zip(cases, predictions, strict=True):
            called = self.classes[int(np.argmax(row))]
            writer.writerow([case.id, case.patient, *(f"{value:.6f}" for value in row), called])
        store.write_bytes(path, text.getvalue().encode())
        return path

    def settings(self) -> dict[str, Any]:
        """Classes and the primary score."""
        return {"classes": list(self.classes), "primary": self.primary, "counts": list(self.counts)}

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

    def _readers(
        self, probabilities: np.ndarray, cases: Sequence[Case], *, resamples: int, seed: int
    ) -> dict[str, Any]:
        """``readers``: how model and readers agree on the cases that several labelled; {} without any."""
        asked = [case.asked(ClassTarget) for case in cases]
        several = [i for i, own in enumerate(asked) if own is not None and len(own.readers) > 1]
        if not several:
            return {}
        given = [dict(own.readers) for i in several if (own := asked[i]) is not None]
        labels = sorted({*self.classes, *(word for own in given for word in own.values())}, key=label_order)
        names = sorted({name for own in given for name in own}, key=label_order)
        place = {word: i for i, word in enumerate(labels)}
        ratings = np.array([[place.get(own.get(name, ""), -1) for name in names] for own in given])
        answers = np.array([place[self.classes[c]] for c in probabilities[several].argmax(axis=1)])
        patients = [cases[i].patient for i in several]
        return {
            "readers": beside_readers(
                ratings, answers, labels, names, patients, resamples=resamples, seed=seed
            )
        }

    def _parts(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray,
        cases: Sequence[Case],
        *,
        resamples: int,
        seed: int,
    ) -> dict[str, Any]:
        """Scores of each class, of each centre (``unknown`` where there is none), of common and rare ones."""
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
        per_centre = by_centre(
            cases,
            lambda here, own: intervals(
                probabilities[here],
                truth[here],
                [case.patient for case in own],
                scores=REPORTED,
                resamples=resamples,
                seed=seed,
            ),
        )
        per_group = {
            group: {
                "classes": [self.classes[c] for c in members],
                "n": int(np.isin(truth, members).sum()),
                **resampled(
                    partial(some_classes, probabilities, truth, members),
                    patients.tolist(),
                    resamples=resamples,
                    seed=seed,
                ),
            }
            for group, members in long_tail(self.counts).items()
        }
        return {"per_class": per_class, "per_centre": per_centre, "per_group": per_group}

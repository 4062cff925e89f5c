"""What the house speaks of: cases, what is asked of them, and what models give back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from medspectrum.card import Card
from medspectrum.image import Image


@dataclass(frozen=True, slots=True)
class LazyImage:
    """A picture that is read when it is needed.

    source: what a person would look for (a path, or ``file.npz#train/12``).
    load: reads it; a module-level function or a ``functools.partial`` of one,
        so that it travels to another process.
    key: gives the content's digest (hex) without decoding pixels where possible;
        equal content gives an equal key wherever the file lies.
    """

    source: str
    load: Callable[[], Image]
    key: Callable[[], str]


@dataclass(frozen=True, slots=True)
class ClassTarget:
    """The class of a whole case.

    readers: who called it what, as pairs of reader and label; () where one label is all that is known.
    ``label`` is then the ``majority`` of theirs.
    """

    label: str
    readers: tuple[tuple[str, str], ...] = ()

    def shares(self) -> dict[str, float]:
        """The share of readers for each label that one of them gave: its soft label."""
        given = Counter(word for _, word in self.readers) or Counter([self.label])
        return {word: count / given.total() for word, count in given.items()}


@dataclass(frozen=True, slots=True)
class MaskTarget:
    """A label map on the image's own grid: integers, named by ``labels``.

    unseen: labels that were not outlined by themselves in this case, though they may be there, each with the
    label that its voxels are marked as: another name, or ``''`` for none. They are not background here.
    """

    mask: LazyImage
    labels: Mapping[int, str]
    unseen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoxTarget:
    """Boxes in pixels of the image, with a label each: x0, y0, x1, y1, or in a volume x0, y0, z0, x1, y1, z1.

    Numbers are edges: pixel i reaches from i to i + 1.
    """

    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]


Points = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class PairTarget:
    """What belongs together in the images ``moving`` and ``fixed`` of a case; each first of the moving one.

    patients: whose they are. masks: their label maps. landmarks: points as x, y, z in voxels of the own
    image, equal places mean the same point.
    """

    patients: tuple[str, str]
    masks: tuple[MaskTarget, MaskTarget] | None = None
    landmarks: tuple[Points, Points] | None = None


Target = ClassTarget | MaskTarget | BoxTarget | PairTarget
Kind = TypeVar("Kind", ClassTarget, MaskTarget, BoxTarget, PairTarget)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to decide on: one or several images of one patient.

    id: unique in its data set. patient: who it is of; splits never part a patient.
    centre: where it was made, if known. images: by role (``image``, ``t1``, ``lateral``...).
    target: None where the label is missing. also: further targets of the same case (a mask beside a class).
    record: any further columns. split: ``train``, ``val`` or ``test`` where the data set came with one.
    """

    id: str
    patient: str
    images: Mapping[str, LazyImage]
    target: Target | None = None
    centre: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    also: tuple[Target, ...] = ()

    def asked(self, kind: type[Kind]) -> Kind | None:
        """The case's target of that kind, or None where it has none."""
        return next((t for t in (self.target, *self.also) if isinstance(t, kind)), None)


def keyed(case: Case) -> Case:
    """The case with its images' digests taken once: every trial asks for them."""
    images = {role: replace(image, key=partial(str, image.key())) for role, image in case.images.items()}
    return replace(case, images=images)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or case that could not be used, and the one sentence that says why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class CaseSet:
    """What a data set layout gives: its cases, what it had to leave out, and what it had to assume."""

    name: str
    layout: str
    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()

    def labels(self) -> tuple[str, ...]:
        """Class names in their order of display: numbers by value, words by alphabet."""
        found = {t.label for c in self.cases if (t := c.asked(ClassTarget)) is not None}
        return tuple(sorted(found, key=label_order))


def label_order(label: str) -> tuple[int, float, str]:
    """Sort key that puts ``2`` before ``10`` and numbers before words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def majority(labels: Iterable[str]) -> tuple[str, bool]:
    """The commonest label (the first in order of those that tie) and whether it ties."""
    counts = Counter(labels)
    most = max(counts.values())
    first = sorted((word for word, count in counts.items() if count == most), key=label_order)
    return first[0], len(first) > 1


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder sees, rows in the order of the images asked for.

    pooled: (n, d) float32, d = 0 where another level was asked for. tokens: (n, d, h, w) or None.
    maps: fine to coarse, each (n, c, h, w).
    """

    pooled: np.ndarray
    tokens: np.ndarray | None = None
    maps: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The probabilities of one case, in the order of ``classes``."""

    case: str
    patient: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(np.argmax(self.probabilities))]


class Model(Protocol):
    """A place on the spectrum that can be asked for features."""

    @property
    def card(self) -> Card:
        """Its row of the catalogue."""
        ...

    @property
    def key(self) -> str:
        """Digest of weights, network and preprocessing: equal keys give equal features."""
        ...

    def embed(self, images: Sequence[LazyImage], level: str = "pooled") -> Features:
        """Features of the images; level is ``pooled``, ``tokens`` or ``maps``."""
        ...

    def ensure(
        self,
        images: Sequence[LazyImage],
        progress: Callable[[int, int], None] | None = None,
        *,
        level: str = "pooled",
    ) -> list[LeftOut]:
        """Compute and keep missing features; gives the images that could not be read, with reasons."""
        ...

    def seconds_per_image(self, level: str = "pooled") -> tuple[float, float]:
        """What embedding one image cost here when it was measured: wall and processor seconds."""
        ...


class Task(Protocol):
    """What is asked: which target a case has, and how answers are scored.

    Predictions are what the task's predictors give: (n, k) probabilities of classes, or a list with one
    label map, or the boxes found, per case. Only the task looks into them.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def primary(self) -> str:
        """The score that decides."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart, in the order that predictions use."""
        ...

    @property
    def level(self) -> str:
        """The features that its methods read off frozen encoders: ``pooled`` or ``maps``."""
        ...

    @property
    def strata(self) -> int:
        """How many strata the labelled cases must have at least."""
        ...

    def seen(self, case: Case) -> Sequence[LazyImage]:
        """The images that an encoder embeds for the case."""
        ...

    def lacking(self, case: Case) -> str:
        """Why the case cannot be learned from or judged; '' where it can."""
        ...

    def stratum(self, case: Case) -> str:
        """What splits and budgets keep in proportion: the class, where there is one."""
        ...

    def target(self, case: Case) -> Any:
        """The true answer: an index into ``classes``, a label map, or boxes with indices into ``classes``."""
        ...

    def fingerprint(self, case: Case) -> Any:
        """A JSON value that changes when the true answer does."""
        ...

    def score(
        self, predictions: Any, cases: Sequence[Case], *, seed: int = 0, resamples: int = 1000
    ) -> dict[str, Any]:
        """``scores`` with intervals, ``per_class`` and ``per_centre`` without."""
        ...

    def in_detail(
        self, predictions: Any, cases: Sequence[Case], *, seed: int = 0, resamples: int = 1000
    ) -> dict[str, Any]:
        """``per_class`` and ``per_centre`` with intervals."""
        ...

    def difference(
        self, first: Any, second: Any, cases: Sequence[Case]
    ) -> tuple[float | None, float | None, float | None]:
        """First minus second in the primary score on the same cases, with its interval over patients."""
        ...

    def pack(self, predictions: Any) -> dict[str, np.ndarray]:
        """Predictions as plain arrays, to be kept."""
        ...

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Predictions from what was kept."""
        ...

    def shown(self, predictions: Any, cases: Sequence[Case]) -> dict[str, Any]:
        """What a report draws of the predictions, beside case, patient and centre."""
        ...

    def write(self, predictions: Any, cases: Sequence[Case], out: Path | None) -> Path:
        """Write answers for people and other programs; gives the file or folder, a usual one for None."""
        ...

    def settings(self) -> dict[str, Any]:
        """Keyword arguments, as JSON values, that make the same task again."""
        ...


class Predictor(Protocol):
    """An adapted model: cases in, the task's predictions out; saved as arrays and plain settings."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart, in the order that predictions use."""
        ...

    @property
    def trained_parameters(self) -> int:
        """How many numbers were fitted."""
        ...

    def predict(self, cases: Sequence[Case]) -> Any:
        """(n, k) float64 probabilities of classes, rows sum to 1; else a list of label maps or Detections."""
        ...

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything learned (arrays) and everything set (JSON values)."""
        ...


Method = Callable[..., Predictor]
"""(model, cases, task, *, seed, settings...) -> Predictor. A method receives a model, it fetches none."""

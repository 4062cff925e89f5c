"""What is chosen from: cases, what encoders see of them, and what predictors say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry
from medspectrum.case import Case, LeftOut
from medspectrum.engine import selection
from medspectrum.engine.selection import Room
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.plan import Plan
from medspectrum.predictor import load_predictor
from medspectrum.progress import Progress
from medspectrum.suitable import TWIN, suitable_models


@dataclass(frozen=True)
class Pool:
    """What is chosen from. rows: (n, d) unit rows of the first model, others: those of further ones.

    given: places of cases that are labelled or chosen already. aside: places that are not to be chosen, such
    as second pictures of the same. unsure: (n,) from 0 to 1, and told: what was predicted, a text per case,
    where predictors were asked. foreground: (n,) bool, whether something was outlined. by: column to balance.
    """

    cases: tuple[Case, ...]
    rows: np.ndarray
    others: tuple[np.ndarray, ...] = ()
    given: tuple[int, ...] = ()
    aside: tuple[int, ...] = ()
    seed: int = 0
    unsure: np.ndarray | None = None
    told: tuple[str, ...] = ()
    foreground: np.ndarray | None = None
    by: str = "class"
    patients: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "patients", tuple(c.patient for c in self.cases))

    def room(self, count: int, among: np.ndarray | None = None) -> Room:
        """What may be taken: no more of a patient than it needs for every patient to have a turn.

        among: (n,) bool, only these.
        """
        free = np.ones(len(self.cases), bool) if among is None else among.copy()
        free[[*self.given, *self.aside]] = False
        patients = np.array(self.patients)
        limit = selection.fair_limit(patients[free], count) if free.any() else 1
        made = Room(len(self.cases), patients, limit)
        made.close(np.flatnonzero(~free))
        return made


def seeing(
    models: str, cases: Sequence[Case], facts: Mapping[str, Any], size: int | None, cache: Path
) -> list[Any]:
    """The encoders that are asked: those named, or the smallest real one that fits the data and is here.

    Raises UserError where none can be asked.
    """
    from medspectrum.models import resolve

    named = tuple(name.strip() for name in models.split(",") if name.strip())
    plan = Plan(models=named)
    names, reasons = suitable_models(plan, facts)
    found = [
        resolve(name, size=size, cache=cache) for name in names if not name.endswith(TWIN) or name in named
    ]
    lacking = {e.card.name: e.lacking() for e in found if e.seed is None and e.lacking is not None}
    reasons |= {name: why for name, why in lacking.items() if why}
    found = [e for e in found if not lacking.get(e.card.name)]
    if not found or (named and len(found) < len(named)):
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "none is registered"
        raise UserError(f"no model can be used on these data ({told}); see medspectrum doctor")
    if not named:
        found = [min(found, key=lambda e: (e.card.level != "general", e.card.parameters, e.card.name))]
    images = [image for case in cases for image in case.images.values()]
    return found if size else [encoder.for_images(images) for encoder in found]


def see(
    encoders: Sequence[Any], cases: Sequence[Case], progress: Progress
) -> tuple[list[np.ndarray], tuple[Case, ...], list[LeftOut]]:
    """Unit rows by each encoder, the cases that all of them could see, and what they could not."""
    from medspectrum.methods._features import case_features

    lost: dict[str, LeftOut] = {}
    images = [image for case in cases for image in case.images.values()]
    for encoder in encoders:
        for one in encoder.ensure(images, progress.step(f"embedding by {encoder.card.name}")):
            lost[one.source] = one
    kept = tuple(c for c in cases if not any(i.source in lost for i in c.images.values()))
    if not kept:
        raise UserError(f"none of the {len(cases)} cases can be seen ({next(iter(lost.values())).reason})")
    return [selection.unit_rows(case_features(e, kept)) for e in encoders], kept, list(lost.values())


def twins(cases: Sequence[Case], facts: Mapping[str, Any], first: Sequence[str] = ()) -> dict[str, str]:
    """Cases that show the same picture as another one, by id: whose. Kept are ``first``, then the earlier.

    facts: of ``describe``.
    """
    order = {name: place for place, name in enumerate([*first, *(c.id for c in cases)][::-1])}
    root: dict[str, str] = {}

    def of(name: str) -> str:
        while root.get(name, name) != name:
            name = root[name]
        return name

    for group in (*facts["duplicates"]["exact"], *facts["duplicates"]["near"]):
        ends = sorted({of(name) for name in group}, key=lambda n: -order.get(n, -1))
        for other in ends[1:]:
            root[other] = ends[0]
    return {name: of(name) for name in root if of(name) != name}


def asked(
    folders: str, cases: Sequence[Case], cache: Path, progress: Progress
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """How unsure predictors are of each case, from 0 to 1, what they say, and where something is outlined.

    Of classes: the entropy of their mean probabilities, as a share of the largest there is. Of outlines:
    one minus the overlap (Dice of all that is outlined, label by label) of two or more predictors; of one,
    the overlap with the truth that its own probabilities promise.
    """
    from medspectrum.engine.planes import cut

    names = [name.strip() for name in folders.split(",") if name.strip()]
    saved = [load_predictor(Path(name), cache=cache) for name in names]
    tasks = {one.facts["task"] for one in saved}
    if len({(one.facts["task"], one.classes) for one in saved}) > 1:
        raise UserError(
            f"the predictors {folders} are not of one task with the same classes; give some that are"
        )
    task = tasks.pop()
    if task not in ("classify", "segment"):
        raise UserError(f"{names[0]} is for the task {task}; uncertainty is known of classify and segment")
    alone: Any = saved[0].predictor
    if task == "segment" and len(saved) < 2 and not hasattr(alone, "promised"):
        raise UserError(
            f"{saved[0].facts['method']} outlines without probabilities; give two predictors, separated by "
            "commas, and cases are chosen by where they disagree"
        )
    thing: Any = registry.find("task", task).thing
    level = thing.level
    answers = []
    for one in saved:
        if one.model is not None:
            images: list[Any] = [i for c in cases for i in c.images.values()]
            if level == "maps":
                images = [plane for image in images for plane in cut(image).planes]
            one.model.ensure(images, progress.step(f"embedding by {one.facts['model']}"), level=level)
        if task == "segment" and len(saved) < 2:
            return _by_itself(alone.promised(cases))
        answers.append(one.predictor.predict(cases))
    if task == "segment":
        return _apart(answers)
    mean = np.mean(np.stack(answers), axis=0)
    unsure = -(mean * np.log(np.maximum(mean, 1e-12))).sum(axis=1) / np.log(max(mean.shape[1], 2))
    classes = saved[0].classes
    told = tuple(
        ", ".join(f"{classes[k]} {row[k]:.2f}" for k in np.argsort(-row, kind="stable")[:2]) for row in mean
    )
    return np.clip(unsure, 0, 1), told, None


def _by_itself(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """How little a predictor's own probabilities promise of its outlines, case by case."""
    from medspectrum.engine import promised

    overlaps = [promised.overlap(own) for own in parts]
    told = tuple(f"promises an overlap of {value:.2f}" for value in overlaps)
    return 1 - np.array(overlaps), told, np.array([own[1] > 0 for own in parts])


def _apart(answers: Sequence[Sequence[LabelMap]]) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """How far label maps of several predictors lie apart, case by case."""
    unsure, told, shown = [], [], []
    for maps in zip(*answers, strict=True):
        arrays = [m.array() for m in maps]
        overlaps = []
        for i, one in enumerate(arrays):
            for two in arrays[:i]:
                both = ((one == two) & (one > 0)).sum()
                either = (one > 0).sum() + (two > 0).sum()
                overlaps.append(2 * both / either if either else 1.0)
        unsure.append(1 - float(np.mean(overlaps)))
        told.append(f"overlap of predictors {np.mean(overlaps):.2f}")
        shown.append(any(a.any() for a in arrays))
    return np.array(unsure), tuple(told), np.array(shown)

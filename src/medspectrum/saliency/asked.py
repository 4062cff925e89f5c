"""Which answers are explained: a class, what was outlined of a label, or the surest box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medspectrum.case import Case, LeftOut
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.predictor import SavedPredictor
from medspectrum.saliency import dense
from medspectrum.saliency.seen import Seen, see

TASKS = {
    "classify": "log odds of the class against all others",
    "segment": "log odds of the label against all others, over scores averaged where it was outlined",
    "detect": "logit of the surest box of the label",
}


@dataclass(frozen=True)
class Asked:
    """One answer. answer: what was answered. explained: the class whose score is followed.

    probability: of it, None where it is none of the answer's own. see: the case before the network.
    """

    case: Case
    answer: str
    explained: str
    probability: float | None
    truth: str | None
    see: Callable[[], Seen]


def explainable(saved: SavedPredictor, of: str) -> None:
    """Raises UserError where there is nothing to explain, or no way."""
    task = saved.facts["task"]
    if task not in TASKS:
        raise UserError(f"explain is for the tasks {', '.join(TASKS)}; this predictor is for {task}")
    looks = hasattr(saved.predictor, "head") or hasattr(saved.predictor, "module")
    if saved.model is None or (task == "classify" and not looks):
        raise UserError(
            f"{saved.facts['method']} has no network behind its answers, so no score can be followed; "
            "give a predictor that has a model"
        )
    if of and of not in saved.classes:
        raise UserError(f"the predictor knows no class {of!r}; it knows {', '.join(saved.classes)}")


def drawn(
    saved: SavedPredictor, task: Any, cases: Sequence[Case], of: str, count: int, seed: int
) -> tuple[list[Asked], list[LeftOut]]:
    """At most ``count`` answers (all for 0), and cases of which none can be explained."""
    count = count or len(cases)
    if task.name == "classify":
        probabilities = saved.predictor.predict(cases)
        chosen = evenly(probabilities.argmax(axis=1), count, seed)
        return [_of_class(saved, task, cases[i], probabilities[i], of) for i in chosen], []
    found: list[Asked] = []
    failed: list[LeftOut] = []
    for place in np.random.default_rng([seed, 0]).permutation(len(cases)):
        if len(found) == count:
            break
        case = cases[int(place)]
        try:
            [answer] = saved.predictor.predict([case])
            make = _of_outline if task.name == "segment" else _of_box
            found.append(make(saved, case, answer, of))
        except UnreadableFile as error:
            failed.append(LeftOut(error.source, error.reason))
        except UserError as error:
            failed.append(LeftOut(case.id, str(error)))
    return found, failed


def evenly(answers: np.ndarray, count: int, seed: int) -> list[int]:
    """At most so many places, the answers by turns, in the order of the cases."""
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(len(answers))
    queues = [[int(i) for i in order if answers[i] == c] for c in np.unique(answers)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(answers)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen)


def _of_class(saved: SavedPredictor, task: Any, case: Case, row: np.ndarray, of: str) -> Asked:
    explained = saved.classes.index(of) if of else int(row.argmax())
    predictor: Any = saved.predictor

    def look() -> Seen:
        has = predictor.present if hasattr(predictor, "present") else predictor.settings["present"]
        present = [int(i) for i in has]
        if explained not in present or len(present) < 2:
            raise UserError(
                f"the class {saved.classes[explained]} was learned from no case, so no score can be explained"
            )
        return see(predictor, case, present.index(explained))

    truth = None if task.lacking(case) else task.classes[task.target(case)]
    answer = saved.classes[int(row.argmax())]
    return Asked(case, answer, saved.classes[explained], float(row[explained]), truth, look)


def _of_outline(saved: SavedPredictor, case: Case, found: Any, of: str) -> Asked:
    label = saved.classes.index(of) + 1 if of else dense.largest(found)
    name = saved.classes[label - 1]
    see_it = partial(dense.see_outline, saved.predictor, case, found, label)
    return Asked(case, name, name, None, None, see_it)


def _of_box(saved: SavedPredictor, case: Case, found: Any, of: str) -> Asked:
    own = np.arange(len(found)) if not of else np.flatnonzero(found.labels == saved.classes.index(of))
    if not len(own):
        raise UserError("no box was found, so there is nothing to explain")
    label = int(found.labels[own[0]])
    name = saved.classes[label]
    see_it = partial(dense.see_box, saved.predictor, case, found, label)
    return Asked(case, name, name, float(found.scores[own[0]]), None, see_it)

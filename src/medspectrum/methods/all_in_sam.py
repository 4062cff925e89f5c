"""All-in-SAM: a promptable network outlines things from their boxes, and is then tuned on these outlines.

Cui et al. 2023 (arXiv:2307.00290). Of the labelled cases only boxes are looked at, those that a case carries
or those around the things of its mask; at the end no prompt is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from medspectrum.case import BoxTarget, Case, Task
from medspectrum.engine import tiles
from medspectrum.errors import UserError
from medspectrum.methods import _apart, _apart_tuned, _dense
from medspectrum.methods.lora import low_rank
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder, Outlining


class FromBoxes:
    """The task as the tuning sees it: what is in each box, as the network itself outlines it."""

    def __init__(self, task: Any, outline: Outlining) -> None:
        self.classes, self.tile = tuple(task.classes), task.tile
        self._task, self._outline = task, outline
        self._made: dict[str, np.ndarray] = {}

    def target(self, case: Case) -> np.ndarray:
        """(1, Y, X) map of things: v is one of class (v - 1) % k. Where they overlap the surer one counts."""
        if case.id not in self._made:
            self._made[case.id] = self._outlined(case)
        return self._made[case.id]

    def _outlined(self, case: Case) -> np.ndarray:
        boxes, kinds = boxes_of(case, self._task)
        image = _dense.roles(case)[0].load()
        grey = tiles.stretched(image)
        picture = np.ascontiguousarray(grey if len(grey) == 3 else np.repeat(grey[:1], 3, axis=0))
        made = np.zeros((1, *picture.shape[1:]), np.int32)
        if not len(boxes):
            return made
        found = self._outline(picture, boxes)
        for place in sorted(range(len(boxes)), key=lambda i: found[i][1]):
            made[0][found[place][0]] = place * len(self.classes) + kinds[place] + 1
        return made


def boxes_of(case: Case, task: Any) -> tuple[np.ndarray, list[int]]:
    """(n, 4) boxes x0, y0, x1, y1 of a case and their classes: its own, else those around its mask's things.

    Raises UserError for boxes of another class than the task's, and for those of volumes.
    """
    own = case.asked(BoxTarget)
    if own is not None:
        if any(len(box) != 4 for box in own.boxes):
            raise UserError(f"case {case.id} has boxes in a volume; things are told apart in pictures")
        strange = sorted(set(own.labels) - set(task.classes)) if len(task.classes) > 1 else []
        if strange:
            raise UserError(
                f"case {case.id} has boxes of {strange[0]!r}; known are {', '.join(task.classes)}"
            )
        kinds = [task.classes.index(name) if len(task.classes) > 1 else 0 for name in own.labels]
        return np.array(own.boxes, float).reshape(-1, 4), kinds
    from scipy import ndimage

    numbers, renumbered = np.unique(task.target(case)[0], return_inverse=True)
    whole = renumbered.reshape(task.target(case)[0].shape) + (1 if numbers[0] != 0 else 0)
    numbers = numbers[numbers != 0]
    found: list[Any] = ndimage.find_objects(whole)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    return np.array(boxes, float).reshape(-1, 4), [int(v - 1) % len(task.classes) for v in numbers]


@method(
    "all_in_sam",
    trains="part",
    cost=3,
    named_only=True,
    restore=functools.partial(_apart_tuned.restore, low_rank),
    **_apart_tuned.FACTS,
)
def all_in_sam(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    rank: int = 8,
    encoder_learning_rate: float = 5e-4,
    mirrored: bool = True,
    **training: Unpack[_apart.Training],
) -> _apart.ApartPredictor:
    """Learn from boxes alone: Segment Anything outlines what is in them, then is tuned on that (All-in-SAM).

    rank: of the low-rank deltas. encoder_learning_rate: peak, for them; ``learning_rate`` is the decoder's.
    mirrored: average over the picture and its mirror images. training: see ``_apart.Training``.
    """
    outline = getattr(model, "outline", None)
    if outline is None:
        raise UserError(
            f"{model.card.name} does not outline what is in a box, as all_in_sam needs; give sam:PATH"
        )
    return _apart_tuned.tune(
        model,
        cases,
        FromBoxes(task, outline),  # type: ignore[arg-type]
        low_rank,
        structure={"rank": rank},
        seed=seed,
        encoder_learning_rate=encoder_learning_rate,
        mirrored=mirrored,
        training=training,
    )

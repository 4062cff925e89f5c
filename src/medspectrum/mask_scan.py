"""One look at every mask: does it lie on its image's grid, are its labels known, does it mark anything?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import Case, MaskTarget
from medspectrum.errors import UserError
from medspectrum.scan import FactStore
from medspectrum.tasks.segment import Segment

VERSION = 1


def look_at_masks(
    cases: Sequence[Case],
    *,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What the masks of the cases hold; their images are known to be readable.

    ``cases``: how many have a mask. ``labels``: in how many cases each label marks a voxel. ``empty``: ids of
    cases whose mask marks nothing. ``unfit``: ``source``, ``reason`` and ``case`` of masks that cannot be
    used. Empty where no case has a mask. What was found is kept by content, for a second look.
    """
    own = [case for case in cases if case.asked(MaskTarget) is not None]
    if not own:
        return {}
    try:
        task = Segment.of(own)
    except UserError as error:
        return {
            "cases": len(own),
            "labels": {},
            "empty": [],
            "unfit": [{"source": "all masks", "reason": str(error), "case": ""}],
        }
    marked: Counter[str] = Counter()
    empty, unfit = [], []
    with closing(FactStore(cache)) as known:
        for done, case in enumerate(own, 1):
            key = _key(case, task)
            words = known.note(key) if key else None
            if words is None:
                why = task.lacking(case)
                found = [] if why else [int(v) for v in np.unique(task.target(case)) if v]
                task.forget(case)
                words = json.dumps([why, found])
                if key:
                    known.put_note(key, words)
            why, found = json.loads(words)
            if why:
                unfit.append({"source": _source(case), "reason": _bare(why, _source(case)), "case": case.id})
            elif not found:
                empty.append(case.id)
            marked.update(task.classes[v - 1] for v in found)
            if progress is not None:
                progress(done, len(own))
    return {
        "cases": len(own),
        "labels": {name: marked[name] for name in task.classes},
        "empty": empty,
        "unfit": unfit,
    }


def mask_warnings(masks: Mapping[str, Any]) -> list[str]:
    """What a careful reader should know of them, a sentence each."""
    if not masks:
        return []
    said = []
    if masks["unfit"]:
        said.append(f"{len(masks['unfit'])} of {masks['cases']} masks cannot be used for segmentation")
    if masks["empty"]:
        said.append(
            f"{len(masks['empty'])} of {masks['cases']} masks mark nothing (first {masks['empty'][0]}); they "
            "count as cases where there is nothing to outline: take them out if that is not so"
        )
    never = [name for name, count in masks["labels"].items() if not count]
    if never:
        said.append(f"labels that no mask marks: {', '.join(never[:10])}")
    return said


def _key(case: Case, task: Segment) -> str:
    """Digest of mask, image and table of labels; '' where one of them cannot be opened."""
    asked = case.asked(MaskTarget)
    if asked is None:
        return ""
    try:
        parts = [asked.mask.key(), *(image.key() for image in case.images.values())]
    except UserError:
        return ""
    return store.digest("mask", VERSION, parts, list(task.values), sorted(asked.labels.items()))


def _source(case: Case) -> str:
    asked = case.asked(MaskTarget)
    return asked.mask.source if asked else case.id


def _bare(why: str, source: str) -> str:
    """The reason without the file it begins with."""
    return why.removeprefix(f"{source}: ")

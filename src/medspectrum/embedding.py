"""What the models see: which of them are asked, at what size, and the one pass that keeps their features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medspectrum import registry
from medspectrum.budgets import PARTS, Split
from medspectrum.case import Case, LazyImage, LeftOut, Task
from medspectrum.errors import UserError
from medspectrum.plan import Plan, methods_for
from medspectrum.progress import Progress
from medspectrum.schedule import Dropped
from medspectrum.spent import Spent
from medspectrum.suitable import TWIN, suitable_models

PROBE = 128  # images embedded to see how fast a model is here; fewer would mostly time its start
EMBEDDING_SHARE = 0.7  # of the time left, at most, goes to embedding by one more model,
CONTROL_SHARE = 0.3  # or by one more control
ASKING_SHARE = 0.05  # of the time left, at most, goes to asking which model has a prospect,
LEAST_ASKED = 16  # if that is enough for so many cases
LARGEST = {"detect": 448}
"""Pixels per side at most, where a task wants more than models were trained on: things to find are small."""
MAGNIFY = {"pooled": 4.0, "maps": 2.5}
"""How much small images are enlarged before they are embedded: maps of many planes take much room."""


def look(
    plan: Plan,
    facts: dict[str, Any],
    split: Split,
    task: Task,
    cache: Path,
    progress: Progress,
    spent: Spent,
    encoders: dict[str, Any] | None,
) -> tuple[dict[str, Any], list[Dropped], list[LeftOut]]:
    """Encoders (chosen here if not given) with features of all parts; none where no method asks for one."""
    methods = [registry.find("method", name) for name in plan.methods or methods_for(plan.task)]
    if not any(m.facts.get("needs_model", True) for m in methods):
        return {}, [], []
    each = (image for part in PARTS for c in getattr(split, part) for image in task.seen(c))
    images = list({image.source: image for image in each}.values())
    skipped: list[Dropped] = []
    if encoders is None:
        encoders, skipped = encoders_for(plan, facts, images, cache, [task])
        if spent.limited:
            encoders = promising_first(encoders, split, task, plan.seed, spent)
    return encoders, skipped, embed(encoders, images, task.level, progress, spent, skipped)


def encoders_for(
    plan: Plan,
    facts: dict[str, Any],
    images: Sequence[LazyImage],
    cache: Path,
    tasks: Sequence[Task],
) -> tuple[dict[str, Any], list[Dropped]]:
    """The models to try, cheap first, each with its random twin; and those left aside with the reason.

    They are to serve all of the tasks: the one that magnifies least decides, and the one that needs most.
    """
    from medspectrum.models import resolve

    magnify = min(MAGNIFY[task.level] for task in tasks)
    largest = max((LARGEST[task.name] for task in tasks if task.name in LARGEST), default=None)
    side = max(getattr(task, "side", 0) for task in tasks)  # a task that cuts its images knows what it needs
    names, reasons = suitable_models(plan, facts)
    skipped = [Dropped(name, "", why) for name, why in reasons.items()]
    encoders: dict[str, Any] = {}
    for name in names:
        asked = plan.size or side or None
        encoder = resolve(name, size=asked, cache=cache)
        lacking = lacks(encoder)
        if lacking:
            skipped.append(Dropped(name, "", lacking))
            continue
        encoders[name] = encoder if asked else encoder.for_images(images, magnify=magnify, largest=largest)
    if not encoders:
        told = "; ".join(f"{d.model}: {d.reason}" for d in skipped) or "none is registered"
        raise UserError(f"no model can be used on these data ({told}); see medspectrum doctor")
    return dict(sorted(encoders.items(), key=lambda pair: _rank(pair[1]))), skipped


def lacks(encoder: Any) -> str:
    """What is missing here to use it, in a sentence; empty where nothing is, as for random weights."""
    return encoder.lacking() if encoder.seed is None and encoder.lacking is not None else ""


def promising_first(
    encoders: dict[str, Any], split: Split, task: Task, seed: int, spent: Spent
) -> dict[str, Any]:
    """The same models in the order of what ``transfer.worth`` expects of them; controls stay last.

    Where nothing can be expected beforehand, or asking would take more than ``ASKING_SHARE`` of the time,
    cheap ones stay first. So a limit on time is spent on what has a prospect; which cases are asked about,
    and their labels, are of the training part.
    """
    from medspectrum.transfer import some_cases, worth

    real = [name for name, encoder in encoders.items() if encoder.card.level != "control"]
    if len(real) < 2:
        return encoders
    begun = time.monotonic()
    each = sum(encoders[name].seconds_per_image(task.level)[0] for name in real)
    count = int(min(PROBE, ASKING_SHARE * spent.remaining() / max(each, 1e-9)))
    expected: dict[str, float] = {}
    if count >= LEAST_ASKED:
        some = some_cases(split.train, task, count, seed)
        images = [image for case in some for image in task.seen(case)]
        for name in real:
            if encoders[name].ensure(images, level=task.level):
                break  # one of them cannot be read: it is told, and left out, when all are embedded
            found = worth(encoders[name], some, task)
            if found is None:
                break
            expected[name] = found.score
    spent.embedding += time.monotonic() - begun
    if len(expected) < len(real):
        return encoders
    order = sorted(real, key=lambda name: -expected[name])
    return {name: encoders[name] for name in (*order, *(n for n in encoders if n not in expected))}


def _rank(encoder: Any) -> tuple[bool, float, str]:
    return encoder.card.level == "control", encoder.card.parameters, encoder.card.name


def embed(
    encoders: dict[str, Any],
    images: Sequence[LazyImage],
    level: str,
    progress: Progress,
    spent: Spent,
    skipped: list[Dropped],
) -> list[LeftOut]:
    """Compute what features are missing, model by model; a model that would eat the time is left aside.

    The first is taken whatever it costs, since without features there is no answer; under a limit that its
    embedding alone would eat, the quickest model stands in for it.
    """
    failed: dict[str, LeftOut] = {}
    if spent.limited:
        _begin_with_one_that_fits(encoders, images, level, spent)
    for name in list(encoders):
        encoder = encoders.get(name)
        if encoder is None:
            continue
        begun = time.monotonic()
        missing = encoder.missing(images, level=level)
        if spent.limited and name != next(iter(encoders)) and missing > PROBE:
            encoder.ensure(images[:PROBE], level=level)
            expected = encoder.seconds_per_image(level)[0] * missing
            share = CONTROL_SHARE if encoder.card.level == "control" else EMBEDDING_SHARE
            if expected > share * spent.remaining():
                del encoders[name]
                encoders.pop(name + TWIN, None)  # a control of nothing controls nothing
                skipped.append(
                    Dropped(name, "", f"embedding would take about {expected / 60:.1f} min of the time left")
                )
                continue
        for lost in encoder.ensure(images, progress=progress.step(f"embedding by {name}"), level=level):
            failed[lost.source] = lost
        spent.embedding += time.monotonic() - begun
    return list(failed.values())


def _begin_with_one_that_fits(
    encoders: dict[str, Any], images: Sequence[LazyImage], level: str, spent: Spent
) -> None:
    """Move the quickest model to the front where the first one's embedding would eat the time."""
    real = [name for name, encoder in encoders.items() if encoder.card.level != "control"]
    if len(real) < 2 or encoders[real[0]].missing(images, level=level) <= PROBE:
        return
    begun = time.monotonic()
    expected: dict[str, float] = {}
    for name in real:
        if encoders[name].ensure(images[:PROBE], level=level):
            return  # a picture that cannot be read is told when all are embedded
        expected[name] = encoders[name].seconds_per_image(level)[0] * encoders[name].missing(
            images, level=level
        )
        if name == real[0] and expected[name] <= EMBEDDING_SHARE * spent.remaining():
            break
    else:
        quickest = min(real, key=expected.__getitem__)
        order = {
            name: encoders.pop(name) for name in (quickest, *(n for n in list(encoders) if n != quickest))
        }
        encoders.update(order)
    spent.embedding += time.monotonic() - begun


def without(split: Split, sources: set[str], task: Task) -> Split:
    """The split less the cases one of whose images could not be embedded."""
    if not sources:
        return split

    def keep(cases: Sequence[Case]) -> tuple[Case, ...]:
        return tuple(c for c in cases if not any(i.source in sources for i in task.seen(c)))

    return replace(split, train=keep(split.train), val=keep(split.val), test=keep(split.test))

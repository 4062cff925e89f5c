"""Which models are worth trying on some data, before any of them is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medspectrum import registry, store
from medspectrum.budgets import make_split
from medspectrum.errors import UserError
from medspectrum.plan import Plan, make_plan, methods_for
from medspectrum.progress import progress_for
from medspectrum.schedule import BACKWARD_COST
from medspectrum.suitable import suitable_models, unsuitable

if TYPE_CHECKING:
    from medspectrum.card import Card
    from medspectrum.case import Case, Task
    from medspectrum.transfer import Worth

HEADS = {
    "classify": "ridge",
    "segment": "dense_probe",
    "detect": "detector",
    "instances": "distance_decoder",
    "register": "convex_adam_features",
}
"""The method on frozen features that stands for a model."""
PROGRAM_MB, TUNING_MB = 1200.0, 1500.0
FROZEN_BYTES, TUNED_BYTES = 8, 16  # a parameter: file and compiled; weights, gradients and two moments


def suggest(
    data: Path,
    *,
    layout: str | None = None,
    task: str = "classify",
    models: str = "",
    modality: str | None = None,
    organ: str | None = None,
    looked_at: int = 200,
    seed: int = 0,
    size: int | None = None,
    max_memory_gb: float | None = None,
    commercial_use: bool = False,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    cache: Path | None = None,
    quiet: bool = True,
) -> list[dict[str, Any]]:
    """Rank the catalogue for a data set before anything is trained.

    data: folder, table or archive of cases; see ``medspectrum datasets`` for what is understood.
    layout: name of the data's layout where it is not recognised by itself.
    task: what is asked of the cases.
    models: names separated by commas; the whole catalogue where empty.
    modality: a DICOM code for what the images are, where their files do not say.
    organ: what they show, e.g. chest; models made for another organ come last.
    looked_at: labelled training cases that the models whose weights are here are asked about.
    seed: where every random choice starts; that of explore gives the same training cases.
    size: pixels per side that models see; chosen from the images where not given.
    max_memory_gb: leave out what needs more memory than this.
    commercial_use: only models whose licence allows commercial use.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    cache: folder for features, shared with explore.
    quiet: show no progress.

    Returns rows, best first, of ``name, method, expected_score, expected_seconds, memory_mb, here, reasons``.
    expected_score is what a head on frozen features would reach on patients left out, None where weights are
    not here or the task tells nothing beforehand. Raises UserError for input that cannot be used.
    """
    given = locals()
    plan = make_plan(None, {name: given[name] for name in given if name in Plan.__dataclass_fields__})
    if len(plan.tasks) != 1:
        raise UserError("suggest ranks for one task at a time; give one of them with --task")
    if looked_at < 4:
        raise UserError(f"looked_at is {looked_at}; models are asked about 4 labelled cases at least")
    folder = store.cache_folder(cache)
    with progress_for(quiet=quiet) as progress:
        cases, facts, asked = _cases(Path(data), plan, folder, progress, modality)
        return _ranked(plan, cases, facts, asked, folder, progress, organ, looked_at)


def _cases(data: Path, plan: Plan, folder: Path, progress: Any, modality: str | None) -> tuple[Any, ...]:
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable

    case_set = load(data, layout=plan.layout, cache=folder, **plan.columns())
    facts = describe_cases(case_set, cache=folder, progress=progress.step("reading cases"))
    case_set, _ = usable(case_set, facts)
    if modality:
        facts = {**facts, "modalities": {modality.upper(): len(case_set.cases)}}
    task = registry.find("task", plan.task).thing.of(case_set.cases)
    return [c for c in case_set.cases if not task.lacking(c)], facts, task


def _ranked(
    plan: Plan,
    cases: Sequence[Case],
    facts: dict[str, Any],
    task: Task,
    folder: Path,
    progress: Any,
    organ: str | None,
    looked_at: int,
) -> list[dict[str, Any]]:
    from medspectrum.embedding import encoders_for
    from medspectrum.engine.speed import gflops_per_second
    from medspectrum.transfer import some_cases

    split = make_split(
        cases, seed=plan.seed, allow_leak=plan.allow_leak, stratum=task.stratum, strata=task.strata
    )
    some = some_cases(split.train, task, looked_at, plan.seed)
    _, away = suitable_models(plan, facts)
    encoders: dict[str, Any] = {}
    if any(name not in away for name in _names(plan)):
        images = list({i.source: i for c in split.train for i in task.seen(c)}.values())
        encoders = encoders_for(plan, facts, images, folder, [task])[0]
    speed = gflops_per_second()
    count = sum(len(task.seen(c)) for c in cases)
    labels, judged = len(split.train), len(split.val) + len(split.test)
    step = progress.step("asking models")
    rows: list[dict[str, Any]] = []
    names = _names(plan)
    for place, name in enumerate(names):
        card = _card(name, encoders)
        encoder = encoders.get(name)
        why = unsuitable(card, facts) or _other_organ(card, organ)
        found = _asked(encoder, some, task, folder) if encoder is not None else None
        seconds = encoder.seconds_per_image(task.level)[0] if encoder is not None else card.gflops / speed
        about = {
            "why": why,
            "away": "" if encoder is not None else away.get(name, ""),
            "worth": found,
            "organ": organ,
            "facts": facts,
        }
        rows += [
            _row(name, card, method, seconds, count, labels, judged, about)
            for method in _methods(plan, card, encoder, why)
        ]
        step(place + 1, len(names))
    return [_told(row) for row in sorted(rows, key=_order)]


def _names(plan: Plan) -> list[str]:
    known = registry.entries("model")
    return list(plan.models) or [n for n, e in known.items() if "prefix" not in e.facts]


def _card(name: str, encoders: Mapping[str, Any]) -> Card:
    entry = registry.entries("model").get(name)
    return entry.facts["card"] if entry is not None else encoders[name].card


def _asked(encoder: Any, cases: Sequence[Case], task: Task, folder: Path) -> Worth | None:
    from medspectrum.transfer import worth

    return worth(replace(encoder, cache=folder), cases, task)


def _other_organ(card: Card, organ: str | None) -> str:
    if organ and card.organ != "any" and card.organ != organ.lower():
        return f"made for the {card.organ}; the data show the {organ.lower()}"
    return ""


def _methods(plan: Plan, card: Card, encoder: Any, why: str) -> list[registry.Entry | None]:
    """A head that stands for the model, then what trains the network itself; None where nothing fits."""
    if why or not card.width:
        return [None]
    names = plan.methods or methods_for(plan.task)
    head = HEADS.get(plan.task)
    entries = [registry.find("method", n) for n in names if n == head]
    if encoder is not None and card.dims == 2:
        entries += [e for e in (registry.find("method", n) for n in names) if _tunes(e)]
    return list(entries) or [None]


def _tunes(method: registry.Entry) -> bool:
    """Whether it goes on training the model's own weights; what begins from random ones is no use of it."""
    return (
        method.facts.get("trains") in ("part", "network")
        and method.facts.get("needs_model", True)
        and "scratch" not in (method.name, method.facts.get("level"))
    )


def _row(
    name: str,
    card: Card,
    method: registry.Entry | None,
    image_seconds: float,
    images: int,
    labels: int,
    judged: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    tuned = method is not None and _tunes(method)
    passes = float(images)
    if tuned and method is not None:
        seen = method.facts.get("pictures_seen")
        passes = BACKWARD_COST * (seen(labels, {}) if seen else labels) + judged
    found: Worth | None = about["worth"]
    memory = (
        TUNING_MB + TUNED_BYTES * card.parameters / 1e6
        if tuned
        else PROGRAM_MB + FROZEN_BYTES * card.parameters / 1e6
    )
    return {
        "name": name,
        "method": method.name if method is not None else "",
        "expected_score": None if found is None else round(found.score, 4),
        "expected_seconds": round(passes * image_seconds, 1) if image_seconds else None,
        "memory_mb": round(memory) if card.parameters else None,
        "here": not about["away"],
        "log_evidence": None if found is None else round(found.evidence, 4),
        "reasons": _reasons(card, found, tuned, about),
        "affinity": _affinity(card, about),
        "suits": not about["why"] and bool(card.width),
        "tuned": tuned,
    }


def _reasons(card: Card, found: Worth | None, tuned: bool, about: Mapping[str, Any]) -> list[str]:
    told = []
    if about["why"]:
        return [about["why"]]
    if not card.width:
        told.append(f"serves {', '.join(card.tasks)}, and gives no features to compare")
    if card.modality != "any":
        told.append(f"learned from {card.modality}, as these data are")
    if about["organ"] and card.organ == about["organ"].lower():
        told.append(f"learned from the {card.organ}")
    if found is not None:
        told.append(
            f"{found.of} {found.score:.3f} by frozen features on {found.cases} cases left out by patient"
        )
        if tuned:
            told.append("training the network may add to that; only explore can say")
    if about["away"]:
        told.append(about["away"])
    return told


def _affinity(card: Card, about: Mapping[str, Any]) -> int:
    """How near a model's own data are to these: its modality counts twice, its organ once."""
    organ = about["organ"]
    return 2 * (card.modality != "any") + bool(organ and card.organ == organ.lower())


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What was asked comes first, by its score; then what was not, by how near it is to the data."""
    score = row["expected_score"]
    seconds = row["expected_seconds"]
    return (
        not row["suits"],
        score is None,
        -(score or 0.0),
        -row["affinity"],
        row["tuned"],
        seconds is None,
        seconds or 0.0,
        row["name"],
        row["method"],
    )


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("affinity", "suits", "tuned")}

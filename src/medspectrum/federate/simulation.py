"""A federation in one process: the same plan and messages as over the network, and what it is worth."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medspectrum import __version__, registry, store
from medspectrum.budgets import Split, make_split
from medspectrum.case import Case, CaseSet, LeftOut, Task, keyed
from medspectrum.errors import UserError
from medspectrum.progress import Progress, progress_for

FORMAT = 1


def simulate(
    data: Path,
    *,
    out: Path,
    method: str = "ridge",
    sites: int | None = None,
    by: str = "centre",
    skew: float | None = None,
    model: str = "efficientnet-lite0",
    size: int | None = None,
    penalty: float | None = None,
    least_cases: int = 1,
    seed: int = 0,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Learn over several sites in one process, beside all cases pooled and each site alone.

    data: folder, table or archive of cases; see ``medspectrum datasets`` for what is understood.
    out: folder for federation.json, messages.csv and the predictor that was learned over the sites.
    method: what is learned: ridge or prototype.
    sites: how many sites; one for each centre, or 3 where patients are dealt, if not given.
    by: centre (where the data name centres, else patients are dealt) or patient (dealt at random).
    skew: deal classes unevenly: concentration of a Dirichlet distribution, e.g. 0.3; evenly where not given.
    model: the encoder at every site.
    size: pixels per side that the model sees; chosen from the images where not given.
    penalty: of the squared weights (ridge); chosen by leaving out one patient at a time where not given.
    least_cases: a site says nothing of a class of which it holds fewer cases.
    seed: where every random choice starts.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns the content of federation.json: the primary score of ``pooled``, ``federated`` and of each site
    ``alone`` on the same test cases. Raises UserError for input that cannot be used.
    """
    from medspectrum.federate.plans import plan_for

    plan_for(method)
    if by not in ("centre", "patient"):
        raise UserError(f"by is centre or patient, not {by!r}")
    if sites is not None and sites < 2:
        raise UserError(f"a federation needs two sites or more, not {sites}")
    if skew is not None and not skew > 0:
        raise UserError(f"skew must be above 0, not {skew}")
    if least_cases < 1:
        raise UserError(f"least-cases must be 1 or more, not {least_cases}")
    if penalty is not None and method != "ridge":
        raise UserError(f"--penalty is for ridge, not {method}")
    columns = {
        name: value
        for name, value in {
            "image": image, "label": label, "patient": patient, "centre": centre, "split": split,
            "patient_pattern": patient_pattern,
        }.items()
        if value is not None
    }  # fmt: skip
    folder, place = store.cache_folder(cache), Path(out)
    with progress_for(quiet=quiet) as progress:
        found = _prepared(Path(data), layout, columns, model, size, seed, folder, progress)
        shares, dealt_by, note = _shares(found, sites, by, skew, seed)
        shares, withheld = _spoken_of(shares, found.task, least_cases)
        note += withheld
        given = {"penalty": penalty} if method == "ridge" else {}
        results = _learned(found, shares, method, given, seed, place, progress)
    results = {
        "format": FORMAT,
        "version": __version__,
        "data": str(data),
        "method": method,
        "settings": {"penalty": penalty, "seed": seed, "skew": skew, "least_cases": least_cases},
        "task": {
            "name": found.task.name,
            "primary": found.task.primary,
            "classes": list(found.task.classes),
        },
        "sites_by": dealt_by,
        **results,
        "notes": [*found.notes, *note],
        "left_out": [asdict(x) for x in found.left_out],
    }
    from medspectrum.outcome import plain, write_left_out

    results = plain(results)
    store.write_json(place / "federation.json", results)
    write_left_out(place / "left_out.csv", results["left_out"])
    return results


@dataclass(frozen=True)
class _Prepared:
    """The cases as ``explore`` splits them, with the features of one encoder ready."""

    task: Task
    split: Split
    encoder: Any
    left_out: list[LeftOut]
    notes: list[str]


def _prepared(
    data: Path,
    layout: str | None,
    columns: Mapping[str, str],
    model: str,
    size: int | None,
    seed: int,
    folder: Path,
    progress: Progress,
) -> _Prepared:
    from medspectrum.audit import kept_together
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable
    from medspectrum.embedding import MAGNIFY, lacks, without
    from medspectrum.models import resolve

    read: CaseSet = load(data, layout=layout, cache=folder, **columns)
    facts = describe_cases(read, cache=folder, progress=progress.step("reading cases"))
    case_set, left_out = usable(read, facts)
    task: Task = registry.find("task", "classify").thing.of(case_set.cases)
    why = {c.id: task.lacking(c) for c in case_set.cases}
    left_out = [*left_out, *(LeftOut(name, reason) for name, reason in why.items() if reason)]
    labelled, _ = kept_together([keyed(c) for c in case_set.cases if not why[c.id]], facts["leaks"])
    split = make_split(labelled, seed=seed, stratum=task.stratum, strata=task.strata)
    images = [i for c in (*split.train, *split.val, *split.test) for i in task.seen(c)]
    encoder = resolve(model, size=size, cache=folder)
    if lacking := lacks(encoder):
        raise UserError(f"{model} cannot be used: {lacking}")
    encoder = encoder if size else encoder.for_images(images, magnify=MAGNIFY[task.level], largest=None)
    failed = encoder.ensure(images, progress=progress.step(f"embedding by {model}"), level=task.level)
    split = without(split, {f.source for f in failed}, task)
    return _Prepared(task, split, encoder, [*left_out, *split.left_out, *failed], list(split.notes))


def _shares(
    found: _Prepared, sites: int | None, by: str, skew: float | None, seed: int
) -> tuple[dict[str, list[Case]], str, list[str]]:
    """The training cases of each site, how they were dealt, and what has to be said of it."""
    from medspectrum.federate.dealing import dealt, sites_by_centre

    train: Sequence[Case] = found.split.train
    if by == "centre" and len({c.centre for c in train if c.centre}) > 1:
        if skew is not None:
            raise UserError("--skew deals patients; give it with --by patient")
        centres: dict[str, set[str | None]] = {}
        for case in train:
            centres.setdefault(case.patient, set()).add(case.centre)
        several = sum(len(own) > 1 for own in centres.values())
        said = f"{several} patients were seen at several centres; each is with the one of most of its cases"
        return sites_by_centre(train, sites), "centre", [said] if several else []
    return dealt(train, sites or 3, stratum=found.task.stratum, seed=seed, skew=skew), "patient", []


def _spoken_of(
    shares: dict[str, list[Case]], task: Task, least: int
) -> tuple[dict[str, list[Case]], list[str]]:
    """The cases that sites speak of, and what they withhold. Raises UserError where too little is left."""
    kept: dict[str, list[Case]] = {}
    notes: list[str] = []
    for name, cases in shares.items():
        counts = Counter(task.stratum(c) for c in cases)
        few = sorted(label for label, count in counts.items() if count < least)
        notes += [f"{name} says nothing of {label}: it holds {counts[label]} cases" for label in few]
        own = [c for c in cases if task.stratum(c) not in few]
        if own:
            kept[name] = own
    if len({task.stratum(c) for own in kept.values() for c in own}) < 2:
        raise UserError(f"no two classes are left of which sites hold {least} cases; lower --least-cases")
    return kept, notes


def _learned(
    found: _Prepared,
    shares: dict[str, list[Case]],
    method: str,
    settings: dict[str, Any],
    seed: int,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """The federation, all cases pooled, and each site alone, judged on the same test cases."""
    from medspectrum.federate.plans import Sent, in_one_process, plan_for
    from medspectrum.predictor import save_predictor

    task, model, test = found.task, found.encoder, found.split.test
    entry, plan = registry.find("method", method), plan_for(method)
    step = progress.step("learning")
    total = len(shares) + 2
    holdings = {name: holding_of(model, cases, task) for name, cases in shares.items()}
    sent: list[Sent] = []
    begun = time.process_time()
    *earlier, state = in_one_process(plan, holdings, {**settings, "seed": seed}, sent)
    seconds = time.process_time() - begun
    federated = entry.facts["restore"](model, *_in_order(plan.learned(state), task))
    step(1, total)
    pooled = entry.thing(model, found.split.train, task, seed=seed, **settings)
    step(2, total)
    answers = federated.predict(test)
    beside = pooled.predict(test)
    alone: dict[str, Any] = {}
    for number, (name, cases) in enumerate(shares.items()):
        own = entry.thing(model, cases, task, seed=seed, **settings)
        judged = task.score(own.predict(test), test)["scores"]
        alone[name] = {"score": judged[task.primary], "scores": judged, "cases": len(cases)} | {
            "patients": len({c.patient for c in cases}),
            "classes": sorted({task.stratum(c) for c in cases}),
        }
        step(3 + number, total)
    judged = {"pooled": task.score(beside, test)["scores"], "federated": task.score(answers, test)["scores"]}
    facts = {
        "method": method, "settings": settings, "model": model.card.name, "size": model.size[-1],
        "model_key": model.key, "task": task.name, "task_settings": task.settings(), "trial": "",
        "scores": judged["federated"], "labels": len(found.split.train), "licence": model.card.licence,
    }  # fmt: skip
    save_predictor(out / "predictor", federated, facts)
    _write_messages(out / "messages.csv", sent)
    task.write(answers, test, out / "predictions.csv")
    value, low, high = task.difference(answers, beside, test)
    return {
        "model": {"name": model.card.name, "size": list(model.size), "key": model.key},
        "pooled": judged["pooled"][task.primary],
        "federated": judged["federated"][task.primary],
        "difference": {"value": value, "low": low, "high": high},
        "scores": judged,
        "largest_difference": float(abs(answers - beside).max()),
        "alone": alone,
        "split": found.split.counts(),
        "rounds": len(plan.rounds),
        "exchanges": len(earlier) + 1,
        "bytes_sent": sum(s.packet.bytes for s in sent),
        "bytes_by_site": {n: sum(s.packet.bytes for s in sent if s.site == n) for n in shares},
        "cpu_seconds": seconds,
        "predictor": str(out / "predictor"),
    }


def holding_of(model: Any, cases: Sequence[Case], task: Task) -> Any:
    """A site's features, classes and patients."""
    from medspectrum.federate.packet import Holding
    from medspectrum.methods._features import case_features

    return Holding(
        case_features(model, cases),
        tuple(task.stratum(c) for c in cases),
        tuple(c.patient for c in cases),
        model.key,
    )


def _in_order(learned: tuple[dict[str, Any], dict[str, Any]], task: Task) -> tuple[Any, Any]:
    """What was learned with all classes of the task, of which the sites may hold some."""
    import numpy as np

    arrays, settings = learned
    place = {label: i for i, label in enumerate(task.classes)}
    present = np.array([place[label] for label in settings["classes"]])
    return {**arrays, "present": present}, {**settings, "classes": list(task.classes)}


def _write_messages(path: Path, sent: Sequence[Any]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["site", "direction", "purpose", "arrays", "bytes"])
    for one in sent:
        writer.writerow([one.site, one.direction, one.packet.purpose, one.packet.shapes(), one.packet.bytes])
    store.write_bytes(path, text.getvalue().encode())

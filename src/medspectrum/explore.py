"""The main job: try models x methods x label budgets on a user's own cases, weigh effort against efficacy."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from medspectrum import __version__, registry, several, store
from medspectrum.audit import audit_cases, kept_together
from medspectrum.budgets import PARTS, Split, make_split, nested_budgets
from medspectrum.case import CaseSet, LeftOut, Task, keyed
from medspectrum.configs import configs_for
from medspectrum.embedding import embed, encoders_for, look, without
from medspectrum.errors import UserError
from medspectrum.outcome import write_outcome
from medspectrum.plan import Plan, make_plan
from medspectrum.progress import Progress, progress_for
from medspectrum.runner import Runner, run_here, run_on_dask
from medspectrum.scan import scan
from medspectrum.schedule import Dropped, run_schedule
from medspectrum.spent import Spent
from medspectrum.synthetic import added, synthetic_cases
from medspectrum.trial import Trial

FORMAT = 1


def explore(
    data: Path,
    *,
    out: Path,
    layout: str | None = None,
    task: str = "classify",
    models: str = "",
    methods: str = "",
    budgets: str = "1,2,5,10,20,50,full",
    draws: int = 5,
    seed: int = 0,
    size: int | None = None,
    budget_minutes: float = 30.0,
    max_memory_gb: float | None = None,
    commercial_use: bool = False,
    plan: Path | None = None,
    workers: int = 0,
    cluster: str | None = None,
    threads: int | None = None,
    allow_leak: bool = False,
    accept: str = "",
    explained: int = 4,
    synthetic: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    reader: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Find the best trade-off of effort and efficacy over models, methods and label budgets.

    data: folder, table or archive of cases; see ``medspectrum datasets`` for what is understood.
    out: folder for results.json, results.parquet, report.html and the recommended predictor.
    layout: name of the data's layout where it is not recognised by itself.
    task: what is asked of the cases; several, separated by commas, share one pass of each encoder.
    models: names separated by commas; all that fit the data and are here, where empty.
    methods: names separated by commas; all where empty.
    budgets: cases per class that are labelled, separated by commas, and 'full'.
    draws: how many labelled sets are drawn for each budget.
    seed: where every random choice starts.
    size: pixels per side that models see; chosen from the images where not given.
    budget_minutes: time limit, under which bad combinations are dropped early; 0 for none.
    max_memory_gb: leave out what needs more memory than this.
    commercial_use: only models whose licence allows commercial use.
    plan: TOML file of settings and lists, e.g. lora.rank = [4, 8]; what is given here comes first.
    workers: run trials in so many processes on this machine, by Dask.
    cluster: run trials on the Dask scheduler at this address, e.g. tcp://host:8786.
    threads: processor threads of each fit; all cores where not given. Part of what numbers depend on.
    allow_leak: accept a given split in which patients stand on several sides.
    accept: names of the audit's findings, separated by commas, that are known and accepted; see ``audit``.
    explained: test cases whose answers the report explains, in seconds of processor time; 0 for none.
    synthetic: folder that ``synthesise`` wrote to: its pictures are added to training sets alone (classify).
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class, or a column for each of several readers, separated by commas (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    reader: column with the reader, where an image has a row for each of them (tables).
    cache: folder for features and finished trials, shared between runs.
    quiet: show no progress.

    Returns the content of results.json. Raises UserError for input that cannot be used.
    """
    settings = make_plan(
        plan,
        {name: value for name, value in locals().items() if name in Plan.__dataclass_fields__},
    )
    started = time.monotonic()
    folder = store.cache_folder(cache)
    with progress_for(quiet=quiet) as progress:
        read = _cases(Path(data), settings, folder, progress)
        run = _explore if len(settings.tasks) == 1 else _together
        return run(read, Path(data), Path(out), settings, folder, progress, started)


Read = tuple[CaseSet, dict[str, Any], list[LeftOut]]
"""The cases that can be read, what is in the data, and what was left out."""


def _together(
    read: Read, data: Path, out: Path, plan: Plan, folder: Path, progress: Progress, started: float
) -> dict[str, Any]:
    """Each picture goes through each encoder once; then one exploration per task finds the features there."""
    plans = several.plans(plan)
    case_set, facts, _ = read
    tasks = {own.task: registry.find("task", own.task).thing.of(case_set.cases) for own in plans}
    # a task that cuts its images into tiles of its own has nothing to share
    alike = [task for task in tasks.values() if not getattr(task, "side", 0)]
    judged = [(task, c) for task in alike for c in case_set.cases if not task.lacking(c)]
    images = list({image.key(): image for task, c in judged for image in task.seen(c)}.values())
    level = several.levels(alike)
    spent = Spent(out / "progress.json", plan, started)
    encoders: dict[str, Any] = {}
    skipped: list[Dropped] = []
    if alike:
        encoders, skipped = encoders_for(plans[-1], facts, images, folder, alike)
        embed(encoders, images, level, progress, spent, skipped)
    shared = (time.monotonic() - started) / len(plans)
    results = {
        own.task: _explore(
            read,
            data,
            out / own.task,
            own,
            folder,
            progress,
            time.monotonic() - shared,
            task=tasks[own.task],
            encoders=dict(encoders) if tasks[own.task] in alike else None,
        )
        for own in plans
    }
    embedding = {
        "level": level,
        "images": len(images),
        "seconds": spent.embedding,
        "encoders": {n: {"size": list(e.size), "passes": e.passes(level)} for n, e in encoders.items()},
        "dropped": [asdict(d) for d in skipped],
    }
    return several.write(out, plan, data, results, embedding)


def _cases(data: Path, plan: Plan, folder: Path, progress: Progress) -> Read:
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable

    case_set = load(data, layout=plan.layout, cache=folder, **plan.columns())
    seen = scan(case_set, cache=folder, progress=progress.step("reading cases"))
    facts = describe_cases(case_set, cache=folder, seen=seen)
    scanned = case_set, seen
    case_set, left_out = usable(case_set, facts)
    facts["audit"] = audit_cases(case_set, facts, data, scanned, accept=plan.accept, seed=plan.seed)
    return case_set, facts, left_out


def _explore(
    read: Read,
    data: Path,
    out: Path,
    plan: Plan,
    folder: Path,
    progress: Progress,
    started: float,
    *,
    task: Task | None = None,
    encoders: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One task, made here where not given. encoders: those that have seen the images; as the task."""
    case_set, facts, left_out = read[0], read[1], list(read[2])
    asked = registry.find("task", plan.task)
    task = task or cast("Task", asked.thing.of(case_set.cases))
    why = {c.id: task.lacking(c) for c in case_set.cases}
    left_out.extend(LeftOut(name, reason) for name, reason in why.items() if reason)
    labelled, joined = kept_together([keyed(c) for c in case_set.cases if not why[c.id]], facts["leaks"])
    split = make_split(
        labelled,
        seed=plan.seed,
        allow_leak=plan.allow_leak or "patients-across-parts" in plan.accept,
        stratum=task.stratum,
        strata=task.strata,
    )
    left_out.extend(split.left_out)
    counts, notes = split.counts(), list(split.notes)
    if joined:
        notes.append(f"{joined} patients share pictures or names with others and are kept together with them")
    split = _arranged(split, asked.facts.get("arrange"), task, plan.seed)
    spent = Spent(out / "progress.json", plan, started)
    encoders, skipped, failed = look(plan, facts, split, task, folder, progress, spent, encoders)
    left_out.extend(failed)
    split = without(split, {f.source for f in failed}, task)
    budgets = asked.facts.get("budgets", plan.budgets)
    if budgets != plan.budgets:
        notes.append(f"nothing is learned from labels in the task {plan.task}: only the full budget is tried")
    chain = nested_budgets(split.train, budgets, draws=plan.draws, seed=plan.seed, stratum=task.stratum)
    if plan.synthetic is not None and plan.task == "classify":
        made, told = synthetic_cases(Path(plan.synthetic), task, split, folder)
        failed = embed(
            encoders, [i for c in made for i in task.seen(c)], task.level, progress, spent, skipped
        )
        lost = {f.source for f in failed}
        left_out.extend(failed)
        chain = added(chain, [c for c in made if not any(i.source in lost for i in task.seen(c))], task)
        notes.append(told)
    runner = Runner(
        split, {(b.name, b.draw): b for b in chain}, task, folder, plan.threads or os.cpu_count() or 1
    )
    for name, encoder in encoders.items():
        runner.use(name, encoder.size[-1], encoder)
    configs = configs_for(plan, encoders, skipped, task.level, len(split.val) + len(split.test))
    with _executor(runner, plan, progress, skipped, spent, total=len(configs) * len(chain)) as execute:
        records, dropped = run_schedule(
            configs,
            chain,
            execute,
            seed=plan.seed,
            primary=task.primary,
            remaining=spent.remaining if plan.budget_minutes else None,
        )
    results = {
        "format": FORMAT,
        "version": __version__,
        "task": {"name": task.name, "primary": task.primary, "classes": list(task.classes)},
        "data": facts,
        "split": counts,
        "notes": notes,
        "settings": plan.as_dict(),
        "machine": machine(),
        "dropped": [asdict(d) for d in (*skipped, *dropped)],
        "left_out": [asdict(x) for x in left_out],
        "repeat": plan.command(data, out),
        "seconds": {
            "total": time.monotonic() - started,
            "embedding": spent.embedding,
            "trials": spent.trials,
        },
    }
    return write_outcome(out, results, records, split, task, runner, progress)


def _arranged(split: Split, arrange: Any, task: Task, seed: int) -> Split:
    """The split's parts as the task judges them: pairs of cases, for a registration."""
    if arrange is None:
        return split
    made = {part: tuple(arrange(task, getattr(split, part), seed=seed)) for part in PARTS}
    return replace(split, **made)


@contextmanager
def _executor(
    runner: Runner, plan: Plan, progress: Progress, skipped: list[Dropped], spent: Spent, *, total: int
) -> Iterator[Callable[..., Iterator[dict[str, Any]]]]:
    """Trials run here, or on Dask where asked; each is counted, shown and timed."""

    def failed(trial: Trial, error: Exception) -> None:
        skipped.append(Dropped(trial.model, trial.method, f"failed on {trial.budget}: {error}"))

    step = progress.step("trials")
    done = 0

    def counted(execute: Callable[..., Iterator[dict[str, Any]]]) -> Callable[..., Iterator[dict[str, Any]]]:
        def run(queue: Any) -> Iterator[dict[str, Any]]:
            nonlocal done
            for record in execute(queue):
                done += 1
                spent.trials += record["spent_seconds"]
                step(done, max(total, done))
                if spent.limited:
                    spent.save()
                yield record

        return run

    if not plan.workers and not plan.cluster:
        yield counted(run_here(runner, failed))
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError('--workers and --cluster need Dask: pip install "medspectrum[cluster]"') from None
    if plan.cluster:
        with Client(plan.cluster) as client:
            yield counted(run_on_dask(runner, client, failed))
    else:
        with (
            LocalCluster(n_workers=plan.workers, threads_per_worker=1, dashboard_address=":0") as local,
            Client(local) as client,
        ):
            yield counted(run_on_dask(runner, client, failed))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    import psutil

    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "timm", "openvino", "numpy", "scikit-learn")},
    }

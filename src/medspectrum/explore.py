"""The main job: try models x methods x label budgets on a user's own cases, weigh effort against efficacy."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum import __version__, registry, several, store
from medspectrum.budgets import PARTS, Split, make_split, nested_budgets
from medspectrum.case import Case, CaseSet, LazyImage, LeftOut, Task
from medspectrum.errors import UserError
from medspectrum.outcome import write_outcome
from medspectrum.plan import Plan, make_plan, methods_for
from medspectrum.predictor import NO_MODEL
from medspectrum.progress import Progress, progress_for
from medspectrum.runner import Runner, run_here, run_on_dask
from medspectrum.schedule import Config, Dropped, run_schedule, settings_grid
from medspectrum.suitable import TWIN, suitable_models
from medspectrum.trial import Trial

PROBE = 128  # images embedded to see how fast a model is here; fewer would mostly time its start
EMBEDDING_SHARE = 0.7  # of the time left, at most, goes to embedding by one more model,
CONTROL_SHARE = 0.3  # or by one more control
FORMAT = 1
LARGEST = {"detect": 448}
"""Pixels per side at most, where a task wants more than models were trained on: things to find are small."""
MAGNIFY = {"pooled": 4.0, "maps": 2.5}
"""How much small images are enlarged before they are embedded: maps of many planes take much room."""


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
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
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
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    cache: folder for features and finished trials, shared between runs.
    quiet: show no progress.

    Returns the content of results.json. Raises UserError for input that cannot be used.
    """
    settings = make_plan(
        plan,
        {name: value for name, value in locals().items() if name in Plan.__dataclass_fields__},
    )
    started = time.monotonic()
    run = _explore if len(settings.tasks) == 1 else _together
    with progress_for(quiet=quiet) as progress:
        return run(Path(data), Path(out), settings, store.cache_folder(cache), progress, started)


def _together(
    data: Path, out: Path, plan: Plan, folder: Path, progress: Progress, started: float
) -> dict[str, Any]:
    """Each picture goes through each encoder once; then one exploration per task finds the features there."""
    plans = several.plans(plan)
    case_set, facts, _ = _cases(data, plan, folder, progress)
    tasks = [registry.find("task", own.task).thing.of(case_set.cases) for own in plans]
    judged = [(task, c) for task in tasks for c in case_set.cases if not task.lacking(c)]
    images = list({image.key(): image for task, c in judged for image in task.seen(c)}.values())
    level = several.levels(tasks)
    encoders, skipped = _encoders(plans[-1], facts, images, folder, min(MAGNIFY[t.level] for t in tasks))
    spent = _Spent(out / "progress.json", plan, started)
    _embed(encoders, images, level, progress, spent, skipped)
    shared = (time.monotonic() - started) / len(plans)
    results = {
        own.task: _explore(
            data,
            out / own.task,
            own,
            folder,
            progress,
            time.monotonic() - shared,
            encoders=dict(encoders),
        )
        for own in plans
    }
    embedding = {
        "level": level,
        "images": len(images),
        "seconds": spent.embedding,
        "encoders": {n: {"size": list(e.size), "passes": e.passes(level)} for n, e in encoders.items()},
    }
    return several.write(out, plan, data, results, embedding)


def _cases(
    data: Path, plan: Plan, folder: Path, progress: Progress
) -> tuple[CaseSet, dict[str, Any], list[LeftOut]]:
    """The cases that can be read, what is in the data, and what was left out."""
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable

    case_set = load(data, layout=plan.layout, cache=folder, **plan.columns())
    facts = describe_cases(case_set, cache=folder, progress=progress.step("reading cases"))
    case_set, left_out = usable(case_set, facts)
    return case_set, facts, left_out


def _explore(
    data: Path,
    out: Path,
    plan: Plan,
    folder: Path,
    progress: Progress,
    started: float,
    *,
    encoders: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One task. encoders: those that have seen the images already; chosen here where not given."""
    case_set, facts, left_out = _cases(data, plan, folder, progress)
    asked = registry.find("task", plan.task)
    task: Task = asked.thing.of(case_set.cases)
    why = {c.id: task.lacking(c) for c in case_set.cases}
    left_out.extend(LeftOut(name, reason) for name, reason in why.items() if reason)
    split = make_split(
        [_keyed(c) for c in case_set.cases if not why[c.id]],
        seed=plan.seed,
        allow_leak=plan.allow_leak,
        stratum=task.stratum,
        strata=task.strata,
    )
    left_out.extend(split.left_out)
    counts, notes = split.counts(), list(split.notes)
    split = _arranged(split, asked.facts.get("arrange"), task, plan.seed)
    spent = _Spent(out / "progress.json", plan, started)
    encoders, skipped, failed = _seen(plan, facts, split, task, folder, progress, spent, encoders)
    left_out.extend(failed)
    split = _without(split, {f.source for f in failed}, task)
    budgets = asked.facts.get("budgets", plan.budgets)
    if budgets != plan.budgets:
        notes.append(f"nothing is learned from labels in the task {plan.task}: only the full budget is tried")
    chain = nested_budgets(split.train, budgets, draws=plan.draws, seed=plan.seed, stratum=task.stratum)
    runner = Runner(
        split, {(b.name, b.draw): b for b in chain}, task, folder, plan.threads or os.cpu_count() or 1
    )
    for name, encoder in encoders.items():
        runner.use(name, encoder.size[-1], encoder)
    configs = _configs(plan, encoders, skipped, task.level, len(split.val) + len(split.test))
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


def _keyed(case: Case) -> Case:
    """The case with its images' digests taken once: every trial asks for them."""
    images = {role: replace(image, key=partial(str, image.key())) for role, image in case.images.items()}
    return replace(case, images=images)


def _arranged(split: Split, arrange: Any, task: Task, seed: int) -> Split:
    """The split's parts as the task judges them: pairs of cases, for a registration."""
    if arrange is None:
        return split
    made = {part: tuple(arrange(task, getattr(split, part), seed=seed)) for part in PARTS}
    return replace(split, **made)


def _seen(
    plan: Plan,
    facts: dict[str, Any],
    split: Split,
    task: Task,
    cache: Path,
    progress: Progress,
    spent: _Spent,
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
        magnify, side = MAGNIFY[task.level], getattr(task, "side", 0)
        encoders, skipped = _encoders(plan, facts, images, cache, magnify, side)
    return encoders, skipped, _embed(encoders, images, task.level, progress, spent, skipped)


def _encoders(
    plan: Plan,
    facts: dict[str, Any],
    images: Sequence[LazyImage],
    cache: Path,
    magnify: float,
    side: int = 0,
) -> tuple[dict[str, Any], list[Dropped]]:
    """The models to try, cheap first, each with its random twin; and those left aside with the reason."""
    from medspectrum.models import resolve

    names, reasons = suitable_models(plan, facts)
    skipped = [Dropped(name, "", why) for name, why in reasons.items()]
    encoders: dict[str, Any] = {}
    for name in names:
        asked = plan.size or side or None  # a task that cuts its images knows what they are to be seen at
        encoder = resolve(name, size=asked, cache=cache)
        lacking = encoder.lacking() if encoder.seed is None and encoder.lacking is not None else ""
        if lacking:
            skipped.append(Dropped(name, "", lacking))
            continue
        encoders[name] = (
            encoder if asked else encoder.for_images(images, magnify=magnify, largest=LARGEST.get(plan.task))
        )
    if not encoders:
        told = "; ".join(f"{d.model}: {d.reason}" for d in skipped) or "none is registered"
        raise UserError(f"no model can be used on these data ({told}); see medspectrum doctor")
    return dict(sorted(encoders.items(), key=lambda pair: _rank(pair[1]))), skipped


def _rank(encoder: Any) -> tuple[bool, float, str]:
    return encoder.card.level == "control", encoder.card.parameters, encoder.card.name


def _embed(
    encoders: dict[str, Any],
    images: Sequence[LazyImage],
    level: str,
    progress: Progress,
    spent: _Spent,
    skipped: list[Dropped],
) -> list[LeftOut]:
    """Compute what features are missing, model by model; a model that would eat the time is left aside."""
    failed: dict[str, LeftOut] = {}
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


def _without(split: Split, sources: set[str], task: Task) -> Split:
    """The split less the cases one of whose images could not be embedded."""
    if not sources:
        return split

    def keep(cases: Sequence[Case]) -> tuple[Case, ...]:
        return tuple(c for c in cases if not any(i.source in sources for i in task.seen(c)))

    return replace(split, train=keep(split.train), val=keep(split.val), test=keep(split.test))


def _configs(
    plan: Plan, encoders: dict[str, Any], skipped: list[Dropped], level: str, judged: int
) -> list[Config]:
    """Every combination of model, method and settings that makes sense; ``judged`` cases are predicted."""
    names = plan.methods or methods_for(plan.task)
    configs = []
    for method in (registry.find("method", name) for name in names):
        why = method.facts["available"]() if "available" in method.facts else ""
        if why:
            skipped.append(Dropped("", method.name, why))
            continue
        given = plan.method_settings.get(method.name, {})
        why = _not_offered(method, given, plan)
        if why:
            skipped.append(Dropped("", method.name, why))
            continue
        for settings in settings_grid(given):
            if not method.facts.get("needs_model", True):
                configs.append(Config(NO_MODEL, None, method, settings, True, 0.0))
                continue
            for name, encoder in encoders.items():
                control = encoder.card.level == "control"
                if method.facts.get("trains") not in ("head", "nothing"):
                    if control:  # a random twin trained whole is 'scratch', which has a row of its own
                        continue
                    why = _too_large(encoder, plan)
                    if why or encoder.card.dims == 3:
                        skipped.append(
                            Dropped(name, method.name, why or "tuning serves 2-D networks only so far")
                        )
                        continue
                configs.append(
                    Config(
                        name,
                        encoder.size[-1],
                        method,
                        settings,
                        control,
                        float(encoder.card.parameters),
                        encoder.seconds_per_image(level)[0],
                        judged,
                    )
                )
    return configs


def _not_offered(method: registry.Entry, given: Mapping[str, Any], plan: Plan) -> str:
    """Why a method that brings weights of the user's own is left aside, or ''."""
    lacking = [name for name in method.facts.get("needs", ()) if name not in given]
    if lacking:
        return f"needs {', '.join(lacking)}: say it in a plan's table [{method.name}]"
    if plan.commercial_use and not method.facts.get("commercial_use", True):
        return f"its licence ({method.facts['licence']}) is not known to allow commercial use"
    return ""


def _too_large(encoder: Any, plan: Plan) -> str:
    """Why training breaks the memory limit, or ''. Weights, gradients and two moments: 16 bytes."""
    if plan.max_memory_gb is None:
        return ""
    needed = 1.5 + 16 * encoder.card.parameters / 1e9
    if needed <= plan.max_memory_gb:
        return ""
    return f"training needs about {needed:.1f} GB, the limit is {plan.max_memory_gb:g} GB"


class _Spent:
    """Time used by this run so far, carried over a restart in the same folder."""

    def __init__(self, path: Path, plan: Plan, started: float) -> None:
        self.path, self.started = path, started
        self.limited = bool(plan.budget_minutes)
        self.allowed = 60.0 * plan.budget_minutes
        self.plan = plan.digest()
        self.embedding = self.trials = self.before = 0.0
        if path.is_file():
            kept = store.read_json(path)
            if kept.get("plan") == self.plan and not kept.get("finished"):
                self.before = min(float(kept["seconds"]), self.allowed)

    def total(self) -> float:
        return self.before + time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds left under the limit."""
        return self.allowed - self.total()

    def save(self, *, finished: bool = False) -> None:
        store.write_json(self.path, {"plan": self.plan, "seconds": self.total(), "finished": finished})


@contextmanager
def _executor(
    runner: Runner, plan: Plan, progress: Progress, skipped: list[Dropped], spent: _Spent, *, total: int
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

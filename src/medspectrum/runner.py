"""Runs trials, here or on a Dask cluster, with the same numbers: each is named by content and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medspectrum import trial as trials
from medspectrum.budgets import Budget, Split
from medspectrum.case import Model, Task
from medspectrum.engine.threads import blas_libraries
from medspectrum.errors import UserError
from medspectrum.predictor import NO_MODEL
from medspectrum.trial import Parts, Trial

Record = dict[str, Any]


@dataclass
class Runner:
    """Everything a trial needs, in a form that travels to another process.

    threads: processor threads of every fit; part of the plan, since sums in another order round otherwise.
    """

    split: Split
    budgets: Mapping[tuple[str, int], Budget]
    task: Task
    cache: Path
    threads: int
    _models: dict[tuple[str, int | None], Model] = field(default_factory=dict)
    _digests: dict[Any, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_models": {}}

    def use(self, name: str, size: int | None, model: Model) -> None:
        """Give a model that is loaded already."""
        self._models[name, size] = model

    def model(self, name: str, size: int | None) -> Model | None:
        """The model of that name, loaded once per process; None for methods that need none."""
        if name == NO_MODEL:
            return None
        if (name, size) not in self._models:
            from medspectrum.models import resolve

            self._models[name, size] = resolve(name, size=size, cache=self.cache)
        return self._models[name, size]

    def identity(self, trial: Trial) -> str:
        """The trial's id: a digest of everything that decides its numbers."""
        model = self.model(trial.model, trial.size)
        labelled = self._digest(
            ("labelled", trial.budget, trial.draw), self.budgets[trial.budget, trial.draw].cases
        )
        judged = self._digest("judged", (*self.split.val, *self.split.test))
        seed = [trial.seed, self.threads]
        return trials.trial_id(
            trial, model.key if model else "", labelled, f"{judged}{seed}", self.task.classes
        )

    def _digest(self, name: Any, cases: Iterable[Any]) -> str:
        if name not in self._digests:
            self._digests[name] = trials.case_digest(list(cases), self.task)
        return self._digests[name]

    def folder(self, identity: str) -> Path:
        """Where a trial keeps its record, predictions and predictor."""
        return self.cache / "trials" / identity[:2] / identity

    def finished(self, trial: Trial) -> Record | None:
        """The trial's record where it was run before, named as it is asked for now."""
        record = trials.finished(self.folder(self.identity(trial)))
        if record is not None:
            record.update(
                model=trial.model, budget=trial.budget, draw=trial.draw, size=trial.size, method=trial.method
            )
        return record

    def run(self, trial: Trial) -> Record:
        """Run one trial, or give its kept record."""
        known = self.finished(trial)
        if known is not None:
            return known
        identity = self.identity(trial)
        parts = Parts(self.budgets[trial.budget, trial.draw].cases, self.split.val, self.split.test)
        with fixed_threads(self.threads):
            return trials.run_trial(
                trial, identity, self.model(trial.model, trial.size), parts, self.task, self.folder(identity)
            )


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run numerical libraries with a fixed number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with blas_libraries().limit(limits=threads):
            yield
    finally:
        torch.set_num_threads(before)


def run_here(
    runner: Runner, on_failure: Callable[[Trial, Exception], None]
) -> Callable[[Iterable[Trial]], Iterator[Record]]:
    """Execute trials one after the other in this process; one that fails is told and left out."""

    def execute(queue: Iterable[Trial]) -> Iterator[Record]:
        for trial in queue:
            try:
                yield runner.run(trial)
            except (UserError, ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
                on_failure(trial, error)

    return execute


def run_on_dask(
    runner: Runner, client: Any, on_failure: Callable[[Trial, Exception], None]
) -> Callable[[Iterable[Trial]], Iterator[Record]]:
    """Execute trials on a Dask cluster whose workers see the same cache and data folders.

    A few more trials than there are workers are under way, so that a time limit still bites.
    """
    from distributed import as_completed

    shared = client.scatter(runner, broadcast=True, hash=False)

    def execute(queue: Iterable[Trial]) -> Iterator[Record]:
        waiting = iter(queue)
        ahead = 2 * max(1, sum(client.nthreads().values()))
        running: dict[Any, Trial] = {}
        finished = as_completed(with_results=False, raise_errors=False)

        def submit_next() -> bool:
            for trial in waiting:
                known = runner.finished(trial)
                if known is not None:
                    kept.append(known)
                    continue
                future = client.submit(_run, shared, trial, pure=False, retries=2)
                running[future] = trial
                finished.add(future)
                return True
            return False

        kept: list[Record] = []
        while len(running) < ahead and submit_next():
            pass
        yield from kept
        kept.clear()
        while running:
            future = next(finished)
            trial = running.pop(future)
            error = future.exception()
            if error is None:
                yield future.result()
            else:
                on_failure(trial, error)
            submit_next()
            yield from kept
            kept.clear()

    return execute


_here: dict[int, Runner] = {}


def _run(runner: Runner, trial: Trial) -> Record:
    # The scattered runner is unpickled once per worker and task graph; keep one, with its loaded models.
    kept = _here.setdefault(id(runner), runner)
    return kept.run(trial)

"""Which trials are run, in which order: cheap first; under a time limit the bad ones are dropped early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from medspectrum.budgets import FULL, Budget
from medspectrum.recommend import chosen_on
from medspectrum.registry import Entry
from medspectrum.trial import Trial

Record = Mapping[str, Any]
Execute = Callable[[Iterable[Trial]], Iterator[Record]]
TUNED_COST = 2  # methods of this cost and above train network parameters
BACKWARD_COST = 3  # a step forwards and backwards, in passes forwards
HEAD_SECONDS = 0.03  # a first guess of one picture's way through a decoder or detector on frozen maps
FIRST_RUNG = 5  # below five cases per class, tuning says little about tuning on more


@dataclass(frozen=True)
class Config:
    """A model with a method and its settings.

    rank: the order in which models are tried. image_seconds: what one image costs this model to see.
    judged: cases that a trial predicts, whatever it learned from.
    """

    model: str
    size: int | None
    method: Entry
    settings: Mapping[str, Any]
    control: bool
    rank: float
    image_seconds: float = 0.0
    judged: int = 0

    @property
    def tuned(self) -> bool:
        """True where network parameters are trained, which costs minutes, not milliseconds."""
        return self.method.facts.get("cost", 0) >= TUNED_COST

    @property
    def name(self) -> tuple[str, str, str]:
        """What a record of this configuration carries."""
        return self.model, self.method.name, str(sorted(self.settings.items()))

    def pictures_seen(self, labels: int) -> int:
        """Pictures that training on so many labels looks at, over all of its steps."""
        seen = self.method.facts.get("pictures_seen")
        return seen(labels, self.settings) if seen is not None else labels

    def trial(self, budget: Budget, seed: int) -> Trial:
        """The configuration on one labelled set; every draw has its own seed."""
        return Trial(
            self.model,
            self.size,
            self.method.name,
            self.settings,
            budget.name,
            budget.draw,
            seed + budget.draw,
        )


@dataclass(frozen=True)
class Dropped:
    """A configuration that was not carried further, and why."""

    model: str
    method: str
    reason: str


def settings_grid(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``{"rank": [4, 8]}`` to every combination; a single value is a list of one."""
    columns = [[(k, v) for v in (vs if isinstance(vs, list) else [vs])] for k, vs in lists.items()]
    return [dict(row) for row in product(*columns)]


def cheap_first(configs: Sequence[Config], budgets: Sequence[Budget], seed: int) -> list[Trial]:
    """Every trial: by method's cost, then real before control, models by rank, small budgets first."""
    ranked = sorted(
        ((config, i) for config in configs for i in range(len(budgets))),
        key=lambda pair: (
            pair[0].method.facts.get("cost", 0),
            pair[0].control,
            pair[0].rank,
            pair[0].method.name,
            pair[1],
        ),
    )
    return [config.trial(budgets[i], seed) for config, i in ranked]


def run_schedule(
    configs: Sequence[Config],
    budgets: Sequence[Budget],
    execute: Execute,
    *,
    seed: int,
    primary: str,
    remaining: Callable[[], float] | None = None,
) -> tuple[list[Record], list[Dropped]]:
    """Run the trials. Without a limit all of them; with one, successive halving of the dear methods.

    ``remaining`` gives the seconds left. Cheap methods are run everywhere first, beginning with the largest
    labelled set, which decides. Then every dear configuration is tried on the smallest rung; the better half
    (by validation) goes to the next, up to the full budget; what time is left fills in further draws and
    budgets of the survivors.
    Source: Jamieson & Talwalkar 2016, successive halving, with the number of labels as the resource.
    """
    if remaining is None:
        return list(execute(cheap_first(configs, budgets, seed))), []
    clock = _Clock(remaining)
    light = [c for c in configs if not c.tuned]
    rungs = _rungs(budgets)
    # the largest labelled set decides, so no method may miss its turn there to another one's learning curve
    deciding = rungs[-1:]
    others = [b for b in budgets if b not in deciding]
    queue = [*cheap_first(light, deciding, seed), *cheap_first(light, others, seed)]
    records = list(execute(_while_time(queue, remaining)))
    dropped: list[Dropped] = []
    alive = [c for c in configs if c.tuned]
    for index, rung in enumerate(rungs):
        affordable = []
        for config in sorted(alive, key=lambda c: (c.rank, c.method.facts.get("cost", 0), c.method.name)):
            expected = clock.expects(config, len(rung.cases))
            if expected > remaining():
                dropped.append(_out_of_time(config, rung, expected, remaining()))
                continue
            for record in execute([config.trial(rung, seed)]):
                clock.learn(config, record)
                records.append(record)
                affordable.append((chosen_on(record, primary), config))
        affordable.sort(key=lambda pair: -pair[0])
        keep = len(affordable) if index == len(rungs) - 1 else max(1, (len(affordable) + 1) // 2)
        for _, config in affordable[keep:]:
            dropped.append(Dropped(config.model, config.method.name, f"in the worse half at {_spoken(rung)}"))
        alive = [config for _, config in affordable[:keep]]
    done = {(r["model"], r["method"], r["budget"], r["draw"]) for r in records}
    for config in alive:
        for budget in budgets:
            if (config.model, config.method.name, budget.name, budget.draw) in done:
                continue
            if clock.expects(config, len(budget.cases)) > remaining():
                continue
            for record in execute([config.trial(budget, seed)]):
                clock.learn(config, record)
                records.append(record)
    return records, dropped


class _Clock:
    """Expects what a trial will take from what its like took: training goes with the pictures seen, the
    rest (preparing, predicting) stays the same.
    """

    def __init__(self, remaining: Callable[[], float]) -> None:
        self.remaining = remaining
        self.seen: dict[tuple[str, str, str], list[tuple[int, float, float]]] = {}

    def learn(self, config: Config, record: Record) -> None:
        fitting = record["effort"]["fitting"]["wall_seconds"]
        row = record["labels"], fitting, record["spent_seconds"] - fitting
        self.seen.setdefault(config.name, []).append(row)

    def expects(self, config: Config, labels: int) -> float:
        seen = self.seen.get(config.name)
        if not seen:
            passes = BACKWARD_COST * config.pictures_seen(labels) + config.judged
            frozen = config.method.facts.get("trains") == "head"  # the network has seen the pictures before
            return passes * (HEAD_SECONDS if frozen else config.image_seconds)
        most, fitting, rest = max(seen)
        return rest + fitting * max(1.0, config.pictures_seen(labels) / config.pictures_seen(most))


def _while_time(trials: Iterable[Trial], remaining: Callable[[], float]) -> Iterator[Trial]:
    for trial in trials:
        if remaining() <= 0:
            return
        yield trial


def _rungs(budgets: Sequence[Budget]) -> list[Budget]:
    """Every second budget from FIRST_RUNG up, first draw only, and always the largest."""
    first = [b for b in budgets if b.draw == 0]
    if not first:
        return []
    numbered = [b for b in first[:-1] if b.name != FULL and int(b.name) >= FIRST_RUNG]
    return [*numbered[::2], first[-1]]


def _spoken(budget: Budget) -> str:
    return "the full budget" if budget.name == FULL else f"the budget of {budget.name}"


def _out_of_time(config: Config, rung: Budget, expected: float, left: float) -> Dropped:
    return Dropped(
        config.model,
        config.method.name,
        f"{_spoken(rung)} would take about {expected:.0f} s, {max(left, 0):.0f} s were left",
    )

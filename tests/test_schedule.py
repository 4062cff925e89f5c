"""Which trials a time limit leaves: cheap ones all, dear ones as long as they are expected to fit."""

from __future__ import annotations

import pytest

from medspectrum.budgets import Budget
from medspectrum.case import Case, ClassTarget
from medspectrum.registry import Entry
from medspectrum.schedule import Config, run_schedule

PREDICTING = 8.0
FREE = ("knn", "probe", "ridge")


def budget(name: str, cases: int) -> Budget:
    return Budget(name, 0, tuple(Case(f"{name}-{i}", str(i), {}, ClassTarget("a")) for i in range(cases)))


CHAIN = [budget("1", 2), budget("5", 10), budget("10", 20), budget("20", 40), budget("full", 1000)]


def pictures_seen(labels: int, _: object = None) -> int:
    """Thirty steps on few labels, four passes over many: as tuning does."""
    return max(30 * min(labels, 32), 4 * labels)


def config(name: str, cost: int, *, image_seconds: float = 0.001, trains: str = "part") -> Config:
    entry = Entry(name, lambda: None, {"cost": cost, "pictures_seen": pictures_seen, "trains": trains})
    return Config("model", 8, entry, {}, False, 1.0, image_seconds, 100)


class Lab:
    """Runs trials on a clock of its own; a better method scores higher."""

    def __init__(self, seconds: float, worth: dict[str, float]) -> None:
        self.left, self.worth = seconds, worth
        self.ran: list[tuple[str, str]] = []

    def __call__(self, queue):
        for trial in queue:
            labels = {b.name: len(b.cases) for b in CHAIN}[trial.budget]
            fitting = 0.0 if trial.method in FREE else 0.01 * pictures_seen(labels)
            self.left -= fitting + PREDICTING
            self.ran.append((trial.method, trial.budget))
            yield {
                "id": f"{trial.method}-{trial.budget}", "model": "model", "method": trial.method,
                "settings": {}, "budget": trial.budget, "draw": 0, "labels": labels,
                "spent_seconds": fitting + PREDICTING, "effort": {"fitting": {"wall_seconds": fitting}},
                "selection": {"auc": {"value": self.worth[trial.method]}},
            }  # fmt: skip


def run(lab: Lab, configs: list[Config], *, limited: bool = True):
    remaining = (lambda: lab.left) if limited else None
    return run_schedule(configs, CHAIN, lab, seed=0, primary="auc", remaining=remaining)


def test_without_a_limit_everything_runs():
    lab = Lab(0, {"probe": 0.8, "lora": 0.9})
    records, dropped = run(lab, [config("probe", 0), config("lora", 2)], limited=False)
    assert len(records) == 2 * len(CHAIN)
    assert not dropped


def test_the_worse_half_is_dropped_and_the_best_reaches_the_full_budget():
    worth = {"probe": 0.8, "lora": 0.9, "full": 0.7, "bitfit": 0.85, "partial": 0.6}
    lab = Lab(10_000, worth)
    _, dropped = run(lab, [config("probe", 0), *(config(n, 2) for n in worth if n != "probe")])
    assert ("lora", "full") in lab.ran
    assert ("partial", "full") not in lab.ran
    assert {d.method: d.reason for d in dropped}["partial"] == "in the worse half at the budget of 5"


def test_what_is_the_same_for_every_budget_is_not_multiplied():
    """5 per class take 3 s of training and 8 of predicting; 20 per class take 9.6 + 8, not four times 11."""
    lab = Lab(5 * PREDICTING + 11 + 18.5, {"probe": 0.8, "lora": 0.9})
    run(lab, [config("probe", 0), config("lora", 2)])
    assert lab.ran[-2:] == [("lora", "5"), ("lora", "20")]


def test_what_does_not_fit_is_not_begun_and_is_told():
    lab = Lab(6 * PREDICTING, {"probe": 0.8, "lora": 0.9})
    _, dropped = run(lab, [config("probe", 0), config("lora", 2, image_seconds=1.0)])
    assert all(method == "probe" for method, _ in lab.ran)
    assert dropped[0].reason.startswith("the budget of 5 would take about 1000 s, 8 s were left")
    assert lab.left == pytest.approx(PREDICTING)


def test_a_head_on_frozen_maps_is_not_expected_to_cost_the_network():
    lab = Lab(200, {"decoder": 0.8, "lora": 0.9})
    dear = {"image_seconds": 1.0}
    _, dropped = run(lab, [config("decoder", 2, trains="head", **dear), config("lora", 2, **dear)])
    assert ("decoder", "5") in lab.ran
    assert not any(method == "lora" for method, _ in lab.ran)
    assert any(d.method == "lora" and "would take" in d.reason for d in dropped)


def test_every_cheap_method_has_its_turn_at_the_largest_set_before_any_learning_curve():
    lab = Lab(3.5 * PREDICTING, {"knn": 0.8, "probe": 0.9, "ridge": 0.95})
    run(lab, [config(name, 0, trains="head") for name in ("ridge", "probe", "knn")])
    assert lab.ran[:3] == [("knn", "full"), ("probe", "full"), ("ridge", "full")]
    assert ("knn", "1") in lab.ran

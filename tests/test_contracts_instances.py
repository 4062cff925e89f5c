"""Every registered method that tells things apart goes through the same checks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from made_discs import discs, plane
from medspectrum import registry
from medspectrum.engine import apart
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.models import efficientnet_lite0, resolve
from medspectrum.tasks.instances import Instances

METHODS = {n: e for n, e in registry.entries("method").items() if e.facts.get("task") == "instances"}
SAM = Path(__file__).parent / "data" / "sam_ovals.pth"
QUICK = {"least_steps": 3, "most_steps": 3}
NARROW = {"widths": (8, 16)}


def settings_of(entry):
    if entry.facts["trains"] == "nothing":
        return {}
    return QUICK | (NARROW if not entry.facts.get("needs_model", True) else {})


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return efficientnet_lite0.tiny(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=sorted(METHODS))
def entry(request):
    return METHODS[request.param]


@pytest.fixture(scope="module")
def promptable(tmp_path_factory):
    return resolve(f"sam:{SAM}", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def model(entry, network, promptable):
    if entry.name == "all_in_sam":
        return promptable
    return network if entry.facts.get("needs_model", True) else None


def restored(entry, model, predictor):
    arrays, settings = predictor.state()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    again = json.loads(json.dumps(settings, allow_nan=False))
    return entry.facts["restore"](model, {n: a.copy() for n, a in arrays.items()}, again)


def same(first, second) -> bool:
    return all(np.array_equal(a.array(), b.array()) for a, b in zip(first, second, strict=True))


def test_answers_repeats_and_comes_back_the_same(entry, model):
    learn, test = discs(4), discs(2, first=50)
    task = Instances.of(learn)
    predictor = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    found = predictor.predict(test)
    assert all(isinstance(m, LabelMap) for m in found)
    assert [m.shape for m in found] == [task.target(c).shape for c in test]
    assert tuple(predictor.classes) == task.classes
    assert predictor.trained_parameters >= 0
    assert same(restored(entry, model, predictor).predict(test), found)
    again = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    assert same(again.predict(test), found)


def test_several_kinds_are_told_by_the_numbers(entry, model):
    learn = discs(2)
    task = Instances(["left", "right"], [1, 2], tile=96)
    for case in learn:  # things whose middle lies left are of the first kind
        numbers = plane(int(case.id[5:]))[1]
        made = np.zeros(numbers.shape, np.int32)
        for i, value in enumerate(np.unique(numbers[numbers > 0])):
            made[numbers == value] = 2 * i + 1 + (np.nonzero(numbers == value)[1].mean() > 44)
        task._kept[case.id] = LabelMap.of(made[None])
    predictor = entry.thing(model, learn, task, **settings_of(entry))
    found = predictor.predict(learn)
    assert predictor.classes == ("left", "right")
    scores = task.score(found, learn, resamples=0)
    assert set(scores["per_class"]) == {"left", "right"}


def test_no_labelled_case_is_a_clear_error(entry, model):
    with pytest.raises(UserError, match="label"):
        entry.thing(model, [], Instances(tile=96), **settings_of(entry))


def test_facts_are_complete(entry):
    assert entry.facts["trains"] in {"nothing", "head", "part", "network"}
    assert entry.facts["cost"] in range(4)
    assert callable(entry.facts["restore"])
    assert entry.summary


@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("otsu", {}, 0.95),
        ("distance_unet", {"least_steps": 60, "most_steps": 60, "widths": (8, 16, 32)}, 0.95),
    ],
)
def test_discs_that_touch_come_apart(name, settings, least):
    learn, test = discs(12), discs(4, first=50)
    task = Instances.of(learn)
    predictor = registry.find("method", name).thing(None, learn, task, seed=0, **settings)
    scores = task.score(predictor.predict(test), test, resamples=0)["scores"]
    assert scores["f1_50"]["value"] > least
    together = [LabelMap.of((plane(50 + i)[1][None] > 0).astype(np.uint8)) for i in range(4)]
    assert task.score(together, test, resamples=0)["scores"]["f1_50"]["value"] < 0.3


def test_what_the_truth_would_answer_gives_the_truth():
    """A perfect network's answer comes back as the very things, for either aim."""
    numbers = plane(7)[1]
    for aim in apart.AIMS:
        label, last = apart.targets(numbers, 1, aim)
        if aim == "border":
            last = label == 2
        answer = np.stack([label == 0, label == 1, last]).astype(np.float32)
        found = apart.told_apart(answer, apart.Rule(rise=0.05), aim)
        assert found.max() == numbers.max()
        for value in range(1, numbers.max() + 1):
            own = numbers == value
            inside = np.bincount(found[own]).argmax()
            shared = (own & (found == inside)).sum() / (own | (found == inside)).sum()
            assert inside > 0
            assert shared > 0.9


def test_the_rule_that_serves_held_out_pictures_is_chosen():
    numbers = plane(7)[1]
    label, depth = apart.targets(numbers, 1, "distance")
    faint = np.where(label > 0, 0.45, 0.05)  # everything is less likely than not
    answer = np.stack([1 - faint, faint, depth]).astype(np.float32)
    assert apart.best_rule([answer], [numbers], "distance").inside < 0.45
    assert apart.best_rule([], [], "distance") == apart.Rule()
    assert apart.told_apart(answer, apart.Rule(), "distance").max() == 0


def test_few_patients_are_all_learned_from():
    import importlib

    _apart = importlib.import_module("medspectrum.methods._apart")

    inside, held = _apart.hold_out(discs(8), 0)
    assert (len(inside), len(held)) == (8, 0)
    cases = discs(40)
    inside, held = _apart.hold_out(cases, 0)
    assert len(held) == 4
    assert not {cases[i].patient for i in inside} & {cases[i].patient for i in held}

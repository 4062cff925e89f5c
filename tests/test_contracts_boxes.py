"""Every registered method that finds boxes goes through the same checks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from made_boxes import boxed
from medspectrum import registry
from medspectrum.detections import Detections
from medspectrum.errors import UserError
from medspectrum.models import efficientnet_lite0
from medspectrum.tasks.detect import Detect

METHODS = {n: e for n, e in registry.entries("method").items() if e.facts.get("task") == "detect"}
QUICK = {"least_steps": 1, "most_steps": 1}


def settings_of(entry):
    if entry.name == "detr":
        return {**QUICK, "side": 64}
    if entry.name == "detector":  # a single step finds nothing
        return {"least_steps": 12, "most_steps": 12}
    return QUICK if entry.facts["cost"] >= 2 else {}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return efficientnet_lite0.tiny(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=sorted(METHODS))
def entry(request):
    return METHODS[request.param]


@pytest.fixture
def model(entry, network):
    return network if entry.facts.get("needs_model", True) else None


def restored(entry, model, predictor):
    arrays, settings = predictor.state()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    again = json.loads(json.dumps(settings, allow_nan=False))
    return entry.facts["restore"](model, {n: a.copy() for n, a in arrays.items()}, again)


def same(first, second) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes)
        and np.array_equal(a.scores, b.scores)
        and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_repeats_and_comes_back_the_same(entry, model, kind):
    count = 2 if kind == "plane" else 1
    learn, test = boxed(count, kind=kind), boxed(count, first=50, kind=kind)
    task = Detect.of(boxed(3, kind=kind))
    predictor = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    found = predictor.predict(test)
    assert all(isinstance(one, Detections) for one in found)
    assert [one.axes for one in found] == [2 if kind == "plane" else 3] * count
    sides = np.array([128, 96] if kind == "plane" else [128, 96, 7])
    for one in found:
        axes = one.axes
        assert (one.boxes[:, :axes] >= 0).all()
        assert (one.boxes[:, axes:] <= sides).all()
        assert (one.boxes[:, axes:] > one.boxes[:, :axes]).all()
        assert (np.diff(one.scores) <= 0).all()
        assert ((one.scores > 0) & (one.scores <= 1)).all()
        assert set(one.labels.tolist()) <= {0, 1}
    assert sum(map(len, found)) > 0
    assert tuple(predictor.classes) == task.classes
    assert predictor.trained_parameters >= 0
    if kind == "volume":
        return
    assert same(restored(entry, model, predictor).predict(test), found)
    again = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    assert same(again.predict(test), found)


def test_a_case_without_boxes_and_a_label_that_is_nowhere(entry, model):
    learn = boxed(1)
    task = Detect(["disc", "never", "square"])
    predictor = entry.thing(model, learn, task, **settings_of(entry))
    assert predictor.predict(boxed(1, first=9))[0].axes == 2


def test_no_labelled_case_is_a_clear_error(entry, model):
    with pytest.raises(UserError, match="label"):
        entry.thing(model, [], Detect(["a"]), **settings_of(entry))


def test_facts_are_complete(entry):
    assert entry.facts["trains"] in {"nothing", "head", "part", "network"}
    assert entry.facts["cost"] in range(4)
    assert callable(entry.facts["restore"])
    assert entry.summary

"""Every registered method that outlines goes through the same checks."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from made_outlines import outlined
from medspectrum import registry
from medspectrum.errors import UserError
from medspectrum.labelmap import LabelMap
from medspectrum.models import efficientnet_lite0, resolve
from medspectrum.tasks.segment import Segment

METHODS = {n: e for n, e in registry.entries("method").items() if e.facts.get("task") == "segment"}
OF_TRANSFORMERS = ("ma_sam", "adapter_3d", "adaptive_sam")
SAM = Path(__file__).parent / "data" / "sam_tiny.pth"
QUICK = {"least_steps": 3, "most_steps": 3}
LEARNS = {"dense_probe": 0.8, "dense_knn": 0.5}  # a random network's features; a blank mask has 0


@functools.cache
def weights_of(entry_name):
    """Settings that bring small weights, for a method that asks for some of the user's own."""
    return METHODS[entry_name].facts["fake"](Path(tempfile.mkdtemp()))


def settings_of(entry):
    if "needs" in entry.facts:
        return weights_of(entry.name)
    return QUICK if entry.facts["trains"] in ("part", "network") or entry.facts["cost"] >= 2 else {}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return efficientnet_lite0.tiny(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=sorted(METHODS))
def entry(request):
    found = METHODS[request.param]
    if "available" in found.facts and (why := found.facts["available"]()):
        pytest.skip(why)
    return found


@pytest.fixture(scope="module")
def promptable(tmp_path_factory):
    return resolve(f"sam:{SAM}", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def model(entry, network, promptable):
    if entry.name in OF_TRANSFORMERS:
        return promptable
    return network if entry.facts.get("needs_model", True) else None


def restored(entry, model, predictor):
    arrays, settings = predictor.state()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    again = json.loads(json.dumps(settings, allow_nan=False))
    return entry.facts["restore"](model, {n: a.copy() for n, a in arrays.items()}, again)


def same(first, second) -> bool:
    return all(np.array_equal(a.array(), b.array()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_learns_repeats_and_comes_back_the_same(entry, model, kind):
    learn, test = outlined(4, kind=kind), outlined(3, first=50, kind=kind)
    task = Segment.of(learn)
    predictor = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    found = predictor.predict(test)
    assert all(isinstance(m, LabelMap) for m in found)
    assert [m.shape for m in found] == [task.target(c).shape for c in test]
    assert max(int(m.values.max()) for m in found) <= 2
    assert tuple(predictor.classes) == task.classes
    assert predictor.trained_parameters >= 0
    assert same(restored(entry, model, predictor).predict(test), found)
    again = entry.thing(model, learn, task, seed=1, **settings_of(entry))
    assert same(again.predict(test), found)
    if entry.name in LEARNS:
        dice = task.score(found, test)["scores"]["dice"]["value"]
        assert dice > LEARNS[entry.name]


def test_one_case_and_a_label_it_lacks(entry, model):
    learn = outlined(1)
    task = Segment(["core", "ring", "never"], [1, 2, 7])
    predictor = entry.thing(model, learn, task, **settings_of(entry))
    found = predictor.predict(outlined(1, first=9))[0]
    assert found.shape == (1, 36, 44)
    assert same(restored(entry, model, predictor).predict(outlined(1, first=9)), [found])
    if entry.name not in ("unet", "decoder") and not entry.name.endswith(
        ("_decoder", *OF_TRANSFORMERS)
    ):  # three steps teach no network
        assert 3 not in found.values


def test_no_labelled_case_is_a_clear_error(entry, model):
    with pytest.raises(UserError, match="label"):
        entry.thing(model, [], Segment(["a"], [1]), **settings_of(entry))


def test_facts_are_complete(entry):
    assert entry.facts["trains"] in {"nothing", "head", "part", "network"}
    assert entry.facts["cost"] in range(4)
    assert callable(entry.facts["restore"])
    assert entry.summary

"""Every registered method goes through the same checks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fake_encoder import Projection, cases_of
from medspectrum import registry
from medspectrum.errors import UserError
from medspectrum.tasks.classify import Classify

METHODS = {
    n: e for n, e in registry.entries("method").items() if e.facts.get("task", "classify") == "classify"
}
TRAINS = {"nothing", "head", "part", "network"}


def quick(entry):
    """Settings by which the check is quick: a few steps where a network is trained."""
    if entry.facts["trains"] in ("part", "network"):
        return {"least_steps": 2, "most_steps": 2, "batch_cases": 4}
    if entry.facts.get("private"):
        return {"epsilon": 1e12}  # a handful of patients is heard through the noise of a promise that is none
    return {}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A tiny random network for the methods that train parts of one."""
    timm_names = pytest.importorskip("medspectrum.models.timm_names")
    return timm_names.tiny(cache=tmp_path_factory.mktemp("cache"))


def marks(name):
    """Methods that train a network take seconds a check."""
    return pytest.mark.slow if METHODS[name].facts["trains"] in ("part", "network") else ()


@pytest.fixture(params=[pytest.param(name, marks=marks(name)) for name in sorted(METHODS)])
def entry(request):
    return METHODS[request.param]


@pytest.fixture
def model(entry, request):
    if not entry.facts.get("needs_model", True):
        return None
    if entry.facts["trains"] in ("part", "network"):
        return request.getfixturevalue("network")
    return Projection()


def fit(entry, model, cases, task, **settings):
    return entry.thing(model, cases, task, **{**quick(entry), **settings})


def check(entry, model, predictor, task, cases):
    """Shape, rows, classes, and the same bits after saving and restoring."""
    found = predictor.predict(cases)
    assert found.shape == (len(cases), len(task.classes))
    assert found.dtype == np.float64
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)
    assert tuple(predictor.classes) == tuple(task.classes)
    assert isinstance(predictor.trained_parameters, int)
    arrays, settings = predictor.state()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    again = json.loads(json.dumps(settings, allow_nan=False))
    copies = {name: array.copy() for name, array in arrays.items()}
    restored = entry.facts["restore"](model, copies, again)
    np.testing.assert_array_equal(restored.predict(cases), found)
    assert tuple(restored.classes) == tuple(task.classes)
    assert restored.trained_parameters == predictor.trained_parameters
    assert len(predictor.predict([])) == 0
    return found


def test_facts_are_complete(entry):
    assert entry.facts["trains"] in TRAINS
    assert entry.facts["cost"] in range(4)
    assert callable(entry.facts["restore"])
    assert entry.summary


def test_learns_repeats_and_comes_back_the_same(entry, model):
    task = Classify(["low", "high"])
    learn = cases_of({"low": 12, "high": 6}, order=["low", "high"], each=2)
    test = cases_of({"low": 15, "high": 15}, order=["low", "high"], first=500)
    predictor = fit(entry, model, learn, task, seed=3)
    found = check(entry, model, predictor, task, test)
    np.testing.assert_array_equal(fit(entry, model, learn, task, seed=3).predict(test), found)
    trained = predictor.trained_parameters
    if entry.facts["trains"] == "nothing":
        assert trained == 0
    else:
        assert trained > 0
        assert trained <= 2 * sum(a.size for a in predictor.state()[0].values())
    if entry.name == "majority":
        np.testing.assert_allclose(found, np.tile([2 / 3, 1 / 3], (30, 1)))
    elif entry.facts["trains"] in ("nothing", "head"):
        scores = task.score(found, test)["scores"]
        assert scores["auc"]["value"] > 0.9
        assert scores["balanced_accuracy"]["value"] > 0.8


def test_one_case_a_class(entry, model):
    task = Classify(["a", "b", "c"])
    learn = cases_of({"a": 1, "b": 1, "c": 1})
    check(entry, model, fit(entry, model, learn, task), task, cases_of({"a": 3, "c": 3}, first=50))


def test_a_class_without_labelled_cases_keeps_its_column(entry, model):
    task = Classify(["a", "b", "c", "d"])
    learn = cases_of({"a": 4, "d": 5}, order=list("abcd"))
    test = cases_of({"a": 6, "d": 6}, order=list("abcd"), first=50)
    found = check(entry, model, fit(entry, model, learn, task), task, test)
    assert set(found.argmax(axis=1)) <= {0, 3}


def test_one_labelled_class_only(entry, model):
    task = Classify(["a", "b"])
    found = check(
        entry, model, fit(entry, model, cases_of({"b": 3}, order=["a", "b"]), task), task, cases_of({"a": 2})
    )
    assert (found.argmax(axis=1) == 1).all()


def test_many_classes_and_two_pictures_a_case(entry, model):
    names = [f"c{i:02d}" for i in range(12)]
    task = Classify(names)
    learn = cases_of(dict.fromkeys(names, 2), roles=("front", "side"))
    test = cases_of(dict.fromkeys(names[:3], 2), order=names, first=80, roles=("front", "side"))
    check(entry, model, fit(entry, model, learn, task), task, test)


def test_no_labelled_case_is_a_clear_error(entry, model):
    with pytest.raises(UserError, match="label"):
        fit(entry, model, [], Classify(["a", "b"]))


HEADS = sorted(
    name
    for name, entry in METHODS.items()
    if entry.facts["trains"] in ("nothing", "head") and name != "majority"
)


@pytest.mark.parametrize("name", HEADS)
def test_heads_bear_constant_features(name):
    entry, model, task = METHODS[name], Projection(constant=True), Classify(["a", "b"])
    found = check(entry, model, fit(entry, model, cases_of({"a": 4, "b": 4}), task), task, cases_of({"a": 3}))
    np.testing.assert_array_equal(found, np.tile(found[:1], (3, 1)))
    far = 0.3 if name == "knn" else 1e-3 if entry.facts.get("private") else 1e-6
    assert (np.abs(found - 0.5) < far).all()  # among equals one has to vote; and there may be a little noise


@pytest.mark.parametrize("name", HEADS)
def test_heads_bear_cases_with_different_roles(name):
    entry, model, task = METHODS[name], Projection(), Classify(["a", "b"])
    learn = cases_of({"a": 4, "b": 4}) + cases_of({"a": 3, "b": 3}, first=40, roles=("front", "side"))
    predictor = fit(entry, model, learn, task)
    check(entry, model, predictor, task, cases_of({"a": 3, "b": 2}, first=90))
    check(entry, model, predictor, task, cases_of({"a": 3, "b": 2}, first=90, roles=("front", "side")))


@pytest.mark.parametrize("name", HEADS)
def test_heads_refuse_cases_with_other_images_than_trained_on(name):
    task = Classify(["a", "b"])
    predictor = fit(METHODS[name], Projection(), cases_of({"a": 4, "b": 4}, roles=("front", "side")), task)
    with pytest.raises(UserError, match="trained on cases with 2 images"):
        predictor.predict(cases_of({"a": 1}))


@pytest.mark.parametrize("name", HEADS)
def test_heads_bear_more_features_than_cases_and_the_reverse(name):
    entry, task = METHODS[name], Classify(["a", "b"])
    test = cases_of({"a": 20, "b": 20}, first=900)
    for width, number in ((200, 15), (8, 60)):
        model = Projection(width=width)
        found = check(entry, model, fit(entry, model, cases_of({"a": number, "b": number}), task), task, test)
        assert task.score(found, test)["scores"]["auc"]["value"] > 0.65


@pytest.mark.parametrize("name", HEADS)
def test_heads_do_not_lean_to_the_common_class(name):
    entry, model, task = METHODS[name], Projection(), Classify(["a", "b"])
    learn = cases_of({"a": 90, "b": 9})
    test = cases_of({"a": 60, "b": 60}, first=900)
    found = fit(entry, model, learn, task).predict(test)
    scores = task.score(found, test)["scores"]
    assert scores["balanced_accuracy"]["value"] > 0.8
    assert found.argmax(axis=1).mean() > 0.3


@pytest.mark.parametrize("name", HEADS)
def test_features_that_are_not_finite_name_the_case(name):
    class Broken(Projection):
        def embed(self, images, level="pooled"):
            features = super().embed(images, level)
            features.pooled[1, 0] = np.nan
            return features

    with pytest.raises(UserError, match="not finite for case a-1"):
        fit(METHODS[name], Broken(), cases_of({"a": 4, "b": 4}), Classify(["a", "b"]))

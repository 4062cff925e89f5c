"""The task classify: targets, scores as JSON, per class and per centre."""

import json

import numpy as np
import pytest

from medspectrum import registry
from medspectrum.case import Case, ClassTarget
from medspectrum.errors import UserError
from medspectrum.tasks.classify import REPORTED, Classify


def case(i, label, centre=None, patient=None):
    return Case(
        id=f"c{i}",
        patient=patient or f"p{i}",
        images={},
        target=ClassTarget(label) if label else None,
        centre=centre,
    )


def test_it_is_registered_and_names_its_primary_score():
    assert registry.find("task", "classify").thing is Classify
    assert Classify(["a", "b"]).primary == "auc"
    assert Classify(["a", "b"], primary="balanced_accuracy").primary == "balanced_accuracy"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Classify(["a"]), "two or more"),
        (lambda: Classify(["a", "a"]), "two or more"),
        (lambda: Classify(["a", "b"], primary="speed"), "no score is called 'speed'"),
        (lambda: Classify(["a", "b"]).target(case(1, None)), "c1 has no class"),
        (lambda: Classify(["a", "b"]).target(case(1, "z")), "'z', which is none of a, b"),
    ],
)
def test_bad_input_gets_a_sentence(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_scores_are_json_with_none_where_undefined():
    task = Classify(["a", "b", "never"])
    rng = np.random.default_rng(0)
    cases = [case(i, "ab"[i % 2], centre=("north", "south", None)[i % 3]) for i in range(60)]
    cases += [case(100 + i, "a", centre="tiny") for i in range(3)]
    raw = rng.random((63, 3)) + np.eye(3)[[task.target(c) for c in cases]]
    found = task.score(raw / raw.sum(axis=1, keepdims=True), cases, seed=1)
    json.dumps(found, allow_nan=False)
    assert set(found["scores"]) == set(REPORTED)
    assert found["scores"]["auc"]["low"] < found["scores"]["auc"]["value"] < found["scores"]["auc"]["high"]
    assert found["per_class"]["never"]["n"] == 0
    assert found["per_class"]["never"]["auc"] == {"value": None, "low": None, "high": None}
    assert found["per_class"]["a"]["sensitivity"]["value"] > 0.5
    assert set(found["per_centre"]) == {"north", "south", "tiny", "unknown"}
    assert found["per_centre"]["tiny"]["n"] == 3
    assert found["per_centre"]["tiny"]["patients"] == 3
    assert found["per_centre"]["tiny"]["auc"]["value"] is None
    assert found["per_centre"]["north"]["auc"]["value"] > 0.5
    assert found == task.score(raw / raw.sum(axis=1, keepdims=True), cases, seed=1)


def test_details_are_the_same_values_with_intervals_around_them():
    task = Classify(["a", "b"])
    rng = np.random.default_rng(3)
    cases = [case(i, "ab"[i % 2], centre=("north", "south")[i // 2 % 2]) for i in range(80)]
    raw = rng.random((80, 2)) + 0.3 * np.eye(2)[[task.target(c) for c in cases]]
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    plain, detail = task.score(probabilities, cases), task.in_detail(probabilities, cases, seed=1)
    for kind in ("per_class", "per_centre"):
        assert set(plain[kind]) == set(detail[kind])
        for name, row in detail[kind].items():
            assert row["n"] == plain[kind][name]["n"]
            assert row["auc"]["value"] == plain[kind][name]["auc"]["value"]
            assert row["auc"]["low"] < row["auc"]["value"] < row["auc"]["high"]
    sensitivity = detail["per_class"]["a"]["sensitivity"]
    spread = (sensitivity["high"] - sensitivity["low"]) / 2
    binomial = 1.96 * np.sqrt(sensitivity["value"] * (1 - sensitivity["value"]) / 40)
    assert 0.6 * binomial < spread < 1.6 * binomial


def test_no_centre_means_no_table_of_centres():
    task = Classify(["a", "b"])
    found = task.score(np.array([[0.6, 0.4], [0.3, 0.7]]), [case(0, "a"), case(1, "b")])
    assert found["per_centre"] == {}
    assert found["scores"]["accuracy"]["value"] == 1.0


def test_shapes_that_do_not_fit_are_refused():
    task = Classify(["a", "b"])
    with pytest.raises(ValueError, match="probabilities"):
        task.score(np.ones((2, 3)) / 3, [case(0, "a"), case(1, "b")])
    with pytest.raises(ValueError, match="finite"):
        task.score(np.full((1, 2), np.nan), [case(0, "a")])

"""Differential privacy: the noise that a promise asks for, patients as its unit, and how it is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

import medspectrum
from fake_encoder import Projection, cases_of
from medspectrum.engine.privacy import delta_of, strength
from medspectrum.errors import UserError
from medspectrum.methods.private_probe import clipped_gradient, private_probe
from medspectrum.tasks.classify import Classify


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (3.0, 1e-5), (8.0, 1e-3)])
def test_the_noise_is_what_the_promise_asks_for(epsilon, delta):
    """Numerically: the integral of what N(mu, 1) has above e^epsilon times N(0, 1)."""
    mu = strength(epsilon, delta)
    x = np.linspace(-12, mu + 12, 2_000_001)
    with_patient, without = (np.exp(-0.5 * (x - m) ** 2) / np.sqrt(2 * np.pi) for m in (mu, 0.0))
    excess = np.maximum(with_patient - np.exp(epsilon) * without, 0).sum() * (x[1] - x[0])
    assert excess == pytest.approx(delta, rel=1e-4)
    assert delta_of(1.001 * mu, epsilon) > delta > delta_of(0.999 * mu, epsilon)


def test_an_accountant_agrees_and_its_bound_is_no_lower():
    """Opacus composes the same fifty steps, in which all take part, by its own means."""
    rdp = pytest.importorskip("opacus.accountants").RDPAccountant()
    mu = strength(3.0, 1e-5)
    rdp.history = [(50**0.5 / mu, 1.0, 50)]
    assert 3.0 <= rdp.get_epsilon(delta=1e-5) < 3.5


def test_promises_that_are_none_are_refused():
    task, cases = Classify(["a", "b"]), cases_of({"a": 3, "b": 3})
    for wrong in ({"epsilon": 0.0}, {"epsilon": float("inf")}, {"delta": 0.0}, {"delta": 1.0}, {"clip": 0.0}):
        with pytest.raises(UserError):
            private_probe(Projection(), cases, task, **wrong)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 7, 2, 30)])
def test_no_patient_adds_more_than_clip_however_many_cases_it_has(sizes):
    rng = np.random.default_rng(5)
    n, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    rows, wrong = rng.normal(size=(n, 6)) * 9, rng.normal(size=(n, 3))
    whole = clipped_gradient(rows, wrong, starts, 0.5)
    for place, size in enumerate(sizes):
        keep = np.ones(n, bool)
        keep[starts[place] : starts[place] + size] = False
        left = np.array(sizes)[np.arange(len(sizes)) != place]
        rest = clipped_gradient(rows[keep], wrong[keep], np.cumsum([0, *left[:-1]]), 0.5)
        assert np.linalg.norm(whole - rest) == pytest.approx(0.5, rel=1e-6)  # all are longer than the clip
    small = clipped_gradient(rows, wrong, starts, 1e9)
    np.testing.assert_allclose(small, rows.T @ wrong, atol=1e-9)


def test_less_epsilon_is_more_noise_and_the_seed_is_the_noise():
    task, cases = Classify(["a", "b"]), cases_of({"a": 40, "b": 25})

    def spread(epsilon):
        found = [private_probe(Projection(), cases, task, seed=s, epsilon=epsilon).weights for s in range(6)]
        return np.std(found, axis=0).mean()

    assert spread(0.3) > 2 * spread(3.0) > 8 * spread(1000.0)
    again = [private_probe(Projection(), cases, task, seed=2).weights for _ in range(2)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize("numbers", [{"a": 40, "b": 25}, {"a": 65}])
def test_the_number_kept_with_the_head_has_noise(numbers):
    task, cases = Classify(["a", "b"]), cases_of(numbers)
    told = [private_probe(Projection(), cases, task, seed=s, epsilon=0.5).labelled for s in range(30)]
    assert np.std(told) > 3
    assert abs(np.mean(told) - 65) < 20
    sure = private_probe(Projection(), cases, task, epsilon=1e5).labelled
    assert sure == 65


def test_epsilon_stands_with_the_effort_and_in_the_report(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, level in (("dim", 90), ("lit", 150)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.normal(level, 20, (24, 24)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"p{name}{i:02d}.png")
    plan = tmp_path / "plan.toml"
    plan.write_text("[private_probe]\nepsilon = [0.5, 50.0]\n")
    results = medspectrum.explore(
        tmp_path / "data", out=tmp_path / "out", models="efficientnet-lite0", size=32,
        methods="private_probe,prototype",
        budgets="full", plan=plan, cache=tmp_path / "cache", explained=0, quiet=True,
    )  # fmt: skip
    told = {(t["method"], t.get("epsilon"), t.get("delta")) for t in results["trials"]}
    assert told == {("private_probe", 0.5, 1e-5), ("private_probe", 50.0, 1e-5), ("prototype", None, None)}
    for trial in results["trials"]:
        (card,) = (tmp_path / "cache" / "trials").rglob(f"{trial['id']}/predictor/predictor.json")
        told = {"labels", "trial"} & set(json.loads(card.read_text()))
        assert told == ({"labels", "trial"} if trial["method"] == "prototype" else set())
    assert "ε (δ)" in (tmp_path / "out" / "report.html").read_text()

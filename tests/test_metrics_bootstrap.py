"""Intervals by patient: right weights, right coverage, quick, and paired where they must be."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.metrics.bootstrap import intervals, paired_difference, patient_weights

REPORTED = ("auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "calibration_error")


def made(n, seed=0, shift=1.5, k=2):
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + shift * np.eye(k)[truth]
    raw = np.exp(logits)
    return raw / raw.sum(axis=1, keepdims=True), truth


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_patients_cases_always_count_together(numbers, seed):
    patients = [f"p{i}" for i in numbers]
    weights = np.concatenate(list(patient_weights(patients, resamples=20, seed=seed)), axis=1)
    assert weights.shape == (len(patients), 20)
    first = {}
    for row, patient in zip(weights, patients, strict=True):
        np.testing.assert_array_equal(row, first.setdefault(patient, row))
    np.testing.assert_array_equal(np.sum(list(first.values()), axis=0), len(first))
    again = np.concatenate(list(patient_weights(patients, resamples=20, seed=seed)), axis=1)
    np.testing.assert_array_equal(weights, again)


def test_blocks_hold_memory_and_add_up():
    blocks = list(patient_weights([str(i) for i in range(5000)], resamples=100))
    assert len(blocks) > 1
    assert sum(block.shape[1] for block in blocks) == 100
    assert max(block.size for block in blocks) <= 5000 * 32


def test_intervals_hold_the_value_and_repeat():
    probabilities, truth = made(200)
    patients = [str(i // 2) for i in range(200)]
    found = intervals(probabilities, truth, patients, seed=3)
    assert found == intervals(probabilities, truth, patients, seed=3)
    assert found != intervals(probabilities, truth, patients, seed=4)
    for name, values in found.items():
        assert values["low"] <= values["value"] <= values["high"], name
        assert values["high"] - values["low"] > 0.001, name


def test_interval_agrees_with_a_plain_loop():
    probabilities, truth = made(120)
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        rows = rng.integers(120, size=120)
        drawn.append(metrics.roc_auc_score(truth[rows], probabilities[rows, 1]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = intervals(probabilities, truth, [str(i) for i in range(120)], scores=["auc"], resamples=3000)
    assert found["auc"]["low"] == pytest.approx(low, abs=0.015)
    assert found["auc"]["high"] == pytest.approx(high, abs=0.015)


def test_coverage_of_accuracy_is_near_95_percent():
    probabilities = np.tile([0.3, 0.7], (150, 1))
    rng = np.random.default_rng(6)
    held = 0
    for i in range(300):
        truth = (rng.random(150) < 0.7).astype(int)
        found = intervals(
            probabilities, truth, [str(j) for j in range(150)], scores=["accuracy"], resamples=300, seed=i
        )
        held += found["accuracy"]["low"] <= 0.7 <= found["accuracy"]["high"]
    assert 0.90 <= held / 300 <= 0.985


def test_cases_of_few_patients_are_less_sure():
    probabilities, truth = made(40)
    probabilities, truth = np.repeat(probabilities, 10, axis=0), np.repeat(truth, 10)
    by_case = intervals(probabilities, truth, [str(i) for i in range(400)], scores=["auc"])["auc"]
    by_patient = intervals(probabilities, truth, [str(i // 10) for i in range(400)], scores=["auc"])["auc"]
    assert by_patient["high"] - by_patient["low"] > 2 * (by_case["high"] - by_case["low"])


def test_one_patient_one_class_and_resamples_of_one_class():
    probabilities, truth = made(12)
    found = intervals(probabilities, truth, ["only"] * 12)["accuracy"]
    assert found["value"] is not None
    assert found["low"] is None
    assert found["high"] is None
    undefined = intervals(probabilities, np.ones(12, dtype=int), [str(i) for i in range(12)])["auc"]
    assert undefined == {"value": None, "low": None, "high": None}
    rare = np.zeros(12, dtype=int)
    rare[0] = 1  # a third of the resamples have no positive
    few = intervals(probabilities, rare, [str(i) for i in range(12)])["auc"]
    assert 0 <= few["low"] <= few["value"] <= few["high"] <= 1


def test_difference_is_paired():
    probabilities, truth = made(300)
    rng = np.random.default_rng(1)
    noisy = np.clip(probabilities[:, 1] + 0.02 * rng.normal(size=300), 1e-6, 1 - 1e-6)
    other = np.stack([1 - noisy, noisy], axis=1)
    patients = [str(i) for i in range(300)]
    value, low, high = paired_difference(probabilities, other, truth, patients, score="auc", seed=2)
    assert low <= value <= high
    alone = intervals(probabilities, truth, patients, scores=["auc"])["auc"]
    assert high - low < 0.4 * (alone["high"] - alone["low"])
    assert paired_difference(probabilities, probabilities, truth, patients) == (0.0, 0.0, 0.0)
    back = paired_difference(other, probabilities, truth, patients, score="auc", seed=2)
    np.testing.assert_allclose(back, (-value, -high, -low), atol=1e-12)


def test_a_thousand_resamples_are_quick():
    probabilities, truth = made(624)
    patients = [str(i) for i in range(624)]
    seconds = []
    for _ in range(5):
        start = time.process_time()
        intervals(probabilities, truth, patients, scores=REPORTED)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15  # 0.05 on a quiet machine

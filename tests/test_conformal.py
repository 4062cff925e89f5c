"""Conformal sets: thresholds by hand, coverage by simulation, patients as what is exchangeable."""

from __future__ import annotations

import numpy as np
import pytest

from medspectrum import reliability
from medspectrum.metrics import conformal

ALPHA = 0.1


def made(n: int, seed: int, *, k: int = 4, sharp: float = 2.0):
    """Honest probabilities (n, k) and classes drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharp
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p, np.array([rng.choice(k, p=row) for row in p])


def test_threshold_is_the_usual_one_where_each_patient_has_one_case():
    scores = np.random.default_rng(0).random(57)
    place = int(np.ceil(0.9 * 58))
    assert conformal.threshold(scores, [str(i) for i in range(57)], alpha=ALPHA) == np.sort(scores)[place - 1]
    assert conformal.threshold(scores[:8], list("abcdefgh"), alpha=ALPHA) == np.inf


def test_a_patient_with_many_cases_weighs_as_one():
    scores = np.concatenate([np.full(500, 0.99), np.linspace(0.1, 0.5, 19)])
    patients = ["many"] * 500 + [f"p{i}" for i in range(19)]
    assert conformal.threshold(scores, patients, alpha=ALPHA) == 0.5  # the 19th of 20 patients; of cases 0.99


def test_aps_scores_by_hand():
    p = np.array([[0.5, 0.2, 0.3]])
    u = np.random.default_rng(3).random((1, 1))[0, 0]
    wanted = [0.5 - 0.5 * u, 1.0 - 0.2 * u, 0.8 - 0.3 * u]
    assert np.allclose(conformal.set_scores(p, "aps", seed=3), [wanted])
    with pytest.raises(ValueError, match="lac and aps"):
        conformal.set_scores(p, "raps")


@pytest.mark.parametrize("kind", conformal.SCORES)
def test_coverage_is_what_was_promised(kind):
    covered = []
    for seed in range(60):
        p, truth = made(400, seed)
        patients = [str(i) for i in range(200)]
        limit = conformal.calibrated(p[:200], truth[:200], patients, kind, alpha=ALPHA, seed=seed)
        sets = conformal.sets(p[200:], limit, kind, seed=seed + 1000)
        covered.append(sets[np.arange(200), truth[200:]].mean())
    assert abs(np.mean(covered) - 0.9) < 0.02


def test_coverage_counts_patients_and_abstention_counts_cases():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.55, 0.45]])
    truth = np.array([0, 0, 0, 1])
    found = reliability.coverage(p, truth, ["a", "a", "a", "b"], {"lac": 0.2})["lac"]
    assert found["coverage"]["value"] == 0.5  # patient b is not covered, a is
    assert found["abstained"]["value"] == 0.25
    assert found["size"]["value"] == 0.75
    assert found["accuracy_answered"]["value"] == 1.0
    assert reliability.thresholds(p, truth, ["a", "a", "a", "b"], alpha=ALPHA) == {}


def test_a_temperature_fitted_on_others_mends_what_is_too_sure():
    p, truth = made(600, 1, k=3, sharp=1.0)
    sure = p**3 / (p**3).sum(axis=1, keepdims=True)
    found = reliability.calibration(sure, truth, [str(i // 2) for i in range(600)])
    assert found["temperature"] == pytest.approx(3, rel=0.2)
    assert found["calibration_error_scaled"]["value"] < 0.5 * found["calibration_error"]["value"]
    assert found["brier_scaled"]["value"] < found["brier"]["value"]
    few = reliability.calibration(sure[:8], truth[:8], list("abcdefgh"))
    assert few["temperature"] is None
    assert "brier_scaled" not in few

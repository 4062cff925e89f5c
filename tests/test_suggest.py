"""What is suggested before anything is trained: order, reasons, and that no judged case is looked at."""

from __future__ import annotations

import numpy as np
import pytest

import medspectrum
from made_cases import PATTERN, make_folder
from made_outlines import write_pairs
from medspectrum.engine.evidence import log_evidence
from medspectrum.errors import UserError
from tiny_encoder import tiny_encoder

KEYS = {
    "name",
    "method",
    "expected_score",
    "expected_seconds",
    "memory_mb",
    "here",
    "log_evidence",
    "reasons",
}


def evidence_by_inversion(rows: np.ndarray, target: np.ndarray, weight: float, noise: float) -> float:
    """The log of the normal density of the target, its covariance written out: what LogME is, per case."""
    n = len(rows)
    covariance = np.eye(n) / noise + rows @ rows.T / weight
    _, volume = np.linalg.slogdet(covariance)
    return float(-0.5 * (n * np.log(2 * np.pi) + volume + target @ np.linalg.solve(covariance, target))) / n


@pytest.mark.parametrize("shape", [(40, 6), (12, 30)])
def test_log_evidence_is_the_best_density_of_the_labels(shape):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal(shape)
    labels = (rows[:, 0] + 0.5 * rng.standard_normal(len(rows)) > 0).astype(int)
    found = log_evidence(rows, labels, 2)
    grid = np.exp(np.linspace(-8, 8, 65))
    best = [
        max(evidence_by_inversion(rows, (labels == k) * 1.0, a, b) for a in grid for b in grid)
        for k in range(2)
    ]
    assert found == pytest.approx(np.mean(best), abs=5e-3)
    if shape[0] > shape[1]:  # with fewer cases than features chance explains labels as well
        assert found > log_evidence(rng.standard_normal(shape), labels, 2)


def test_the_classes_are_ranked_by_what_features_are_worth(tmp_path):
    data = make_folder(tmp_path / "data")
    tiny = tiny_encoder(tmp_path / "cache")
    asked = {"patient_pattern": PATTERN, "cache": tmp_path / "cache", "size": 64, "looked_at": 24}
    rows = medspectrum.suggest(data, models=f"efficientnet-lite0,{tiny}", **asked)
    assert all(set(row) == KEYS for row in rows)
    heads = [row for row in rows if row["method"] == "ridge"]
    assert {row["name"] for row in heads} == {"efficientnet-lite0", tiny}
    scores = [row["expected_score"] for row in heads]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert rows[0]["expected_score"] == max(scores)
    tuned = [row for row in rows if row["method"] == "full"]
    assert all(
        row["expected_seconds"] > head["expected_seconds"]
        for row in tuned
        for head in heads
        if head["name"] == row["name"]
    )
    assert not any(row["method"] == "scratch" for row in rows)
    assert (
        medspectrum.suggest(data, models=f"efficientnet-lite0,{tiny}", **asked)[0]["name"] == rows[0]["name"]
    )


def test_the_whole_catalogue_is_ranked_and_every_row_says_why(tmp_path):
    data = make_folder(tmp_path / "data", patients=12)
    rows = medspectrum.suggest(
        data, patient_pattern=PATTERN, cache=tmp_path / "cache", size=64, looked_at=12, modality="CT"
    )
    names = list(dict.fromkeys(row["name"] for row in rows))
    from medspectrum import registry

    assert set(names) == {n for n, e in registry.entries("model").items() if "prefix" not in e.facts}
    assert all(row["reasons"] for row in rows)
    assert rows[0]["here"]
    volumes = [row for row in rows if row["name"] == "ct-i3resnet152"]
    assert volumes[0]["reasons"] == ["reads volumes; the data are 2-D"]
    assert names.index("ct-i3resnet152") > names.index("efficientnet-lite0")


def test_only_training_cases_are_asked(tmp_path, monkeypatch):
    from medspectrum import transfer
    from medspectrum.budgets import make_split
    from medspectrum.datasets import load

    data = make_folder(tmp_path / "data")
    seen = set()
    own = transfer.worth

    def spied(model, cases, task):
        seen.update(case.id for case in cases)
        return own(model, cases, task)

    monkeypatch.setattr(transfer, "worth", spied)
    medspectrum.suggest(
        data, models="efficientnet-lite0", patient_pattern=PATTERN, cache=tmp_path / "cache", size=64, seed=5
    )
    split = make_split(load(data, patient_pattern=PATTERN).cases, seed=5)
    assert seen
    assert seen <= {case.id for case in split.train}


def test_outlines_are_judged_by_points(tmp_path):
    data = write_pairs(tmp_path / "pairs", 12)
    rows = medspectrum.suggest(
        data,
        task="segment",
        models=tiny_encoder(tmp_path / "cache"),
        cache=tmp_path / "cache",
        size=64,
        looked_at=8,
    )
    head = next(row for row in rows if row["method"] == "dense_probe")
    assert 0.3 < head["expected_score"] <= 1
    assert head["reasons"][0].startswith("dice of points")


def test_bad_wishes_are_answered_in_a_sentence(tmp_path):
    data = make_folder(tmp_path / "data", patients=6)
    with pytest.raises(UserError, match="one task at a time"):
        medspectrum.suggest(data, task="classify,segment")
    with pytest.raises(UserError, match="4 labelled cases at least"):
        medspectrum.suggest(data, looked_at=2)

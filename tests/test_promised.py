"""Doubt about outlines from one predictor's own probabilities: by hand, by draws, and through ``curate``."""

import numpy as np
import pytest
import torch

import medspectrum
from made_outlines import write_pairs
from medspectrum.datasets import load
from medspectrum.engine import promised
from medspectrum.methods.dense_knn import dense_knn
from medspectrum.methods.full_decoder import full_decoder
from medspectrum.methods.unet import unet_from_scratch
from medspectrum.models import resolve
from medspectrum.predictor import save_predictor
from medspectrum.tasks.segment import Segment


def test_the_sums_add_up_and_are_what_counting_gives():
    likely = torch.zeros(1, 3, 2, 4)
    likely[:, 0] = 1.0
    likely[0, :, 0, 1] = torch.tensor([0.2, 0.7, 0.1])
    likely[0, :, 1, 2] = torch.tensor([0.6, 0.1, 0.3])  # called background, yet something at 0.4
    likely[0, :, 1, 3] = torch.tensor([0.95, 0.05, 0.0])  # too little to count
    assert promised.sums(likely) == pytest.approx([0.7, 1, 1.2])
    parts = promised.sums(likely[..., :2]) + promised.sums(likely[..., 2:])
    assert parts == pytest.approx([0.7, 1, 1.2])
    assert promised.overlap(parts) == pytest.approx(1.4 / 2.2)
    assert promised.overlap(np.zeros(3)) == 1.0


def test_where_probabilities_are_right_the_promise_is_kept():
    rng = np.random.default_rng(4)
    chance = np.clip(rng.beta(0.6, 0.6, (60, 70)), 1.2 * promised.LEAST, 1)
    likely = torch.from_numpy(np.stack([1 - chance, chance])[None])
    called = chance > 0.5
    drawn = [rng.random(chance.shape) < chance for _ in range(50)]
    dice = np.mean([2 * (called & truth).sum() / (called.sum() + truth.sum()) for truth in drawn])
    assert promised.overlap(promised.sums(likely)) == pytest.approx(dice, abs=0.01)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    place = tmp_path_factory.mktemp("promised")
    cases = load(write_pairs(place / "cells", 10)).cases
    return place, cases, Segment.of(cases)


def test_curate_asks_one_predictor_of_outlines(learned, tmp_path):
    place, cases, task = learned
    encoder = resolve("efficientnet-lite0", size=64, cache=place / "cache")
    fitted = dense_knn(encoder, cases[:2], task)
    facts = {
        "task": "segment", "task_settings": task.settings(), "method": "dense_knn",
        "model": encoder.card.name, "model_key": encoder.key, "size": 64,
    }  # fmt: skip
    save_predictor(place / "predictor", fitted, facts)
    found = medspectrum.curate(
        place / "cells", n=3, out=tmp_path, strategy="next", predictor=str(place / "predictor"),
        models="efficientnet-lite0", size=64, cache=place / "cache", quiet=True,
    )  # fmt: skip
    expected = {c.id: 1 - promised.overlap(p) for c, p in zip(cases, fitted.promised(cases), strict=True)}
    assert len(found["chosen"]) == 3
    for one in found["chosen"]:
        assert one["score"] == pytest.approx(expected[one["case"]], abs=1e-3)
        assert "promises an overlap of 0." in one["reason"]
    assert found["chosen"][0]["score"] == pytest.approx(max(expected.values()), abs=1e-3)
    assert any("something is outlined" in row["reason"] for row in found["baseline"])


def test_a_network_of_windows_promises_too_and_outlines_as_before(learned):
    _, cases, task = learned
    fitted = unet_from_scratch(None, cases[:4], task, least_steps=4, most_steps=4)
    [label_map] = fitted.predict(cases[5:6])
    [parts] = fitted.promised(cases[5:6])
    assert label_map.shape == (1, 36, 44)
    assert parts[1] == (label_map.array() > 0).sum()
    assert 0 <= promised.overlap(parts) <= 1


def test_a_tuned_encoder_promises_of_what_it_outlines(learned):
    place, cases, task = learned
    encoder = resolve("efficientnet-lite0", size=64, cache=place / "cache")
    fitted = full_decoder(encoder, cases[:3], task, least_steps=3, most_steps=3)
    for case in cases[5:7]:
        [label_map], [parts] = fitted.predict([case]), fitted.promised([case])
        assert parts[1] == (label_map.array() > 0).sum() > 0
        assert 0 < promised.overlap(parts) < 1

"""Remedies without labels undo what they are made for, and measures of what they close are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_encoder import Projection, cases_of
from medspectrum import appearance, compared, outliers, reference, registry, remedies, shifts
from medspectrum.case import Case, LazyImage
from medspectrum.engine import norms
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.tasks.classify import Classify

TASK = Classify(("dark", "light"))


def lazy(array: np.ndarray, name: str, modality: str = "") -> LazyImage:
    image = Image(array, modality=modality)
    return LazyImage(f"{name}.png", lambda: image, lambda: f"{abs(hash(name)):032x}"[:32])


def pictures(channels: int, count: int = 12, seed: int = 0) -> list[LazyImage]:
    """Smooth pictures that differ from one another, brighter to one side."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        y, x = np.indices((40, 52)) / 52
        base = 0.25 + 0.3 * x + 0.15 * np.sin(6 * y + rng.uniform(0, 6)) + 0.05 * rng.normal(size=(40, 52))
        planes = np.stack([base * g for g in (1.0, 0.75, 0.9)[:channels]])[:, None]
        found.append(lazy(np.clip(planes * 255, 0, 255).astype(np.uint8), f"{channels}-{seed}-{i}"))
    return found


def fitted(cases, model):
    predictor = registry.find("method", "ridge").thing(model, cases, TASK)
    return remedies.Adapted.of("ridge", model, predictor), predictor


@pytest.fixture(scope="module")
def trained():
    cases = cases_of({"dark": 40, "light": 40}, order=["dark", "light"])
    model = Projection()
    adapted, predictor = fitted(cases, model)
    return cases, adapted, predictor, reference.make_reference(cases, TASK, model)


class Recorder:
    """A predictor that keeps the images it is asked about."""

    def __init__(self):
        self.seen = []

    def predict(self, cases):
        self.seen = [im.load() for c in cases for im in c.images.values()]
        return np.full((len(cases), 2), 0.5)


@pytest.mark.parametrize(
    ("channels", "shift", "left"),
    [(1, "gamma", 0.3), (1, "response", 0.3), (3, "stain", 0.3), (3, "white_balance", 0.3)],
)
def test_harmonising_brings_intensities_back(monkeypatch, channels, shift, left):

    plain = [Case(str(i), str(i), {"image": im}) for i, im in enumerate(pictures(channels, seed=1))]
    learned = reference.Reference(reference.intensities(pictures(channels, count=24)))
    moved = shifts.shifted(plain, shift, 4)
    recorder = Recorder()
    adapted = remedies.Adapted("ridge", None, {}, {})
    monkeypatch.setattr(remedies.Adapted, "on", lambda self, model: recorder)
    remedies.harmonise(adapted, remedies.Unlabelled(moved, learned))
    wanted = [c.images["image"].load().array.astype(float) for c in plain]
    shifted = [c.images["image"].load().array.astype(float) for c in moved]
    before = np.mean([np.abs(a - b).mean() for a, b in zip(shifted, wanted, strict=True)])
    after = np.mean([np.abs(a.array - b).mean() for a, b in zip(recorder.seen, wanted, strict=True)])
    assert after < left * before, (after, before)
    assert all(a.array.dtype == np.uint8 for a in recorder.seen)


def smears(count: int, seed: int) -> list[LazyImage]:
    """Cells on a light ground, their nuclei in haematoxylin and the rest in eosin; no two pictures alike."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((48, 56))
    found = []
    for i in range(count):
        away = np.hypot(y - rng.uniform(14, 34), x - rng.uniform(14, 42))
        cell, nucleus = away < rng.uniform(11, 16), away < rng.uniform(4, 9)
        amounts = np.stack([0.8 * nucleus, 0.5 * cell, 0.05 + 0.02 * rng.uniform(size=away.shape)])
        amounts *= rng.uniform(0.8, 1.2, 3)[:, None, None]
        density = np.einsum("syx,sc->cyx", amounts, appearance._stains())
        found.append(lazy(np.rint(np.exp(-density) * 255).astype(np.uint8)[:, None], f"smear-{seed}-{i}"))
    return found


def test_another_stain_is_undone_and_more_of_the_same_lab_is_left_alone():
    learned = appearance.intensities(smears(40, 1))
    new = [Case(str(i), str(i), {"image": im}) for i, im in enumerate(smears(30, 2))]
    alone = appearance.change_between(appearance.intensities([c.images["image"] for c in new]), learned)
    assert alone is not None
    first = new[0].images["image"].load()
    assert np.array_equal(alone(first).array, first.array)
    moved = shifts.shifted(new, "stain", 5)
    change = appearance.change_between(appearance.intensities([c.images["image"] for c in moved]), learned)
    assert change is not None
    before, after = [], []
    for one, other in zip(new, moved, strict=True):
        wanted, given = (c.images["image"].load().array.astype(float) for c in (one, other))
        before.append(np.abs(given - wanted).mean())
        after.append(np.abs(change(other.images["image"].load()).array - wanted).mean())
    assert np.mean(after) < 0.5 * np.mean(before), (np.mean(after), np.mean(before))
    assert appearance.change_between({"intensity_curve": np.zeros(129)}, learned) is None


def test_the_transport_turns_one_covariance_into_another():
    rng = np.random.default_rng(0)
    one, two = (np.cov(rng.normal(size=(3, 3)) @ rng.normal(size=(3, 500))) for _ in range(2))
    matrix = appearance._transport(one, two)
    assert np.allclose(matrix @ one @ matrix.T, two, rtol=1e-6)
    assert np.allclose(matrix, matrix.T)


def test_aligned_features_undo_a_shift_of_the_features(trained):
    _, adapted, predictor, learned = trained
    new = cases_of({"dark": 60, "light": 60}, order=["dark", "light"], first=500)
    model = Projection()
    head = predictor.weights[:, 0]
    scale, offset = (
        np.random.default_rng(0).uniform(0.8, 1.25, 24),
        8 * head / (head @ head),
    )  # fools the head
    moved = remedies.Seen(model, lambda images: model.embed(images).pooled * scale + offset)
    of = compared.judge(replace_primary("accuracy"), predictor.predict(new), new)
    worse = adapted.on(moved).predict(new)
    mended = remedies.align_features(replace(adapted, model=moved), remedies.Unlabelled(new, learned))
    low, mid = (compared.judge(replace_primary("accuracy"), p, new) for p in (worse, mended))
    found = compared.closed(of, low, mid, new)
    assert found["gap"]["low"] > 0.1
    assert found["closed"]["value"] > 0.8
    assert found["gain"]["low"] > 0


def replace_primary(score: str) -> Classify:
    return Classify(TASK.classes, primary=score)


def test_remedies_say_for_whom_they_are_not(trained):
    cases, adapted, _, learned = trained
    here = remedies.Unlabelled(cases, learned)
    with pytest.raises(UserError, match="no network"):
        remedies.batch_statistics(adapted, here)
    with pytest.raises(UserError, match="too few cases"):
        remedies.align_features(adapted, remedies.Unlabelled(cases, reference.Reference({})))
    with pytest.raises(UserError, match="no remedy 'prayer'"):
        remedies.chosen("entropy,prayer")


def network(seed: int = 0):
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net[1].running_mean.normal_()
    return net.eval()


def stacks(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(1.5, 2, (1, 3, 12, 12)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("prior", [0.0, 30.0])
def test_renewed_statistics_are_those_of_the_images(prior):
    net, given = network(), stacks(40)
    old_mean, old_var = net[1].running_mean.clone(), net[1].running_var.clone()
    with torch.no_grad():
        seen = net[0](torch.from_numpy(np.concatenate(given)))
    assert norms.renew_statistics(net, given, prior=prior)
    share = 40 / (40 + prior)
    mean = share * seen.mean((0, 2, 3)) + (1 - share) * old_mean
    assert torch.allclose(net[1].running_mean, mean, atol=2e-3)
    spread = share * seen.var((0, 2, 3)) + (1 - share) * old_var
    spread += share * (1 - share) * (seen.mean((0, 2, 3)) - old_mean) ** 2
    assert torch.allclose(net[1].running_var, spread, rtol=0.02)
    assert not net.training
    assert not norms.renew_statistics(torch.nn.Linear(3, 3), given, prior=prior)


def test_carried_statistics_undo_a_gain_without_forgetting_the_old_ones():
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, bias=False), torch.nn.BatchNorm2d(8),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    for m in norms.batch_norms(net):  # statistics of quite other images, as of a pretraining
        m.running_mean.normal_()
        m.running_var.uniform_(0.5, 3)
    learned = stacks(24)
    wanted = norms.pooled(net, learned)
    brighter = [2.5 * one for one in learned]
    assert np.abs(norms.pooled(net, brighter) - wanted).mean() > 0.2
    assert norms.carry_statistics(net, brighter, learned, prior=0.0)
    assert np.allclose(norms.pooled(net, brighter), wanted, atol=1e-3)
    assert not norms.carry_statistics(net, brighter, [], prior=0.0)
    assert not net[1]._forward_pre_hooks


def test_entropy_falls_and_only_norms_move():
    net, given = network(), stacks(64)
    weights = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    before = net[0].weight.clone()

    def entropy() -> float:
        p = torch.from_numpy(norms.pooled(net, given)) @ weights
        return float(-(p.softmax(1) * p.log_softmax(1)).sum(1).mean())

    first = entropy()
    assert norms.descend_entropy(net, given, lambda f: f @ weights, rate=1e-2, batch=16, seed=0) == 4
    assert entropy() < first
    assert torch.equal(net[0].weight, before)


def test_slices_of_a_volume_are_averaged():
    net = network()
    three = np.concatenate(stacks(3))
    apart = norms.pooled(net, [three[i : i + 1] for i in range(3)])
    assert np.allclose(norms.pooled(net, [three, three[:1]]), [apart.mean(axis=0), apart[0]], atol=1e-6)


def test_unlikeness_rises_with_distance_and_outside_the_main_directions():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 90)) + 0.1 * rng.normal(size=(400, 90))
    kept = outliers.describe_features(rows[:300])
    assert kept["feature_basis"].shape == (64, 90)
    like = outliers.unlikeness(kept, rows[300:])
    along = outliers.unlikeness(kept, rows[300:] * 4)
    beside = outliers.unlikeness(kept, rows[300:] + 2 * rng.normal(size=(100, 90)))
    for name in outliers.SCORES:
        assert np.median(beside[name]) > np.quantile(like[name], 0.95)
    assert np.median(along["mahalanobis"]) > 5 * np.median(like["mahalanobis"])
    assert outliers.describe_features(rows[:7]) == {}


def test_the_worst_group_is_named_and_weighed_against_chance():
    cases = cases_of({"dark": 150, "light": 150}, order=["dark", "light"])
    rng = np.random.default_rng(0)
    truth = np.array([TASK.target(c) for c in cases])
    names = np.array(["north", "south", "west"])[rng.integers(3, size=300)]
    right = np.where(truth == 1, 0.8, 0.2) + rng.normal(0, 0.15, 300)
    wrong = np.where(names == "south", rng.random(300), right).clip(0.01, 0.99)
    for answers, sure in ((right.clip(0.01, 0.99), False), (wrong, True)):
        of = compared.judge(TASK, np.stack([1 - answers, answers], 1), cases)
        found = compared.worst_group(of, cases, names.tolist())
        assert found is not None
        if sure:
            assert found["name"] == "south"
            assert found["gap"]["low"] > 0.2
            assert found["by_chance"]["share"] == 0
        else:
            assert found["by_chance"]["share"] > 0.02
    assert compared.worst_group(of, cases, ["one"] * 300) is None

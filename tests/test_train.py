"""The training loop: determinism, balance, parting by patient, limits, resuming."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from medspectrum.engine import train  # noqa: E402
from medspectrum.engine.class_loss import weights_of  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(cases: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a brighter left half in class 1; one case in four is of class 1."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(cases) % 4 == 0).astype(np.int64)
    pictures = rng.normal(0, 1, (cases, 3, 8, 8)).astype(np.float32)
    pictures[targets == 1, :, :, :4] += 1.0
    return pictures, targets


def net(seed: int = 0):
    torch.manual_seed(seed)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(288, 2)
    )


def trained(network, **changed):
    pictures, targets = made()
    options = {"classes": 2, "steps": 30, "batch_cases": 16, "seed": 3} | changed
    inputs = train.Inputs(lambda i: pictures[i], len(pictures))
    rate = train.Rate(list(network.parameters()), 1e-2, 0.01)
    return train.fit(network, inputs, targets, rates=[rate], **options)


def bits(network) -> bytes:
    return b"".join(t.numpy().tobytes() for t in network.state_dict().values())


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    one, two, other = net(), net(), net()
    trained(one)
    trained(two)
    trained(other, seed=4)
    assert bits(one) == bits(two)
    assert bits(one) != bits(other)


def test_training_leaves_the_random_state_of_the_process_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    network = net()
    torch.manual_seed(11)
    trained(network)
    assert torch.equal(torch.rand(3), expected)


def test_training_learns_unseen_cases_and_frozen_statistics_stay():
    network = net()
    trained(network, steps=80)
    pictures, targets = made(200, seed=9)
    said = train.logits_of(network, train.Inputs(lambda i: pictures[i], 200), np.arange(200)).argmax(1)
    sensitivity = [(said[targets == c] == c).mean() for c in (0, 1)]
    assert min(sensitivity) > 0.8
    assert torch.equal(network[1].running_mean, torch.zeros(8))
    trained(network, frozen_statistics=False)
    assert not torch.equal(network[1].running_mean, torch.zeros(8))
    assert not network.training


def test_parameters_that_do_not_learn_keep_their_bits():
    network = net()
    network[0].weight.requires_grad_(False)
    before = network[0].weight.clone()
    trained(network)
    assert torch.equal(network[0].weight, before)


def test_balanced_weights_give_each_class_the_same_sum():
    targets = np.array([0] * 90 + [2] * 10)
    weights = weights_of("balanced", np.bincount(targets, minlength=4))
    assert weights[[1, 3]].tolist() == [0, 0]
    assert weights[targets][targets == 0].sum() == pytest.approx(weights[targets][targets == 2].sum())
    assert weights[targets].mean() == pytest.approx(1)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=4, max_size=120),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_group_is_held_out_and_trained_on(pairs, seed):
    groups = np.array([g for g, _ in pairs])
    targets = np.array([t for _, t in pairs])
    training, validation = train.hold_out(targets, groups, fraction=0.2, seed=seed, least_groups=3)
    assert sorted([*training, *validation]) == list(range(len(pairs)))
    assert not set(groups[training]) & set(groups[validation])
    assert set(targets[training]) == set(targets)


def test_few_groups_are_all_trained_on_and_many_are_parted():
    targets = np.arange(60) % 2
    for groups, held in ((np.arange(60) // 10, False), (np.arange(60), True)):
        validation = train.hold_out(targets, groups, fraction=0.2, seed=0, least_groups=8)[1]
        assert bool(len(validation)) == held


def test_the_best_look_on_the_validation_part_is_kept():
    network = net()
    fitted = trained(
        network, training=np.arange(32), validation=np.arange(32, 48), steps=60, looks=12, patience=100
    )
    pictures, targets = made()
    logits = train.logits_of(network, train.Inputs(lambda i: pictures[i], 48), np.arange(32, 48))
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(targets[32:48]),
        weight=torch.from_numpy(weights_of("balanced", np.bincount(targets[32:48], minlength=2))),
    )
    best = min(fitted.validation_loss, key=lambda look: look[1])
    assert best[0] == fitted.best_step
    assert loss.item() == pytest.approx(best[1], rel=1e-4)
    assert len(fitted.validation_loss) == 13


def test_training_that_only_harms_is_undone_and_stopped_early():
    network = net()
    pictures, targets = made()
    wrong = targets.copy()
    wrong[32:] = 1 - wrong[32:]  # validation says the opposite of what is trained
    inputs = train.Inputs(lambda i: pictures[i], 48)
    rate = train.Rate(list(network.parameters()), 1e-2)
    before = bits(network)
    fitted = train.fit(
        network, inputs, wrong, classes=2, rates=[rate], steps=100, looks=20, patience=2,
        training=np.arange(32), validation=np.arange(32, 48), average=0.0,
    )  # fmt: skip
    assert fitted.steps < 100
    assert fitted.best_step == 0
    assert bits(network) == before


def test_a_time_limit_cuts_the_steps():
    fitted = trained(net(), steps=1_000_000, max_seconds=0.5)
    assert 5 <= fitted.steps < 100_000
    assert fitted.wall_seconds < 20


class Stopped(Exception):
    """Stands for a process that was killed."""


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    whole, broken = net(), net()
    options = {"training": np.arange(32), "validation": np.arange(32, 48), "steps": 20, "looks": 10}

    def jitter(batch, rng):
        return batch + 0.1 * torch.randn(batch.shape, generator=rng)

    expected = trained(whole, augment=jitter, **options)

    def stop(_what: str, step: int, _steps: int) -> None:
        if step == 11:
            raise Stopped

    file = tmp_path / "fit.ckpt"
    with pytest.raises(Stopped):
        trained(broken, augment=jitter, checkpoint=file, progress=stop, **options)
    again = net()
    seen: list[int] = []
    fitted = trained(
        again, augment=jitter, checkpoint=file, progress=lambda _w, step, _s: seen.append(step), **options
    )
    assert seen[0] == 11
    assert bits(again) == bits(whole)
    assert fitted.validation_loss == expected.validation_loss


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path):
    file = tmp_path / "fit.ckpt"
    trained(net(), checkpoint=file)
    one, two = net(), net()
    trained(one, seed=8)
    trained(two, seed=8, checkpoint=file)
    assert bits(one) == bits(two)


def test_the_memory_bound_changes_no_result():
    pictures, _ = made()
    reads: list[int] = []

    def load(i: int) -> np.ndarray:
        reads.append(i)
        return pictures[i]

    kept, streamed = train.Inputs(load, 48), train.Inputs(load, 48, bound_mb=0.0)
    for _ in range(2):
        assert torch.equal(kept.take([1, 2]), streamed.take([1, 2]))
    assert len(reads) == 2 + 4


def test_steps_are_epochs_within_bounds():
    count = train.number_of_steps
    assert count(320, 32, epochs=4, least_steps=30, most_steps=600) == 40
    assert count(2, 32, epochs=4, least_steps=30, most_steps=600) == 30
    assert count(10**6, 32, epochs=4, least_steps=30, most_steps=600) == 600


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="hinge"):
        trained(net(), loss="hinge")

"""The planned U-Net: patches, norms, precision and equal bits."""

from __future__ import annotations

import numpy as np
import pytest

from made_outlines import outlined
from medspectrum import registry
from medspectrum.engine import patches, precision, unet
from medspectrum.errors import UserError
from medspectrum.tasks.segment import Segment

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

PLANS = {
    2: unet.Design(2, (), (16, 24), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (8, 16, 16), 3, 3),
    3: unet.Design(3, (), (8, 16, 8), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3, (8, 16, 16), 1, 3),
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int = 0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("axes", [2, 3])
def test_the_norms_of_training_give_the_numbers_of_instance_norms(axes):
    plan = PLANS[axes]
    trained = unet.network(plan, 4)
    plain = unet.without_supervision(trained, plan)
    kinds = {type(part).__name__ for part in trained.modules()}
    assert not any("InstanceNorm" in kind for kind in kinds)
    seen = torch.randn((3, plan.channels, *plan.patch), generator=generator())
    with torch.no_grad():
        trained.train()
        deep = trained(seen)
        torch.testing.assert_close(deep[:, 0], plain(seen), rtol=1e-4, atol=1e-4)


def test_a_stage_of_one_voxel_can_be_trained():
    plan = unet.Design(2, (), (4, 4), ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3, (8, 8, 8), 1, 2)
    trained = unet.network(plan, 0)
    scores = trained(torch.randn((2, 1, 4, 4), generator=generator()))
    scores.sum().backward()
    assert bool(torch.isfinite(scores).all())


def test_scores_in_the_quick_precision_stay_near_float32():
    plan = PLANS[3]
    network = unet.network(plan, 1)
    seen = torch.randn((2, 1, *plan.patch), generator=generator())
    with torch.no_grad():
        exact = network(seen)
        with precision.quick_training():
            quick = network(seen).float()
    similar = torch.nn.functional.cosine_similarity(exact.flatten(), quick.flatten(), dim=0)
    assert float(similar) > 0.999


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(kind):
    cases = outlined(3, kind=kind)
    task = Segment.of(cases)
    method = registry.find("method", "unet").thing

    def bits(seed: int) -> bytes:
        arrays, _ = method(None, cases, task, seed=seed, least_steps=2, most_steps=2, features=8).state()
        return b"".join(arrays[name].tobytes() for name in sorted(arrays))

    assert bits(1) == bits(1)
    assert bits(1) != bits(2)


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_members_learn_apart_and_their_probabilities_are_averaged(kind):
    cases = outlined(3, kind=kind)
    task = Segment.of(cases)
    entry = registry.find("method", "unet")
    few = {"least_steps": 2, "most_steps": 2, "features": 8}
    alone = [entry.thing(None, cases, task, seed=seed, **few) for seed in (1, 1001)]
    both = entry.thing(None, cases, task, seed=1, members=2, **few)
    arrays, settings = both.state()
    for member, single in enumerate(alone):
        for name, own in single.state()[0].items():
            np.testing.assert_array_equal(arrays[f"members.{member}.{name}"], own)
    seen = torch.randn((1, both.plan.channels, *both.plan.patch), generator=generator())
    with torch.no_grad():
        wanted = torch.stack([single.network(seen).softmax(dim=1) for single in alone]).mean(dim=0)
        torch.testing.assert_close(both.network(seen), wanted)
    restored = entry.facts["restore"](None, arrays, settings)
    for told, kept in zip(restored.predict(cases), both.predict(cases), strict=True):
        np.testing.assert_array_equal(told.array(), kept.array())
    assert both.trained_parameters == 2 * alone[0].trained_parameters
    with pytest.raises(UserError, match="give 1 or more"):
        entry.thing(None, cases, task, members=0)


def ball(size: tuple[int, ...]) -> patches.Sample:
    """A bright ball that is labelled."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    far = np.linalg.norm(places - (np.array(size) - 1) / 2, axis=-1)
    labels = (far < min(size) / 3).astype(np.uint8)
    return patches.Sample.of(labels[None].astype(np.float32), labels, 2, 0)


@pytest.mark.parametrize("size", [(40, 48), (20, 28, 24)])
def test_image_and_labels_are_changed_together(size):
    sample = ball(size)
    always = patches.Turning(degrees=30.0, share=1.0, mirror=(0,))
    for seed in range(6):
        image, labels = patches.cut(sample, size, always, generator(seed))
        assert image.shape == (1, *size)
        assert labels.shape == size
        seen = image[0] > 0.5
        differing = float((seen != labels.bool()).float().sum() / labels.float().sum())
        assert differing < 0.1  # voxels that the ball leaves half covered
        again, _ = patches.cut(sample, size, always, generator(seed))
        assert torch.equal(again, image)
    same, _ = patches.cut(sample, size, patches.Turning(share=0.0), generator(1))
    np.testing.assert_allclose(same[0].numpy(), sample.image[0].astype(np.float32), atol=1e-3)


def test_patches_are_bent_smoothly_and_not_along_a_coarse_axis():
    moves = torch.stack([patches.bent((12, 40, 30), -1, generator(seed)) for seed in range(40)])
    assert moves.shape == (40, 12, 40, 30, 3)
    typical = float(moves.std())
    assert 0.3 < typical / (patches.BEND * 40 / patches.BEND_POINTS) < 1.0
    steps = moves.diff(dim=2).abs().max()
    assert float(steps) < 1.0  # voxels never change places
    assert float(patches.bent((12, 40, 30), 0, generator(3))[..., 0].abs().max()) == 0


@pytest.mark.parametrize("shape", [(3, 3, 20, 24), (3, 1, 8, 12, 10)])
def test_shades_change_values_alone_and_by_the_generator(shape):
    batch = torch.randn(shape, generator=generator(9))
    found = [patches.shade(batch.clone(), generator(seed)) for seed in (1, 1, 2)]
    assert found[0].shape == batch.shape
    assert all(bool(torch.isfinite(one).all()) for one in found)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])

"""What an apparatus does to pictures: bounded, decided by the generator, true to what each is named after."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medspectrum import augment, distort  # noqa: E402


def rng(seed: int = 0):
    return torch.Generator().manual_seed(seed)


def coloured(n: int = 8, side: int = 24):
    return torch.rand(n, 3, side, side, generator=rng(9))


def grey(n: int = 8, side: int = 24):
    return torch.rand(n, 1, side, side, generator=rng(9)).expand(n, 3, side, side).contiguous()


@pytest.mark.parametrize("name", sorted(distort.DISTORTIONS))
def test_the_generator_decides_and_the_batch_is_left_alone(name):
    change, batch = distort.DISTORTIONS[name], coloured()
    before = batch.clone()
    one, two, other = change(batch, rng(1)), change(batch, rng(1)), change(batch, rng(2))
    assert one.shape == batch.shape
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("name", sorted(distort.DISTORTIONS))
def test_grey_pictures_stay_grey(name):
    changed = distort.DISTORTIONS[name](grey(), rng(1))
    assert float((changed.amax(1) - changed.amin(1)).abs().max()) < 1e-5


@pytest.mark.parametrize("name", sorted(distort.DISTORTIONS))
def test_a_constant_picture_survives(name):
    changed = distort.DISTORTIONS[name](torch.full((4, 3, 16, 16), -0.7), rng(1))
    assert torch.isfinite(changed).all()


def test_stains_change_and_grey_pictures_do_not():
    assert not torch.allclose(distort.stain(coloured(), rng(1)), coloured(), atol=1e-3)
    assert torch.equal(distort.stain(grey(), rng(1)), grey())


def test_erasing_takes_away_a_rectangle_of_the_stated_area():
    batch = grey(64, 40)
    gone = (distort.erase(batch, rng(1)) != batch).any(1).float()
    share = gone.mean(dim=(1, 2))
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.3
    for one in gone[:8]:
        rows, columns = one.any(1).sum(), one.any(0).sum()
        assert int(one.sum()) >= 0.97 * int(rows * columns)


def test_a_ghost_lies_half_a_picture_away():
    batch = torch.zeros(16, 1, 32, 32)
    batch[:, :, 4, 7] = 1.0
    changed = distort.k_space(batch, rng(1))
    assert float(changed[:, 0, 20, 7].max()) > 0.02
    assert float(changed[:, 0, 20, 8].abs().max()) == 0


def test_a_bias_field_is_smooth_and_speckle_leaves_the_dark_alone():
    flat = torch.ones(4, 1, 32, 32)
    flat[:, :, 0, 0] = 0.0
    field = distort.bias_field(flat, rng(1))[:, :, 1:, 1:]
    assert float(field.diff(dim=2).abs().max()) < 0.1
    assert float(field.max() - field.min()) > 0.05
    half = torch.zeros(4, 1, 32, 32)
    half[:, :, 16:] = 1.0
    grain = distort.speckle(half, rng(1))
    assert float(grain[:, :, :16].abs().max()) == 0
    assert float(grain[:, :, 16:].std()) > 0.01


@pytest.mark.parametrize(
    ("modality", "there", "absent"),
    [
        ("SM", "stain", "k_space"),
        ("MR", "bias_field", "stain"),
        ("CR", "gamma", "stain"),
        ("US", "speckle", "k_space"),
    ],
)
def test_what_distorts_a_slide_is_not_what_distorts_a_radiograph(modality, there, absent):
    names = distort.fitting(augment._kind(modality), modality)
    assert there in names
    assert absent not in names
    change = augment.chosen(modality, gentle=False, distort="modality")
    assert not torch.equal(change(coloured(), rng(1)), coloured())


def test_mixup_is_the_weighted_mean():
    batch = coloured()
    mixed, partner, share = distort.mixing("mixup")(batch, rng(3))
    assert torch.allclose(mixed, share * batch + (1 - share) * batch[partner])
    assert 0 < share < 1


def test_cutmix_states_the_share_that_is_left():
    mix = distort.mixing("cutmix")
    for seed in range(10):
        batch = torch.arange(6.0)[:, None, None, None].expand(6, 1, 20, 30).contiguous()
        mixed, partner, share = mix(batch, rng(seed))
        own = np.mean([(mixed[i] == batch[i]).float().mean() for i in range(6) if partner[i] != i])
        assert own == pytest.approx(share, abs=1e-6)


def test_no_mixing_is_none():
    assert distort.mixing("none") is None

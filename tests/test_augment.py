"""Augmentation: what may change by modality, and that the generator decides all of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from medspectrum import augment  # noqa: E402


def rng(seed: int = 0):
    return torch.Generator().manual_seed(seed)


def ramp(n: int = 64, side: int = 16):
    """Bright to the right, so that a mirror image is told by its slope."""
    return torch.linspace(-1, 1, side).expand(n, 3, side, side).contiguous()


def slopes(batch):
    return batch[..., -1].mean(dim=(1, 2)) - batch[..., 0].mean(dim=(1, 2))


@pytest.mark.parametrize("modality", ["CR", "DX", "SM", "CT", ""])
def test_shape_and_determinism(modality):
    change = augment.for_modality(modality)
    batch = torch.rand(6, 3, 20, 20, generator=rng(5))
    before = batch.clone()
    one, two, other = change(batch, rng(1)), change(batch, rng(1)), change(batch, rng(2))
    assert one.shape == batch.shape
    assert torch.isfinite(one).all()
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(batch, before)


@pytest.mark.parametrize(("modality", "turned"), [("CR", False), ("CT", False), ("SM", True), ("", True)])
def test_only_pictures_without_sides_are_mirrored(modality, turned):
    found = slopes(augment.for_modality(modality)(ramp(), rng()))
    assert bool((found < 0).any()) == turned
    assert (found > 0).any()


def test_turns_are_the_eight_of_a_square_and_only_those():
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = augment.turn(square.expand(400, 1, 3, 3), rng())
    seen = {tuple(t.flatten().tolist()) for t in turned}
    ways = [torch.rot90(s, k, (2, 3)) for s in (square, square.flip(3)) for k in range(4)]
    assert seen == {tuple(w.flatten().tolist()) for w in ways}


def test_oblong_pictures_keep_their_shape():
    assert augment.turn(torch.rand(8, 1, 4, 6), rng()).shape == (8, 1, 4, 6)


def test_nothing_asked_for_changes_nothing():
    batch = torch.rand(3, 3, 12, 12)
    moved = augment.move(batch, rng(), degrees=0.0, crop=0.0, mirror=False)
    assert torch.allclose(moved, batch, atol=1e-5)
    assert torch.allclose(augment.relight(batch, rng(), brightness=0.0, contrast=0.0), batch, atol=1e-6)
    assert torch.allclose(augment.tint(batch, rng(), strength=0.0), batch)


def test_grey_pictures_get_no_colour():
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8)
    assert torch.equal(augment.tint(grey, rng(), strength=0.5), grey)


def test_contrast_keeps_the_mean_and_changes_the_spread():
    batch = torch.rand(16, 3, 8, 8)
    lit = augment.relight(batch, rng(), brightness=0.0, contrast=0.3)
    assert torch.allclose(lit.mean((1, 2, 3)), batch.mean((1, 2, 3)), atol=1e-5)
    ratio = lit.std((1, 2, 3)) / batch.std((1, 2, 3))
    assert ratio.min() >= 0.7 - 1e-4
    assert ratio.max() <= 1.3 + 1e-4

"""Acquisition shifts: their strengths mean what they say, they rise, and the anatomy stays where it is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from medspectrum import shifts
from medspectrum.case import Case, LazyImage
from medspectrum.errors import UserError
from medspectrum.image import Image

AFFINE = np.diag([0.8, 1.5, 3.0, 1.0])


def phantom(modality: str = "", *, depth: int = 1, channels: int = 1, dtype: type = np.uint8) -> Image:
    """A bright block towards one corner with a dim tail, so that every axis has a direction."""
    size = (depth, 48, 64)
    z, y, x = np.indices(size) / np.array(size)[:, None, None, None]
    values = 0.3 + 0.2 * x + 0.1 * y + 0.1 * z
    values[:, 8:20, 30:54] += 0.25
    values[:, 34:38, 5:40] -= 0.15
    planes = np.stack([values * g for g in (1.0, 0.7, 0.9)[:channels]]) * 255
    if modality == "CT":
        planes = planes * 4 - 600
    return Image(planes.astype(dtype), AFFINE, modality)


def rng():
    return np.random.default_rng(5)


def kinds(name: str):
    """An image that the shift is meant for."""
    if name in ("stain", "white_balance"):
        return phantom("SM", channels=3)
    if name == "offset_hu":
        return phantom("CT", dtype=np.int16)
    if name in ("motion", "ghosting", "bias_field"):
        return phantom("MR", depth=5, dtype=np.float32)
    if name in ("blur", "resolution"):  # a share of the side: below a pixel it changes nothing
        small = phantom("CR")
        return Image(ndimage.zoom(small.array, (1, 1, 3.7, 3.7), order=1), AFFINE, "CR")
    return phantom("CR")


@pytest.mark.parametrize("name", shifts.SHIFTS)
def test_severities_rise_and_repeat(name):
    image = kinds(name)
    before = image.array.copy()
    away = []
    for severity in shifts.SEVERITIES:
        made = shifts.apply(image, name, severity, rng())
        again = shifts.apply(image, name, severity, rng())
        assert np.array_equal(made.array, again.array)
        assert made.array.shape == image.array.shape
        assert made.modality == image.modality
        assert np.array_equal(made.affine, image.affine)
        assert (made.array.dtype == np.uint8) == (image.array.dtype == np.uint8)
        assert np.isfinite(made.array.astype(float)).all()
        away.append(float(np.abs(made.array.astype(float) - before.astype(float)).mean()))
    assert np.array_equal(image.array, before)
    assert away[0] > 0
    assert all(a < b for a, b in itertools.pairwise(away)), away


@pytest.mark.parametrize("name", [n for n in shifts.SHIFTS if n not in ("jpeg", "offset_hu", "blur")])
def test_the_anatomy_stays_where_it_is(name):
    image = kinds(name)
    made = shifts.apply(image, name, 3, rng())

    def mean_plane(one: Image) -> np.ndarray:
        plane = one.array.astype(float).mean(axis=(0, 1))
        return plane - ndimage.gaussian_filter(plane, 6)

    before, after = mean_plane(image), mean_plane(made)
    moves = [(dy, dx) for dy in range(-5, 6) for dx in range(-5, 6)]
    inner = (slice(8, -8), slice(8, -8))
    found = max(moves, key=lambda m: float((np.roll(before, m, (0, 1))[inner] * after[inner]).sum()))
    assert np.abs(found).max() <= (1 if name == "motion" else 0), found


def test_strengths_mean_what_they_say():
    flat = Image(np.full((1, 1, 200, 200), 128, np.uint8), modality="CR")
    for severity, told in zip(shifts.SEVERITIES, shifts.SHIFTS["noise"].strengths, strict=True):
        found = shifts.apply(flat, "noise", severity, rng()).array.astype(float).std() / 255
        assert found == pytest.approx(told, rel=0.03)
    halves = np.full((1, 1, 200, 200), 60, np.uint8)
    halves[..., 100:] = 240
    made = shifts.apply(Image(halves, modality="CR"), "dose", 1, rng()).array.astype(float)
    dark, bright = made[..., :100].var() / 255**2, made[..., 100:].var() / 255**2
    assert bright / dark == pytest.approx(4, rel=0.1)  # the variance of photons grows with their number
    scan = phantom("CT", dtype=np.int16)
    assert np.allclose(shifts.apply(scan, "offset_hu", 4, rng()).array - scan.array, 35)
    mr = Image(
        np.concatenate([np.zeros((1, 4, 60, 30)), np.full((1, 4, 60, 30), 100.0)], axis=3), modality="MR"
    )
    air = shifts.apply(mr, "noise", 3, rng()).array[..., :30]
    assert air.min() >= 0
    assert air.mean() == pytest.approx(8 * np.sqrt(np.pi / 2), rel=0.05)
    even = Image(np.linspace(99.9, 100.1, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64), modality="MR")
    unit = (shifts.apply(even, "bias_field", 2, rng()).array - 99.9) / 0.2
    assert 0.5 < unit.max() <= 1.2 * 1.02  # half of 40 % above at most


def test_stain_moves_along_the_stains_only():
    image = phantom("SM", channels=3)
    made = shifts.apply(image, "stain", 2, rng())

    def amounts(one: Image) -> np.ndarray:
        vectors = shifts.STAINS / np.linalg.norm(shifts.STAINS, axis=1, keepdims=True)
        density = -np.log(np.clip(one.array.astype(float), 1, 255) / 255).reshape(3, -1)
        return np.linalg.inv(vectors).T @ density

    ratio = np.median(amounts(made) / amounts(image), axis=1)
    assert 1.15 <= ratio[0] <= 1.25
    assert 0.75 <= ratio[1] <= 0.85
    assert ratio[2] == pytest.approx(1, abs=0.06)
    grey = phantom("SM")
    assert shifts.apply(grey, "stain", 5, rng()) is grey


def test_a_thicker_slice_leaves_the_plane_sharp():
    volume = phantom("CT", depth=12, dtype=np.int16)
    made = shifts.apply(volume, "resolution", 3, rng())
    sharp = np.abs(np.diff(made.array.astype(float), axis=3)).max()
    assert sharp == pytest.approx(np.abs(np.diff(volume.array.astype(float), axis=3)).max(), rel=0.01)


def test_which_shifts_by_modality():
    assert "stain" in shifts.shifts_for("SM", colour=True, volume=False)
    assert "bias_field" in shifts.shifts_for("MR", colour=False, volume=True)
    assert "stain" not in shifts.shifts_for("CR", colour=False, volume=False)
    assert "jpeg" not in shifts.shifts_for("", colour=False, volume=True)
    assert shifts.chosen("none", "CT", colour=False, volume=True) == ()
    with pytest.raises(UserError, match="there is no shift 'sunshine'"):
        shifts.chosen("noise,sunshine", "", colour=False, volume=False)
    for wrong in ("", "0", "1,6", "two"):
        with pytest.raises(UserError, match="whole numbers from 1 to 5"):
            shifts.severities_of(wrong)


def test_a_shifted_case_has_keys_of_its_own_and_the_same_truth():
    image = phantom("CR")
    lazy = LazyImage("made/one.png", lambda: image, lambda: "ab" * 16)
    case = Case("one", "p1", {"image": lazy})
    (three,), (four,) = (shifts.shifted([case], "noise", s, seed=1) for s in (3, 4))
    (other,) = shifts.shifted([case], "noise", 3, seed=2)
    keys = {c.images["image"].key() for c in (case, three, four, other)}
    assert len(keys) == 4
    assert three.target is case.target
    assert three.id == case.id
    a, b = (c.images["image"].load().array.astype(float) - image.array for c in (three, four))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99  # the same draw, only stronger

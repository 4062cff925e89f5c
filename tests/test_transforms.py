"""From images to network input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum import transforms
from medspectrum.errors import UserError
from medspectrum.image import Image


def test_eight_bit_is_divided_by_255():
    image = Image(np.full((1, 1, 10, 10), 51, np.uint8))
    made = transforms.flat_input(image, side=10, mean=(0.1, 0.2, 0.3), std=(1, 1, 0.5))
    assert made.shape == (3, 10, 10)
    assert np.allclose(made[:, 0, 0], [0.1, 0.0, -0.2], atol=1e-6)


def test_other_intensities_go_by_percentiles_and_nan_is_lowest():
    values = np.linspace(-5, 5, 10000, dtype=np.float32).reshape(1, 1, 100, 100).copy()
    values[0, 0, 0, 0] = 1e9
    values[0, 0, 50, 50] = np.nan
    values[0, 0, 50, 51] = np.inf
    unit = transforms.to_unit(Image(values))[0, 0]
    assert unit[50, 50] == 0
    assert unit[50, 51] == 1
    assert abs(unit[50, 0] - 0.5) < 0.02
    assert unit.min() == 0
    assert unit.max() == 1


def test_an_image_without_a_finite_value_is_refused():
    with pytest.raises(UserError, match="no finite value"):
        transforms.to_unit(Image(np.full((1, 1, 4, 4), np.nan, np.float32)))


def test_ct_shows_three_windows():
    hu = np.array([-1000, -160, 40, 240, 1300], np.int16).reshape(1, 1, 1, 5)
    unit = transforms.to_unit(Image(hu, modality="CT"))
    assert unit.shape == (3, 1, 1, 5)
    assert np.allclose(unit[1, 0, 0], [0, 0, 0.5, 1, 1])
    assert unit[0, 0, 0, 0] == 0
    assert unit[2, 0, 0, 4] == 1


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1), (4, 3), (2, 3), (5, 3), (4, 1), (3, 3)])
def test_channels(have, want):
    array = np.random.default_rng(0).integers(0, 255, (have, 6, 7), dtype=np.uint8)
    made = transforms.with_channels(array, want)
    assert made.shape == (want, 6, 7)
    assert made.dtype == np.uint8
    if have == 4 and want == 3:
        assert np.array_equal(made, array[:3])


def test_aspect_is_kept_and_the_rest_is_the_mean():
    image = Image(np.full((3, 1, 20, 40), 255, np.uint8))
    made = transforms.flat_input(image, side=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert np.allclose(made[:, 16:48], 1)
    assert np.allclose(made[:, :16], 0)
    assert np.allclose(made[:, 48:], 0)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32, np.bool_]),
    st.integers(0, 5),
)
def test_any_small_picture_gives_finite_input(shape, kind, seed):
    rng = np.random.default_rng(seed)
    array = (rng.random(shape) * 200).astype(kind)[:, None]
    made = transforms.flat_input(Image(array), side=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert made.shape == (3, 32, 32)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert made.min() >= -1.0001
    assert made.max() <= 1.0001


def test_volumes_are_cut_along_their_widest_spacing():
    affine = np.diag([5.0, 1.0, 1.0, 1.0])  # x is the wide axis
    array = np.zeros((1, 30, 20, 50), np.uint8)
    array[..., :] = np.arange(50)
    image = Image(array, affine)
    assert transforms.through_plane_axis(image) == 3
    made = transforms.planes(image, 10)
    assert made.shape == (10, 1, 30, 20)
    assert [int(p.max()) for p in made] == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]
    assert transforms.through_plane_axis(Image(array)) == 1
    assert transforms.planes(Image(array), 24).shape[0] == 24
    assert transforms.flat_input(Image(array), side=32, mean=(0.5,) * 3, std=(0.5,) * 3).shape == (
        24,
        3,
        32,
        32,
    )


def test_input_sides():
    ask = transforms.input_side
    assert ask(28, stride=14, largest=224) == 112
    assert ask(50, stride=14, largest=224) == 196
    assert ask(1000, stride=14, largest=224) == 224
    assert ask(28, stride=32, largest=224) == 128
    assert ask(50, stride=32, largest=224) == 192
    assert ask(10, stride=16, largest=64) == 64


def test_area_resize_equals_adaptive_average_pooling():
    torch = pytest.importorskip("torch")
    volume = np.random.default_rng(0).random((13, 20, 9)).astype(np.float32)
    made = transforms.area_resize(volume, (5, 32, 9))
    there = torch.nn.functional.interpolate(torch.from_numpy(volume)[None, None], (5, 32, 9), mode="area")
    assert np.allclose(made, there[0, 0].numpy(), atol=1e-6)


def test_oriented_turns_to_ras():
    array = np.arange(24).reshape(1, 2, 3, 4)
    flipped = Image(array, np.diag([-1.0, 1.0, 1.0, 1.0]))
    assert np.array_equal(transforms.oriented(flipped), array[..., ::-1])
    assert np.array_equal(transforms.oriented(Image(array)), array)

"""Volumes as planes and back, and places of pixels in the network's square input."""

from __future__ import annotations

import numpy as np
import pytest

from made_outlines import lazy, outlined
from medspectrum import transforms
from medspectrum.case import LazyImage
from medspectrum.engine import planes
from medspectrum.image import Image

torch = pytest.importorskip("torch")


def of(image: Image, name: str) -> LazyImage:
    return LazyImage(name, lambda: image, lambda: name)


@pytest.mark.parametrize("coarse", [0, 1, 2])
def test_planes_are_cut_along_the_coarse_axis_and_join_in_place(coarse):
    array = np.random.default_rng(coarse).integers(0, 255, (1, 5, 6, 7)).astype(np.uint8)
    spacing = np.ones(3)
    spacing[2 - coarse] = 4.0  # x, y, z
    cut = planes.cut(of(Image(array, np.diag([*spacing, 1.0]), "MR", True), f"v{coarse}"))
    assert cut.axis == coarse
    assert len(cut.planes) == array.shape[coarse + 1]
    seen = [p.load().array[0, 0] for p in cut.planes]
    np.testing.assert_array_equal(cut.joined(seen), array[0])
    np.testing.assert_array_equal(np.stack(seen), cut.cut(array[0]))
    assert len({p.key() for p in cut.planes}) == len(cut.planes)


def test_a_picture_is_its_own_plane():
    own = lazy(0, "plane", "image")
    cut = planes.cut(own)
    assert cut.planes == (own,)
    assert cut.plane == (36, 44)


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (40, 40), (7, 90)])
@pytest.mark.parametrize("side", [64, 112])
def test_pixels_are_found_again_in_the_square(size, side):
    """What lies at a pixel's place in the square is what the picture holds there."""
    rows, columns = np.indices(size)
    ramp = np.stack([rows / size[0], columns / size[1]]).astype(np.float32)
    top, left, height, width = planes.window_of(size, side)
    assert (height, width) == transforms.fitted(size, side)
    square = torch.zeros(1, 2, side, side)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(ramp)[None], (height, width), mode="bilinear", align_corners=False
    )
    square[..., top : top + height, left : left + width] = resized
    back = planes.to_plane(square, size, side)[0].numpy()
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(back[inner], ramp[inner], atol=0.6 / min(size))
    some = np.array([3, 4]), np.array([3, 5])
    at = planes.at_points(square, planes.points(size, side, *some)).numpy()
    np.testing.assert_allclose(at, back[:, some[0], some[1]].T, atol=1e-5)


def test_labels_on_the_square_mark_the_padding():
    labels = np.ones((20, 40), np.uint8)
    made = planes.onto_square(labels, 64, 32)
    assert made.shape == (32, 32)
    assert (made[:8] == -1).all()
    assert (made[8:24] == 1).all()
    assert (made[24:] == -1).all()


def test_labels_go_to_the_square_and_back():
    labels = outlined(1)[0].target.mask.load().array[0, 0]
    made = planes.onto_square(labels, 112, 112)
    scores = torch.nn.functional.one_hot(torch.from_numpy(np.maximum(made, 0)), 3).movedim(-1, 0)[None]
    back = planes.to_plane(scores.float(), labels.shape, 112).argmax(dim=1)[0].numpy()
    assert (back == labels).mean() > 0.985

"""Pictures with smaller things than those learned from are seen enlarged, and answered on their own grid."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from made_discs import plane
from medspectrum.case import Case, LazyImage
from medspectrum.engine import apart, tiles
from medspectrum.image import Image
from medspectrum.methods import _apart

RULE = apart.Rule()


def lazy(array: np.ndarray) -> LazyImage:
    name = hashlib.sha256(array.tobytes()).hexdigest()
    return LazyImage(f"{name}.png", lambda: Image(array[None, None], spacing_known=False), lambda: name)


def dots(apart_px: int, radius: float, count: int = 6) -> np.ndarray:
    """(height, width) uint8: a lattice of discs of 200 on 20."""
    side = apart_px * count
    rows, columns = np.indices((side, side))
    away = np.hypot(rows % apart_px - apart_px / 2 + 0.5, columns % apart_px - apart_px / 2 + 0.5)
    return np.where(away < radius, 200, 20).astype(np.uint8)


def bright(images):
    """An answer that needs no training: what is brighter than half is inside, its distance as far."""
    rows = np.stack([np.concatenate([i.load().array[:, 0] for i in own]) for own in images])
    inside = torch.from_numpy(rows).float() / 255 - 0.5
    return torch.cat([-20 * inside, 20 * inside, inside.clamp_min(0) * 2], dim=1)


def predictor(smallest: float | None) -> _apart.ApartPredictor:
    sizes = None if smallest is None else [smallest, 3 * smallest]
    return _apart.ApartPredictor(("thing",), 0, bright, 64, "distance", RULE, {}, {"sizes": sizes})


def test_an_enlarged_picture_keeps_its_place_and_its_values():
    array, _ = plane(3)
    image = tiles.enlarged(lazy(array), 2).load()
    assert image.array.shape == (1, 1, 2 * array.shape[0], 2 * array.shape[1])
    assert image.array.dtype == np.uint8
    back = image.array[0, 0].reshape(array.shape[0], 2, array.shape[1], 2).mean(axis=(1, 3))
    assert np.abs(back - array).mean() < 3
    first = image.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(first[:2], [-0.25, -0.25])
    assert tiles.enlarged(lazy(array), 2).key() != tiles.enlarged(lazy(array), 4).key()


def test_typical_sizes_are_medians_of_pictures():
    _, numbers = plane(1)
    found = apart.typical_sizes([numbers.astype(np.int32)])
    assert found is not None
    assert found[0] == found[1] == pytest.approx(np.median(apart.diameters(numbers.astype(np.int32))))
    assert 13 < found[0] < 19
    assert apart.typical_sizes([np.zeros((4, 4), np.int32)]) is None


@pytest.mark.parametrize(("smallest", "times"), [(4.0, 1), (7.0, 1), (12.0, 2), (25.0, 4), (100.0, 4)])
def test_the_scale_is_what_brings_things_to_a_size_that_was_learned_from(smallest, times):
    answer = _apart.answered(bright, Case("a", "a", {"image": lazy(dots(12, 3.0))}), 64, "distance")
    assert apart.fitting_scale(answer, RULE, "distance", smallest) == times
    empty = np.stack([np.ones((40, 40)), np.zeros((40, 40)), np.zeros((40, 40))])
    assert apart.fitting_scale(empty, RULE, "distance", smallest) == 1


def test_things_too_small_for_the_rule_are_found_enlarged_on_the_own_grid():
    picture = dots(8, 1.8)
    case = Case("a", "a", {"image": lazy(picture)})
    truth = picture > 100
    plain = predictor(None).predict([case])[0].array()[0]
    assert plain.shape == picture.shape
    assert len(np.unique(plain)) == 1  # each covers fewer pixels than the rule asks for
    seen = predictor(10.0).predict([case])[0].array()[0]
    assert seen.shape == picture.shape
    assert len(np.unique(seen)) - 1 == 36
    assert ((seen > 0) & truth).sum() / ((seen > 0) | truth).sum() > 0.6

"""Learning to tell things apart from boxes alone: a small promptable network outlines, then learns."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from medspectrum.case import BoxTarget, Case, LazyImage, MaskTarget
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.methods.all_in_sam import FromBoxes, boxes_of
from medspectrum.models import efficientnet_lite0, resolve
from medspectrum.registry import find
from medspectrum.tasks.instances import Instances

SAM = Path(__file__).parent / "data" / "sam_ovals.pth"
SIZE = (64, 72)
PLACES = ((14, 15), (16, 52), (46, 20), (47, 55))


@functools.cache
def ovals(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8, numbers uint16): tilted ovals, as the small network was taught to outline."""
    rng = np.random.default_rng([3, seed])
    rows, columns = np.indices(SIZE)
    numbers = np.zeros(SIZE, np.uint16)
    grey = np.full(SIZE, 60.0)
    for number, place in enumerate(PLACES, start=1):
        radii, tilt = rng.uniform(5, 9, 2), rng.uniform(0, np.pi)
        middle = np.array(place) + rng.uniform(-3, 3, 2)
        u = (rows - middle[0]) * np.cos(tilt) + (columns - middle[1]) * np.sin(tilt)
        v = (columns - middle[1]) * np.cos(tilt) - (rows - middle[0]) * np.sin(tilt)
        own = (u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1
        numbers[own] = number
        grey[own] = rng.uniform(140, 230)
    return np.clip(grey + rng.normal(0, 8, SIZE), 0, 255).astype(np.uint8), numbers


def edges(numbers: np.ndarray) -> list[tuple[float, ...]]:
    found = []
    for value in np.unique(numbers[numbers > 0]):
        rows, columns = np.nonzero(numbers == value)
        found.append((columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0))
    return found


def case(seed: int, *, boxes: bool) -> Case:
    pixels, numbers = ovals(seed)
    images = {"image": LazyImage(f"o{seed}.png", lambda: picture(pixels), lambda: f"o{seed}")}
    own = edges(numbers)
    target = (
        BoxTarget(tuple(own), ("object",) * len(own))
        if boxes
        else MaskTarget(LazyImage(f"m{seed}.png", lambda: picture(numbers), lambda: f"m{seed}"), {})
    )
    return Case(f"o{seed}", f"p{seed}", images=images, target=target)


def picture(values: np.ndarray) -> Image:
    return Image(values[None, None], spacing_known=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return resolve(f"sam:{SAM}", cache=tmp_path_factory.mktemp("cache")).with_size(128)


def test_boxes_become_the_networks_own_outlines(encoder):
    pixels, numbers = ovals(0)
    task = FromBoxes(Instances(tile=64), encoder.outline)
    found = task.target(case(0, boxes=True))[0]
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4]
    for value in range(1, 5):
        both, either = (found == value) & (numbers == value), (found == value) | (numbers == value)
        assert both.sum() / either.sum() > 0.6
    assert np.array_equal(task.target(case(0, boxes=True))[0], found)
    assert pixels.shape == found.shape


def test_of_a_mask_only_the_boxes_around_its_things_are_looked_at():
    own, kinds = boxes_of(case(1, boxes=False), Instances(tile=64))
    assert own.tolist() == [list(e) for e in edges(ovals(1)[1])]
    assert kinds == [0, 0, 0, 0]
    two = Instances(["left", "right"], [1, 2], tile=64)
    with pytest.raises(UserError, match="boxes of 'object'; known are left, right"):
        boxes_of(case(1, boxes=True), two)


def test_things_are_told_apart_after_learning_from_boxes_alone(encoder):
    learn = [case(i, boxes=True) for i in range(8)]
    test = [case(i, boxes=False) for i in range(50, 56)]
    task = Instances(tile=64)
    entry = find("method", "all_in_sam")
    made = entry.thing(encoder, learn, task, least_steps=60, most_steps=60)
    scores = task.score(made.predict(test), test, resamples=0)["scores"]
    assert scores["f1_50"]["value"] > 0.6
    arrays, settings = made.state()
    again = entry.facts["restore"](encoder, arrays, settings)
    first, second = made.predict(test), again.predict(test)
    assert all(np.array_equal(a.array(), b.array()) for a, b in zip(first, second, strict=True))


def test_a_network_that_takes_no_boxes_is_told(tmp_path):
    with pytest.raises(UserError, match="does not outline what is in a box"):
        find("method", "all_in_sam").thing(
            efficientnet_lite0.tiny(cache=tmp_path), [case(0, boxes=True)], Instances(tile=64)
        )

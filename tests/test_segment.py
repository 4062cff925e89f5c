"""The task segment: truths on the image's grid, scores per case and label, masks written back in place."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest

from made_outlines import NAMES, outlined
from medspectrum import labelmap
from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.errors import UserError
from medspectrum.formats import read
from medspectrum.formats.mask_grid import on_grid
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.segmentation import segmentation_scores
from medspectrum.tasks.segment import Segment


def held(image: Image, name: str = "a.nii.gz") -> LazyImage:
    return LazyImage(name, lambda: image, lambda: name)


def truths(task, cases):
    return [LabelMap.of(task.target(c)) for c in cases]


def test_labels_come_from_the_names_without_background():
    task = Segment.of(outlined(3))
    assert task.classes == ("core", "ring")
    assert task.values == (1, 2)


def test_labels_come_from_the_pixels_where_nothing_is_named():
    cases = [replace(c, target=MaskTarget(c.asked(MaskTarget).mask, {})) for c in outlined(3)]
    assert Segment.of(cases).classes == ("1", "2")


def test_the_truth_scores_one_and_nothing_scores_zero():
    cases = outlined(4, centre=True)
    task = Segment.of(cases)
    found = task.score(truths(task, cases), cases)
    assert found["scores"]["dice"]["value"] == 1
    assert found["scores"]["hd95_mm"]["value"] == 0
    assert set(found["per_class"]) == {"core", "ring"}
    assert set(found["per_centre"]) == {"North", "Harbour"}
    blank = [LabelMap.of(np.zeros_like(task.target(c))) for c in cases]
    none = task.score(blank, cases)["scores"]
    assert none["dice"]["value"] == 0
    assert none["hd95_mm"]["value"] == pytest.approx(np.linalg.norm([1, 36, 44]))
    assert none["precision"]["value"] is None or none["precision"]["value"] == 0


def test_scores_are_means_over_cases_then_labels():
    cases = outlined(5)
    task = Segment.of(cases)
    moved = [LabelMap.of(np.roll(task.target(c), 2 + i, axis=2)) for i, c in enumerate(cases)]
    table = np.array(
        [
            [
                segmentation_scores(m.array(), task.target(c), [1, 2], spacing_mm=(1, 1, 1))[k]["dice"]
                for k in (1, 2)
            ]
            for m, c in zip(moved, cases, strict=True)
        ]
    )
    found = task.score(moved, cases)
    assert found["scores"]["dice"]["value"] == pytest.approx(table.mean(axis=0).mean())
    assert found["per_class"]["ring"]["dice"]["value"] == pytest.approx(table[:, 1].mean())
    assert found["scores"]["dice"]["low"] < table.mean() < found["scores"]["dice"]["high"]
    value, low, high = task.difference(truths(task, cases), moved, cases)
    assert value == pytest.approx(1 - table.mean(axis=0).mean())
    assert 0 < low <= value <= high


def test_a_label_that_is_nowhere_does_not_count():
    cases = outlined(2)
    task = Segment(["core", "ring", "never"], [1, 2, 7])
    found = task.score(truths(task, cases), cases)
    assert found["scores"]["dice"]["value"] == 1
    assert found["per_class"]["never"]["dice"]["value"] is None
    assert found["per_class"]["never"]["n"] == 0


def test_predictions_are_kept_bit_by_bit():
    cases = outlined(3) + outlined(2, kind="volume")
    task = Segment.of(cases)
    maps = truths(task, cases)
    again = task.unpack(task.pack(maps))
    assert all(np.array_equal(a.array(), b.array()) for a, b in zip(maps, again, strict=True))
    assert labelmap.unpack(labelmap.pack([])) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_masks_stored_in_any_of_48_orders_come_back_in_place(order, flips):
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    affine = np.array([[0.9, 0, 0, -3], [0, 1.1, 0, 5], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    image = Image(np.zeros((1, 5, 6, 7), np.int16), affine, "MR", True)
    xyz = truth.T
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    stored = xyz.transpose(order)
    for new, old in enumerate(order):
        turn[old, new] = -1 if flips[new] else 1
        if flips[new]:
            stored = np.flip(stored, new)
            turn[old, 3] = xyz.shape[old] - 1
    mask = Image(np.ascontiguousarray(stored.T)[None], affine @ turn, "", True)
    np.testing.assert_array_equal(on_grid(mask, image, "m.nii.gz", "i.nii.gz"), truth)


def bad_mask(**changed):
    image = Image(np.zeros((1, 4, 6, 7), np.int16), np.diag([1, 1, 2, 1.0]), "MR", True)
    given = {"array": np.zeros((1, 4, 6, 7), np.uint8), "affine": image.affine, "known": True} | changed
    mask = Image(given["array"], given["affine"], "", given["known"])
    case = Case("c1", "p1", {"image": held(image, "i.nii.gz")}, MaskTarget(held(mask, "m.nii.gz"), {1: "a"}))
    return Segment(["a"], [1]).lacking(case)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"array": np.zeros((1, 4, 6, 8), np.uint8)}, "has the shape 4 x 6 x 8"),
        ({"array": np.zeros((1, 4, 6, 8), np.uint8), "known": False}, "has the shape 4 x 6 x 8"),
        ({"affine": np.diag([1, 1, 3, 1.0])}, "spacing or direction"),
        ({"affine": np.array([[1, 0, 0, 9.0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])}, "9.0 mm away"),
        ({"array": np.full((1, 4, 6, 7), 9, np.uint8)}, "holds the value 9"),
        ({"array": np.full((1, 4, 6, 7), 0.5, np.float32)}, "holds fractions"),
        ({"array": np.arange(2 * 168).reshape(2, 4, 6, 7).astype(np.uint8)}, "one channel"),
    ],
)
def test_masks_that_do_not_fit_are_named(changed, words):
    why = bad_mask(**changed)
    assert words in why
    assert "m.nii.gz" in why


def test_an_oblique_mask_on_the_same_grid_fits():
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = Image(np.zeros((1, 4, 6, 7), np.int16), turn, "CT", True)
    labels = np.random.default_rng(0).integers(0, 2, (1, 4, 6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(on_grid(Image(labels, turn, "", True), image, "m", "i"), labels[0])


def test_grey_pictures_given_as_masks_are_told():
    many = Image(np.arange(300, dtype=np.uint16).reshape(1, 1, 15, 20))
    case = Case("c", "p", {"image": held(many)}, MaskTarget(held(many, "m.png"), {}))
    with pytest.raises(UserError, match="254 labels at most"):
        Segment.of([case])


def test_cases_without_masks_are_told():
    with pytest.raises(UserError, match="carry no mask"):
        Segment.of([replace(c, target=None) for c in outlined(2)])


def test_masks_are_written_in_place_with_their_values(tmp_path):
    task = Segment(["core", "ring"], [3, 900])
    cases = outlined(1, kind="plane") + outlined(1, kind="volume") + outlined(1, kind="plane")
    renamed = {3: "core", 900: "ring"}
    cases = [replace(c, target=MaskTarget(_valued(c), renamed)) for c in cases]
    maps = [LabelMap.of(task.target(c)) for c in cases]
    folder = task.write(maps, cases, tmp_path / "out")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["plane0.png", "plane0_image.png", "volume0_image.nii.gz"] or len(names) == 3
    for case, found in zip(cases[:2], maps[:2], strict=True):
        own = next(p for p in folder.iterdir() if p.name.startswith(case.id))
        back = read(own)
        values = np.array([0, 3, 900])[found.array()]
        np.testing.assert_array_equal(back.array[0], values)
        if case.id.startswith("volume"):
            image = case.images["image"].load()
            np.testing.assert_allclose(back.affine, image.affine)


def _valued(case):
    mask = case.asked(MaskTarget).mask.load()
    array = np.array([0, 3, 900], np.uint16)[mask.array]
    return held(Image(array, mask.affine, "", mask.spacing_known), f"{case.id}_mask")


def test_the_names_of_the_made_cases_hold():
    assert NAMES[1] == "core"
    assert functools.reduce(int.__add__, NAMES) == 3

"""The task instances: what masks mean, scores with intervals, maps that are kept and written whole."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from made_discs import discs, plane
from made_outlines import outlined
from medspectrum import labelmap
from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.engine import tiles
from medspectrum.errors import UserError
from medspectrum.formats import coco_rle, read
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.instances import instance_scores, match_instances
from medspectrum.report import beside
from medspectrum.tasks.instances import Instances


def held(array: np.ndarray, name: str) -> LazyImage:
    return LazyImage(name, lambda: Image(array[None, None]), lambda: f"key-{name}")


def one(pixels: np.ndarray, mask: np.ndarray, labels=None, name: str = "a") -> Case:
    return Case(
        name,
        name,
        {"image": held(pixels, f"{name}.png")},
        MaskTarget(held(mask, f"{name}_m.png"), labels or {}),
    )


@given(
    arrays(
        np.int64,
        array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=6),
        elements=st.integers(0, labelmap.LARGEST) | st.integers(0, 3),
    ),
    arrays(np.uint16, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 2)),
)
def test_maps_come_back_as_they_were_packed(first, second):
    maps = [LabelMap.of(first), LabelMap.of(second)]
    for found, given_ in zip(labelmap.unpack(labelmap.pack(maps)), (first, second), strict=True):
        assert np.array_equal(found.array(), given_)
    assert LabelMap.of(second).values.dtype == np.uint8


def test_numbers_that_do_not_fit_are_refused():
    for wrong in (-1, 2**31):
        with pytest.raises(ValueError, match="labels go from 0"):
            LabelMap.of(np.full((1, 1, 1), wrong))


def test_masks_that_number_things_are_told_from_masks_that_mark_them():
    task = Instances.of(discs(6))
    assert (task.classes, task.values) == (("object",), ())
    assert task.tile == 96
    numbers = plane(0)[1]
    assert np.array_equal(np.unique(task.target(discs(1)[0])), np.unique(numbers))
    marked = [one(*((p, 255 * (m > 0).astype(np.uint8)))) for p, m in [plane(3)]]
    task = Instances.of(marked)
    assert (task.classes, task.values) == (("object",), (255,))
    named = Instances.of(outlined(4))
    assert (named.classes, named.values) == (("core", "ring"), (1, 2))
    target = named.target(outlined(1)[0])
    assert set(np.unique(target)) == {0, 1, 2}
    plain = Instances.of([replace(c, target=MaskTarget(c.asked(MaskTarget).mask, {})) for c in outlined(4)])
    assert plain.classes == ("1", "2")  # the same two values everywhere mark kinds


def test_pieces_of_a_kind_are_things_of_their_own_and_the_number_tells_the_kind():
    mask = np.zeros((9, 12), np.uint8)
    mask[1:4, 1:4] = mask[1:4, 6:9] = 1
    mask[6:8, 2:5] = mask[6:8, 8:11] = 7
    task = Instances(["nucleus", "platelet"], [1, 7])
    target = task.target(one(mask, mask))[0]
    assert sorted(np.unique(target)) == [0, 1, 2, 3, 4]
    assert {int(v) for v in np.unique(target[mask == 1])} == {1, 3}
    assert {int(v) for v in np.unique(target[mask == 7])} == {2, 4}
    missed = np.where(target == 4, 0, target)[None]
    found = task.score([LabelMap.of(missed)], [one(mask, mask)])
    assert found["per_class"]["nucleus"]["f1_50"]["value"] == 1
    assert found["per_class"]["platelet"]["f1_50"]["value"] == pytest.approx(2 / 3)
    assert found["scores"]["f1_50"]["value"] == pytest.approx(5 / 6)
    assert found["per_class"]["platelet"]["objects"] == 2
    with pytest.raises(UserError, match="value 7"):
        Instances(["nucleus"], [1]).target(one(mask, mask))


def test_scores_are_means_over_images_with_intervals_over_patients():
    cases = discs(8)
    task = Instances.of(cases)
    truth = [LabelMap.of(task.target(c)) for c in cases]
    moved = [LabelMap.of(np.roll(task.target(c), 1 + i % 3, axis=2)) for i, c in enumerate(cases)]
    perfect = task.score(truth, cases)["scores"]
    assert all(perfect[name]["value"] == pytest.approx(1) for name in perfect)
    found = task.score(moved, cases)["scores"]
    matches = [match_instances(m.array(), t.array()) for m, t in zip(moved, truth, strict=True)]
    assert found["ap"]["value"] == pytest.approx(instance_scores(matches)["ap"])
    assert found["ap_pooled"]["value"] == pytest.approx(instance_scores(matches, pooled=True)["ap"])
    assert found["ap"]["low"] < found["ap"]["value"] < found["ap"]["high"]
    value, low, high = task.difference(truth, moved, cases)
    assert value == pytest.approx(1 - found["ap"]["value"])
    assert 0 < low < value < high
    blank = [LabelMap.of(np.zeros_like(t.array())) for t in truth]
    none = task.score(blank, cases)["scores"]
    assert none["ap"]["value"] == none["f1_50"]["value"] == none["dice"]["value"] == 0


def test_an_empty_picture_counts_only_where_something_is_invented():
    cases = [*discs(1), one(np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8), name="b")]
    task = Instances()
    truth = [LabelMap.of(task.target(c)) for c in cases]
    assert task.score(truth, cases)["scores"]["ap"]["value"] == 1
    invented = LabelMap.of(np.eye(20, 30, dtype=int)[None])
    assert task.score([truth[0], invented], cases)["scores"]["ap"]["value"] == 0.5
    shown = task.shown(truth, cases)
    assert shown["case_score"][0] == 1
    assert np.isnan(shown["case_score"][1])


def test_what_cannot_be_used_is_said_in_a_sentence():
    task = Instances()
    pixels, mask = plane(0)
    assert task.lacking(Case("a", "a", {"image": held(pixels, "a.png")})) == "has no mask"
    assert "has the shape" in task.lacking(one(pixels, mask[:9], name="small"))
    volume = LazyImage("v.nii.gz", lambda: Image(np.zeros((1, 4, 5, 6), np.uint8)), lambda: "v")
    assert "is a volume" in task.lacking(Case("v", "v", {"image": volume}, MaskTarget(volume, {})))
    with pytest.raises(UserError, match="no mask"):
        Instances.of([Case("a", "a", {"image": held(pixels, "a.png")})])
    with pytest.raises(UserError, match="kinds of things"):
        Instances([str(i) for i in range(40)], list(range(1, 41)))


def test_maps_are_written_whole_with_a_table_of_things(tmp_path):
    cases = discs(2)
    task = Instances.of(cases)
    truth = [LabelMap.of(task.target(c) * 3) for c in cases]  # numbers with gaps
    folder = task.write(truth, cases, tmp_path / "out")
    for seed in range(2):
        found = read(folder / f"discs{seed}_image.png").array[0, 0]
        assert np.array_equal(found, plane(seed)[1])
    with (folder / "instances.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    own = [r for r in rows if r["file"] == "discs0_image.png"]
    assert len(own) == plane(0)[1].max()
    assert int(own[0]["pixels"]) == (plane(0)[1] == 1).sum()
    assert {r["class"] for r in rows} == {"object"}
    found = json.loads(
        (task.write(truth, cases, tmp_path / "rle", format="rle") / "discs0_image.json").read_text()
    )
    assert [a["category_id"] for a in found["annotations"]] == [1] * len(own)
    assert found["categories"] == [{"id": 1, "name": "object"}]
    mask = coco_rle.decode(found["annotations"][2]["segmentation"])
    assert np.array_equal(mask, plane(0)[1] == 3)
    with pytest.raises(UserError, match="rle"):
        task.write(truth, cases, tmp_path / "seg", format="dicom-seg")


@pytest.mark.parametrize("size", [(40, 50), (96, 96), (130, 301)])
def test_tiles_cover_a_picture_and_come_back_in_place(size):
    import torch

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, size).astype(np.uint8)
    cut = tiles.tiled(held(pixels, f"tiled{size}.png"), 96)
    assert cut.size == size
    assert all(t.load().size == (1, 96, 96) for t in cut.tiles)
    given_ = rng.normal(size=(2, *size)).astype(np.float32)
    back = cut.joined(torch.from_numpy(cut.cut(given_, outside=0.0)))
    np.testing.assert_allclose(back, given_, atol=1e-5)
    assert len({t.key() for t in cut.tiles}) == len(cut.tiles)


def test_a_dark_picture_is_stretched_and_an_empty_one_is_not():
    dark = np.zeros((40, 40), np.uint8)
    dark[10:20, 10:20] = 30
    assert tiles.stretched(Image(dark[None, None])).max() == 255
    noise = np.random.default_rng(0).integers(3, 5, (40, 40)).astype(np.uint8)
    assert tiles.stretched(Image(noise[None, None])).max() < 64


def test_the_picture_shows_truth_beside_answer():
    import io

    from PIL import Image as Pillow

    case = discs(1)[0]
    truth = LabelMap.of(plane(0)[1][None])
    found = LabelMap.of(np.where(truth.array() == 1, 0, truth.array()))
    shown = Pillow.open(io.BytesIO(beside.apart(case.images["image"], truth, found)))
    assert shown.width == 2 * beside.SIDE + 4
    left = np.asarray(shown)[:, : beside.SIDE]
    right = np.asarray(shown)[:, beside.SIDE + 4 :]
    assert (left == 255).all(axis=2).any()  # the one without a partner
    assert not (right == 255).all(axis=2).any()
    assert (left != left[..., :1]).any()  # colours

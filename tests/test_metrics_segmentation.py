"""Segmentation scores: equal to the packages they are named after, and to what must hold for any maps."""

import importlib.util
import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.metrics import surface
from medspectrum.metrics.segmentation import (
    OVERLAP_SCORES,
    SURFACE_SCORES,
    lesion_scores,
    mean_scores,
    segmentation_scores,
)
from medspectrum.metrics.surface import DEFINITIONS, surface_distances
from medspectrum.metrics.surfels import surfel_sizes
from segmentation_pairs import BY, REFERENCE, TOLERANCE_MM, made_pair

NEEDED = {"monai": "monai", "deepmind": "surface_distance"}


def same(ours, theirs, what=""):
    """Equal to 1e-6: MONAI rounds to single precision, so of a distance relative to its size."""
    for score, value in theirs.items():
        assert ours[score] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), f"{what} {score}"


@st.composite
def pairs(draw, dims=(2, 3)):
    """(predicted, truth, spacing, tolerance): small maps of three labels, any of which may be missing."""
    d = draw(st.sampled_from(dims))
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=d, max_size=d)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        predicted, truth = made_pair(
            shape, 3, int(rng.integers(1 << 30)), shift=draw(st.sampled_from([0.5, 3.0]))
        )
    else:
        density = draw(st.sampled_from([0.02, 0.3, 0.9]))
        predicted, truth = (rng.integers(1, 4, shape) * (rng.random(shape) < density) for _ in range(2))
    spacing = tuple(rng.choice([0.3, 0.7, 1.0, 1.5, 4.0], size=d).tolist())
    return predicted, truth, spacing, float(rng.choice([0.0, 0.7, 1.5, 3.1]))


@pytest.mark.parametrize(
    "row", json.loads(str(np.load(REFERENCE)["scores"])), ids=lambda r: f"{r['definition']}-{r['pair']}"
)
def test_equals_stored_scores_of_the_named_package(row):
    maps, i = np.load(REFERENCE), row["pair"]
    ours = segmentation_scores(
        maps[f"predicted{i}"],
        maps[f"truth{i}"],
        [1, 2, 3, 4],
        spacing_mm=row["spacing_mm"],
        tolerance_mm=TOLERANCE_MM,
        definition=row["definition"],
    )
    assert row["scores"]
    for label, theirs in row["scores"].items():
        same(ours[int(label)], theirs, f"label {label}")


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(14, 19, 23), (1, 33, 20), (40, 31)])
def test_equals_the_package_where_it_is_installed(definition, shape):
    if not importlib.util.find_spec(NEEDED[definition]):
        pytest.skip(f"{NEEDED[definition]} is not installed: pip install 'medspectrum[peers]'")
    rng = np.random.default_rng(len(shape))
    for seed in range(6):
        spacing = tuple(np.round(np.exp(rng.normal(0, 0.6, len(shape))), 2).tolist())
        predicted, truth = made_pair(shape, 3, seed, shift=[0.5, 2.0, 9.0][seed % 3])
        plane, sides = (predicted[0], truth[0]), spacing[1:]
        if shape[0] != 1:
            plane, sides = (predicted, truth), spacing
        theirs = BY[definition](*plane, 3, sides, 1.1)
        ours = segmentation_scores(
            predicted, truth, [1, 2, 3], spacing_mm=spacing, tolerance_mm=1.1, definition=definition
        )
        for label, scores in theirs.items():
            held = [label in each for each in (predicted, truth)]
            if all(held) or definition == "deepmind":
                same(ours[label], scores, f"seed {seed} label {label}")


def test_percentile_is_at_torchs_position_for_many_elements():
    torch = pytest.importorskip("torch")
    from medspectrum.metrics.segmentation import _percentile_of_voxels

    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 20, 21, 999, 100_003, 1_000_003):
        distances = np.sqrt(rng.integers(0, 400, n)).astype(np.float64)
        theirs = float(torch.quantile(torch.from_numpy(distances).float(), 0.95))
        assert _percentile_of_voxels(distances, 0.95) == pytest.approx(theirs, rel=1e-6)


@given(pairs(), st.sampled_from(DEFINITIONS))
@settings(max_examples=120, deadline=None)
def test_distances_are_those_of_a_plain_search(made, definition):
    predicted, truth, spacing, _ = made
    small = [each.astype(np.uint8) for each in (predicted, truth)]
    found = surface_distances(*small, 3, spacing_mm=spacing, definition=definition)
    for label, distances in enumerate(found, start=1):
        places = [_plain_surface(each == label, definition) * spacing for each in small]
        for away, one, other in (
            (distances.predicted_mm, *places),
            (distances.truth_mm, *reversed(places)),
        ):
            if len(other):
                plain = np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=2)).min(axis=1)
            else:
                plain = np.full(len(one), np.inf)
            np.testing.assert_allclose(np.sort(away), np.sort(plain), rtol=1e-12, atol=1e-12)


def _plain_surface(mask, definition):
    """Indices of edge voxels, or of the corners that see inside and outside, one by one."""
    padded = np.pad(mask, 1)
    result = []
    for place in np.ndindex(*[n - 1 for n in padded.shape]):
        if definition == "monai":
            steps = np.concatenate([np.eye(mask.ndim, dtype=int), -np.eye(mask.ndim, dtype=int)])
            if padded[place] and not all(padded[tuple(np.add(place, step))] for step in steps):
                result.append(place)
        else:
            cell = padded[tuple(slice(i, i + 2) for i in place)]
            if cell.any() and not cell.all():
                result.append(place)
    return np.array(result, dtype=float).reshape(-1, mask.ndim)


@given(pairs(), st.sampled_from(DEFINITIONS))
@settings(max_examples=100, deadline=None)
def test_bounds_symmetry_and_identity(made, definition):
    predicted, truth, spacing, tolerance = made
    ask = {"spacing_mm": spacing, "tolerance_mm": tolerance, "definition": definition, "lesions": True}
    there = segmentation_scores(predicted, truth, [1, 2, 3], **ask)
    back = segmentation_scores(truth, predicted, [1, 2, 3], **ask)
    own = segmentation_scores(truth, truth, [1, 2, 3], **ask)
    for label in (1, 2, 3):
        a, b = there[label], back[label]
        for score in ("dice", "iou", "nsd", "hd_mm", "hd95_mm", "assd_mm", "lesion_f1"):
            assert a[score] == pytest.approx(b[score], rel=1e-9, nan_ok=True), score
        for score, mirrored in (("sensitivity", "precision"), ("lesion_sensitivity", "lesion_precision")):
            assert a[score] == pytest.approx(b[mirrored], nan_ok=True)
            assert b[score] == pytest.approx(a[mirrored], nan_ok=True)
        assert a["volume_difference_mm3"] == -b["volume_difference_mm3"]
        for score in ("dice", "iou", "sensitivity", "precision", "nsd", "lesion_f1", "lesion_precision"):
            assert math.isnan(a[score]) or 0 <= a[score] <= 1, score
        if (predicted == label).any() and (truth == label).any():
            assert a["iou"] <= a["dice"]
            assert a["dice"] == pytest.approx(2 * a["iou"] / (1 + a["iou"]))
            assert 0 <= a["hd95_mm"] <= a["hd_mm"] + 1e-9
            assert 0 <= a["assd_mm"] <= a["hd_mm"] + 1e-9
        if (truth == label).any():
            expected = {"dice": 1, "iou": 1, "nsd": 1, "lesion_f1": 1, "hd_mm": 0, "hd95_mm": 0, "assd_mm": 0}
            assert {score: own[label][score] for score in expected} == expected


@given(pairs(), st.sampled_from(DEFINITIONS), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_padding_and_the_order_of_axes_do_not_matter(made, definition, seed):
    predicted, truth, spacing, tolerance = made
    rng = np.random.default_rng(seed)
    ask = {"tolerance_mm": tolerance, "definition": definition, "lesions": True}
    plain = segmentation_scores(predicted, truth, [1, 2, 3], spacing_mm=spacing, **ask)
    margins = rng.integers(0, 4, (truth.ndim, 2))
    if len(truth) == 1 and truth.ndim == 3:
        margins[0] = 0  # one slice is a plane and two are not
    padded = [np.pad(each, margins) for each in (predicted, truth)]
    _all_equal(segmentation_scores(*padded, [1, 2, 3], spacing_mm=spacing, **ask), plain)
    if 1 in truth.shape and truth.ndim == 3:
        return
    turned = list(permutations(range(truth.ndim)))[int(rng.integers(math.factorial(truth.ndim)))]
    flip = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], truth.ndim))
    maps = [each.transpose(turned)[flip] for each in (predicted, truth)]
    _all_equal(segmentation_scores(*maps, [1, 2, 3], spacing_mm=[spacing[a] for a in turned], **ask), plain)


def _all_equal(ours, theirs):
    for label, scores in theirs.items():
        for name, value in scores.items():
            assert ours[label][name] == pytest.approx(value, rel=1e-9, nan_ok=True), f"{label} {name}"


@given(pairs(), st.sampled_from(DEFINITIONS))
@settings(max_examples=40, deadline=None)
def test_labels_do_not_hang_on_their_names_types_or_number(made, definition):
    predicted, truth, spacing, _ = made
    ask = {"spacing_mm": spacing, "definition": definition}
    plain = segmentation_scores(predicted, truth, [1, 2, 3], **ask)
    for names in ((7, 3, 900), (7_000_000, 4, 2), (200, 1, 2)):
        table = np.array([0, *names], dtype=np.int64)
        renamed = segmentation_scores(table[predicted], table[truth].astype(np.int32), names, **ask)
        _all_equal({i: renamed[name] for i, name in enumerate(names, start=1)}, plain)
    many = segmentation_scores(predicted * 60, truth * 60, range(1, 200), **ask)
    _all_equal({i: many[60 * i] for i in (1, 2, 3)}, plain)
    assert len(many) == 199


def test_areas_agree_with_a_sphere_and_a_box():
    grid = np.meshgrid(*[np.arange(64)] * 3, indexing="ij", sparse=True)
    ball = sum((g - 31.5) ** 2 for g in grid) < 25**2
    found = surface_distances(
        ball.astype(np.uint8), ball.astype(np.uint8), 1, spacing_mm=(2, 2, 2), definition="deepmind"
    )[0]
    # Corners halfway between voxels make a faceted surface, above a sphere's by about 9 %.
    assert 1.0 < found.truth_size.sum() / (4 * math.pi * 50**2) < 1.12
    sizes = surfel_sizes((3.0, 2.0, 0.5))
    assert sizes[0] == sizes[255] == 0
    assert (sizes[1:255] > 0).all()
    assert sizes[0b00001111] == pytest.approx(2.0 * 0.5)  # a wall across the first axis
    assert sizes[0b01010101] == pytest.approx(3.0 * 2.0)  # and across the last
    np.testing.assert_allclose(sizes, sizes[::-1])


def test_areas_equal_the_packages_table():
    package = pytest.importorskip("surface_distance", reason="pip install 'medspectrum[peers]'")
    rng = np.random.default_rng(0)
    for _ in range(5):
        spacing = tuple(np.exp(rng.normal(0, 1, 3)).tolist())
        table = package.lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(surfel_sizes(spacing), table, rtol=1e-12, atol=1e-12)
        table = package.lookup_tables.create_table_neighbour_code_to_contour_length(spacing[:2])
        np.testing.assert_allclose(surfel_sizes(spacing[:2]), table, rtol=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_far_surfaces_are_found_too(definition):
    predicted, truth = (np.zeros((4, 90, 120), np.uint8) for _ in range(2))
    predicted[1, 2, 3] = truth[1, 80, 113] = truth[2, 80, 113] = 1
    scores = segmentation_scores(predicted, truth, [1], spacing_mm=(5, 0.5, 0.5), definition=definition)[1]
    away = math.hypot(78 * 0.5, 110 * 0.5)
    if definition == "monai":
        assert scores["hd_mm"] == pytest.approx(math.hypot(5, away))
    assert scores["assd_mm"] > away - 1
    assert scores["nsd"] == scores["dice"] == 0


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7)])
def test_missing_labels(definition, shape):
    nothing, something = np.zeros(shape, int), np.zeros(shape, int)
    something[(2,) * len(shape)] = 1
    ask = {"spacing_mm": [1.0] * len(shape), "definition": definition, "lesions": True}
    neither = segmentation_scores(nothing, nothing, [1], **ask)[1]
    assert neither.pop("volume_difference_mm3") == 0
    assert all(math.isnan(value) for value in neither.values())
    other = segmentation_scores(nothing, nothing, [1], both_empty=1.0, **ask)[1]
    assert [other[k] for k in ("dice", "iou", "nsd", "lesion_f1")] == [1, 1, 1, 1]
    missed = segmentation_scores(nothing, something, [1], **ask)[1]
    false_alarm = segmentation_scores(something, nothing, [1], **ask)[1]
    for scores in (missed, false_alarm):
        assert [scores[k] for k in ("dice", "iou", "nsd", "lesion_f1")] == [0, 0, 0, 0]
        assert [scores[k] for k in ("hd_mm", "hd95_mm", "assd_mm")] == [math.inf] * 3
    assert missed["sensitivity"] == missed["lesion_sensitivity"] == 0
    assert missed["relative_volume_difference"] == -1
    assert math.isnan(missed["precision"])
    assert math.isnan(missed["lesion_precision"])
    assert false_alarm["precision"] == false_alarm["lesion_precision"] == 0
    assert math.isnan(false_alarm["sensitivity"])
    assert math.isnan(false_alarm["relative_volume_difference"])


def test_a_label_on_the_maps_border_has_a_surface_there():
    full = np.ones((3, 4, 5), bool)
    shifted = full.copy()
    shifted[0] = False
    scores = segmentation_scores(shifted, full, [1], spacing_mm=(2, 1, 1))[1]
    assert scores["hd_mm"] == 2
    assert scores["volume_difference_mm3"] == -40


def test_lesions_by_hand():
    truth, predicted = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[1:4, 1:4] = truth[10:12, 10:12] = truth[15, 15] = truth[16, 16] = 1  # the last two touch
    predicted[3, 3] = predicted[10:12, 10:12] = predicted[18, 2] = predicted[2, 18] = 1
    found = lesion_scores(predicted == 1, truth == 1)
    assert found["lesion_sensitivity"] == pytest.approx(2 / 3)
    assert found["lesion_precision"] == pytest.approx(2 / 4)
    assert found["lesion_f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    strict = lesion_scores(predicted == 1, truth == 1, overlap=0.5)
    assert strict["lesion_sensitivity"] == pytest.approx(1 / 3)
    assert strict["lesion_precision"] == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match="share of a lesion"):
        lesion_scores(predicted == 1, truth == 1, overlap=1.0)


def test_tolerance_per_label_and_parts_left_out():
    predicted, truth = made_pair((12, 20, 20), 2, 3)
    ask = {"spacing_mm": (1, 1, 1)}
    loose = segmentation_scores(predicted, truth, [1, 2], tolerance_mm=3, **ask)
    tight = segmentation_scores(predicted, truth, [1, 2], tolerance_mm=0, **ask)
    mixed = segmentation_scores(predicted, truth, [1, 2], tolerance_mm={1: 3, 2: 0}, **ask)
    assert mixed == {1: loose[1], 2: tight[2]}
    assert loose[2]["nsd"] > tight[2]["nsd"]
    assert set(segmentation_scores(predicted, truth, [1, 2], surfaces=False, **ask)[1]) == set(OVERLAP_SCORES)
    assert set(loose[1]) == {*OVERLAP_SCORES, *SURFACE_SCORES}
    assert segmentation_scores(np.zeros((3, 3), int), np.zeros((3, 3), int), [], spacing_mm=(1, 1)) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truth": np.zeros((4, 4, 5), int)}, "must be on one grid"),
        ({"predicted": np.zeros((4, 4, 4))}, "whole numbers; the prediction is of type float64"),
        ({"truth": np.zeros((4, 4, 4), complex)}, "whole numbers; the truth"),
        (
            {"predicted": np.full((4, 4, 4), 7)},
            "the prediction holds the value 7, which is none of the labels 1, 2",
        ),
        ({"truth": np.full((4, 4, 4), -1)}, "the truth holds the value -1"),
        ({"truth": np.full((4, 4, 4), 70_000)}, "the truth holds the value 70000"),
        ({"spacing_mm": (1, 1)}, "needs 3 positive numbers"),
        ({"spacing_mm": (1, 0, 1)}, "needs 3 positive numbers"),
        ({"spacing_mm": (1, math.nan, 1)}, "needs 3 positive numbers"),
        ({"tolerance_mm": -1}, "tolerance of label 1"),
        ({"tolerance_mm": {1: 1.0}}, "no tolerance for label 2"),
        ({"labels": [0, 1, 2]}, "0 is the background"),
        ({"labels": [-3, 1, 2]}, "-3 cannot be one"),
        ({"definition": "theirs"}, 'no surface definition "theirs"'),
    ],
)
def test_bad_input_is_named(change, words):
    ask = {
        "predicted": np.zeros((4, 4, 4), int),
        "truth": np.zeros((4, 4, 4), int),
        "labels": [1, 2],
        "spacing_mm": (1, 1, 1),
    }
    with pytest.raises(ValueError, match=words):
        segmentation_scores(**{**ask, **change})


def test_maps_of_four_axes_are_refused():
    with pytest.raises(ValueError, match="label maps are"):
        segmentation_scores(
            np.zeros((1, 2, 2, 2), int), np.zeros((1, 2, 2, 2), int), [1], spacing_mm=(1,) * 4
        )


def test_more_labels_than_bits_are_refused_below_and_split_above():
    with pytest.raises(ValueError, match="at most 64"):
        surface_distances(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8), 65, spacing_mm=(1, 1))
    assert surface.MOST_LABELS == 64


def test_mean_scores_leave_out_what_does_not_apply_and_follow_weights():
    cases = [
        {1: {"dice": 0.8, "hd95_mm": 2.0}, 2: {"dice": 0.6, "hd95_mm": 4.0}},
        {1: {"dice": 0.4, "hd95_mm": 6.0}, 2: {"dice": math.nan, "hd95_mm": math.nan}},
        {1: {"dice": 0.0, "hd95_mm": math.inf}, 2: {"dice": 1.0, "hd95_mm": 0.0}},
    ]
    plain = mean_scores(cases, scores=["dice", "hd95_mm"])
    assert plain["dice/1"] == pytest.approx(0.4)
    assert plain["dice/2"] == pytest.approx(0.8)
    assert plain["dice"] == pytest.approx(0.6)
    assert plain["hd95_mm"] == math.inf
    capped = mean_scores(cases, scores=["hd95_mm"], missed_mm=10.0)
    assert capped["hd95_mm/1"] == pytest.approx(6.0)
    weights = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
    many = mean_scores(cases, weights, scores=["dice", "hd95_mm"])
    np.testing.assert_allclose(many["dice"], [0.6, 0.7, 0.4])
    np.testing.assert_allclose(many["dice/2"], [0.8, 0.6, np.nan])
    np.testing.assert_allclose(many["hd95_mm/1"], [np.inf, 2.0, 6.0])
    with pytest.raises(ValueError, match="no case"):
        mean_scores([])


def test_means_go_into_the_bootstrap():
    from medspectrum.metrics.bootstrap import resampled

    rng = np.random.default_rng(0)
    cases = [{1: {"dice": float(v)}} for v in rng.beta(8, 2, 40)]
    found = resampled(
        lambda weights: mean_scores(cases, weights, scores=["dice"]), [str(i // 2) for i in range(40)]
    )
    assert found["dice"]["low"] < found["dice"]["value"] < found["dice"]["high"]
    assert found["dice"] == found["dice/1"]

"""Registration: known motions are found, geometry is kept, others read the same, bad input is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from made_phantom import (
    ALL_48,
    brightness,
    centred,
    labels_at,
    lattice_mm,
    phantom,
    turn_about,
    turned,
    wave,
)
from medspectrum.engine.align.carry import carried, warped
from medspectrum.engine.align.grid import grid_of
from medspectrum.engine.align.pipeline import align
from medspectrum.errors import UserError
from medspectrum.formats import displacement, nifti
from medspectrum.image import Image
from medspectrum.metrics.registration import carried_dice, folding_fraction, landmark_errors_mm
from medspectrum.register import register

SIZE = (36, 36, 36)
DATA = Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given")
INNER = (slice(6, -6),) * 3


def rigid_motion(points):
    return points @ turn_about(np.array([1.0, 2, -1]), 9).T + np.array([2.0, -1.5, 1.0])


def affine_motion(points):
    return points @ np.array([[1.08, 0.05, 0], [-0.04, 0.94, 0.03], [0, 0.05, 1.05]]).T + np.array(
        [1.0, 2, -1]
    )


def wavy(points):
    return points + wave(points)


def seen(image: Image) -> np.ndarray:
    """Where something is to be seen: only there can a registration know."""
    return brightness(lattice_mm(image.size, image.affine)) > 0.2


def error_mm(found, fixed, motion, where) -> np.ndarray:
    points = lattice_mm(fixed.size, fixed.affine)
    return np.linalg.norm(found.field - (motion(points) - points), axis=-1)[where]


@pytest.mark.parametrize("method", ["rigid", "affine", "convex_adam", "demons"])
def test_a_rigid_motion_is_found(method):
    moving, fixed = phantom(SIZE), phantom(SIZE, back=rigid_motion)
    found = align(moving, fixed, method=method)
    where = brightness(rigid_motion(lattice_mm(SIZE, fixed.affine))) > 0.2
    before = np.linalg.norm(
        rigid_motion(lattice_mm(SIZE, fixed.affine)) - lattice_mm(SIZE, fixed.affine), axis=-1
    )
    assert before[where].mean() > 2
    assert error_mm(found, fixed, rigid_motion, where).mean() < 0.5
    assert found.facts["mind_distance_after"] < found.facts["mind_distance_before"]


def test_an_affine_motion_is_found():
    moving, fixed = phantom(SIZE), phantom(SIZE, back=affine_motion)
    found = align(moving, fixed, method="affine")
    where = brightness(affine_motion(lattice_mm(SIZE, fixed.affine))) > 0.2
    assert error_mm(found, fixed, affine_motion, where).mean() < 0.6


@pytest.mark.parametrize("method", ["convex_adam", "demons", "itk_demons", "itk_bspline"])
def test_a_smooth_motion_is_found(method):
    if method.startswith("itk_"):
        pytest.importorskip("SimpleITK")
    moving, fixed = phantom(SIZE), phantom(SIZE, back=wavy)
    found = align(moving, fixed, method=method, pre="none")
    where = brightness(wavy(lattice_mm(SIZE, fixed.affine))) > 0.2
    # inside of an evenly bright ball nothing shows how it moved, so the mean cannot reach zero
    assert error_mm(found, fixed, wavy, where).mean() < 1.2
    truth = phantom(SIZE, back=wavy, of=labels_at, kind=np.uint8)
    labels = phantom(SIZE, of=labels_at, kind=np.uint8)
    brought = carried(labels, found.fixed, found.field)
    dice = np.mean(list(carried_dice(brought.array, truth.array).values()))
    before = np.mean(list(carried_dice(labels.array, truth.array).values()))
    assert before < 0.75
    assert dice > (0.9 if method == "convex_adam" else 0.85)  # demons work at half the resolution
    assert folding_fraction(found.field, fixed.affine) < 0.005


def test_both_directions_undo_each_other():
    a, b = phantom(SIZE), phantom(SIZE, back=wavy)
    there, back = align(a, b), align(b, a)
    points = lattice_mm(SIZE, b.affine)
    where = points[seen(b)]
    from medspectrum.metrics.registration import displacement_at

    half = where + displacement_at(where, there.field, b.affine)
    whole = half + displacement_at(half, back.field, a.affine)
    assert np.linalg.norm(there.field[seen(b)], axis=-1).mean() > 1.5
    assert np.linalg.norm(whole - where, axis=-1).mean() < 0.5


def test_another_contrast_is_aligned_too():
    moving, fixed = phantom(SIZE), phantom(SIZE, back=wavy)
    other = Image(np.exp(-2 * fixed.array) * (1 - 0.5 * fixed.array), fixed.affine)
    found = align(moving, other)
    labels = phantom(SIZE, of=labels_at, kind=np.uint8)
    truth = phantom(SIZE, back=wavy, of=labels_at, kind=np.uint8)
    scores = carried_dice(carried(labels, found.fixed, found.field).array, truth.array)
    assert np.mean(list(scores.values())) > 0.85


@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_every_axis_order_comes_back_in_place(order, flips):
    """The moving image stored in any order and direction of axes gives the same image on the fixed grid."""
    moving = phantom((14, 16, 18), (2.2, 2.0, 1.8), kind=np.int16)
    fixed = phantom((12, 15, 13), (2.4, 2.1, 2.6), kind=np.int16)
    stored = turned(moving, order, flips)
    points = lattice_mm(fixed.size, fixed.affine)
    field = wave(points, height_mm=1.0).astype(np.float32)
    plain = warped(moving, grid_of(fixed), field)
    np.testing.assert_array_equal(warped(stored, grid_of(fixed), field).array, plain.array)
    assert plain.array.dtype == np.int16
    np.testing.assert_allclose(plain.array[0], 1000 * brightness(points + field), atol=330)
    # and a fixed image stored that way carries the same values to the same places
    other = turned(fixed, order, flips)
    again = warped(moving, grid_of(other), wave(lattice_mm(other.size, other.affine), height_mm=1.0))
    np.testing.assert_allclose(turned(plain, order, flips).array, again.array, atol=1)


@pytest.mark.parametrize(("order", "flips"), ALL_48[5::11])
def test_stored_orders_are_registered_alike(order, flips):
    moving, fixed = phantom(SIZE), phantom(SIZE, back=rigid_motion)
    found = align(turned(moving, order, flips), fixed, method="rigid")
    where = brightness(rigid_motion(lattice_mm(SIZE, fixed.affine))) > 0.2
    assert error_mm(found, fixed, rigid_motion, where).mean() < 0.5


def test_other_spacings_and_sizes():
    moving = phantom((30, 40, 34), (1.3, 0.9, 1.1))
    fixed = phantom((12, 40, 40), (3.0, 0.9, 0.9), back=rigid_motion)
    found = align(moving, fixed)
    where = brightness(rigid_motion(lattice_mm(fixed.size, fixed.affine))) > 0.2
    assert error_mm(found, fixed, rigid_motion, where).mean() < 1.0
    assert found.field.shape == (12, 40, 40, 3)


def test_a_large_volume_is_worked_on_coarsely_and_answered_finely():
    moving, fixed = (
        phantom((90, 90, 90), (0.4, 0.4, 0.4)),
        phantom((90, 90, 90), (0.4, 0.4, 0.4), back=rigid_motion),
    )
    found = align(moving, fixed, most_voxels=40_000)
    where = brightness(rigid_motion(lattice_mm(fixed.size, fixed.affine))) > 0.2
    assert error_mm(found, fixed, rigid_motion, where).mean() < 0.5
    assert found.field.shape == (90, 90, 90, 3)


@pytest.mark.parametrize("method", ["convex_adam", "demons"])
def test_pictures_are_registered_in_their_plane(method):
    def motion(points):
        moved = points + wave(points, height_mm=2.0)
        moved[..., 2] = points[..., 2]
        return moved

    size = (1, 60, 64)
    affine = centred(size, (1.0, 0.6, 0.6))
    moving, fixed = phantom(size, affine=affine), phantom(size, affine=affine, back=motion)
    found = align(moving, fixed, method=method)
    where = brightness(motion(lattice_mm(size, affine))) > 0.2
    assert np.abs(found.field[..., 2]).max() < 1e-5
    before = np.linalg.norm(motion(lattice_mm(size, affine)) - lattice_mm(size, affine), axis=-1)[where]
    assert error_mm(found, fixed, motion, where).mean() < 0.5 * before.mean()


def test_the_same_bits_twice_whatever_the_threads():
    import torch

    moving, fixed = phantom(SIZE), phantom(SIZE, back=wavy)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = align(moving, fixed).field
        torch.set_num_threads(3)
        second = align(moving, fixed).field
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert first.tobytes() == second.tobytes()


def far_away(image: Image) -> Image:
    affine = image.affine.copy()
    affine[:3, 3] += 500
    return Image(image.array, affine, image.modality)


def test_images_that_do_not_overlap():
    moving, fixed = far_away(phantom(SIZE)), phantom(SIZE, back=rigid_motion)
    with pytest.raises(UserError, match=r"do not overlap.*'centres'") as told:
        align(moving, fixed)
    assert "\n" not in str(told.value)
    found = align(moving, fixed, start="centres", method="rigid")
    where = brightness(rigid_motion(lattice_mm(SIZE, fixed.affine))) > 0.2
    error = error_mm(found, fixed, lambda p: rigid_motion(p) + 500, where)
    assert error.mean() < 0.5


def test_half_an_overlap_is_enough():
    whole = phantom(SIZE)
    affine = whole.affine.copy()
    affine[:3, 3] = whole.affine[:3, :3] @ [9, 0, 0] + whole.affine[:3, 3]
    part = Image(whole.array[..., 9:], affine, "MR")
    fixed = phantom(SIZE, back=rigid_motion)
    found = align(part, fixed, method="rigid")
    where = brightness(rigid_motion(lattice_mm(SIZE, fixed.affine))) > 0.2
    assert error_mm(found, fixed, rigid_motion, where).mean() < 1.0


def test_blank_images_and_wrong_words():
    moving = phantom(SIZE)
    blank = Image(np.full((1, *SIZE), 7, np.int16), moving.affine)
    with pytest.raises(UserError, match="the moving image has the same value everywhere"):
        align(blank, moving)
    for wrong in ({"method": "magic"}, {"start": "luck"}, {"pre": "all"}):
        with pytest.raises(UserError, match=r"there are|or none"):
            align(moving, moving, **wrong)


def test_labels_are_carried_without_new_ones():
    labels = phantom(SIZE, of=labels_at, kind=np.int16)
    still = np.zeros((*SIZE, 3), np.float32)
    for smooth in (True, False):
        same = carried(labels, grid_of(labels), still, smooth=smooth)
        np.testing.assert_array_equal(same.array, labels.array)
        assert same.array.dtype == np.int16
        away = carried(labels, grid_of(labels), still + 400, smooth=smooth)
        assert not away.array.any()
        shifted = carried(labels, grid_of(labels), still + np.float32(0.5), smooth=smooth)
        assert set(np.unique(shifted.array)) <= set(np.unique(labels.array))


# -- files ---------------------------------------------------------------------------------------


def written(folder: Path, **settings) -> dict:
    """A pair on different, turned grids, registered through files."""
    moving = turned(phantom((30, 34, 38), (1.1, 1.0, 0.9), kind=np.int16), (1, 2, 0), (1, 0, 1))
    fixed = turned(phantom((28, 32, 30), (1.2, 1.0, 1.1), back=wavy, kind=np.int16), (2, 0, 1), (0, 1, 1))
    labels = Image(labels_at(lattice_mm(moving.size, moving.affine))[None], moving.affine)
    truth = Image(labels_at(wavy(lattice_mm(fixed.size, fixed.affine)))[None], fixed.affine)
    names = {"moving": moving, "fixed": fixed, "labels": labels, "truth": truth}
    for name, image in names.items():
        nifti.write(image, folder / f"{name}.nii.gz")
    return register(
        folder / "moving.nii.gz",
        folder / "fixed.nii.gz",
        out=folder / "out",
        labels=folder / "labels.nii.gz",
        fixed_labels=folder / "truth.nii.gz",
        **settings,
    )


def test_what_is_written_is_what_simpleitk_does(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    told = written(tmp_path)
    out = tmp_path / "out"
    fixed, moving = (
        sitk.ReadImage(str(tmp_path / f"{n}.nii.gz"), sitk.sitkFloat64) for n in ("fixed", "moving")
    )
    ours = sitk.ReadImage(str(out / "warped.nii.gz"))
    assert ours.GetPixelIDTypeAsString() == "16-bit signed integer"
    lowest = float(sitk.GetArrayFromImage(moving).min())
    transform = sitk.ReadTransform(str(out / "transform.mat"))
    field = sitk.ReadImage(str(out / "field.nii.gz"), sitk.sitkVectorFloat64)
    assert field.GetSize() == fixed.GetSize()
    for theirs in (transform, sitk.DisplacementFieldTransform(field)):
        resampled = sitk.Resample(moving, fixed, theirs, sitk.sitkLinear, lowest)
        values = sitk.GetArrayFromImage(resampled)
        expected = sitk.GetArrayFromImage(ours)
        edge = np.abs(values - expected) > 0.6  # rounding, and single precision in the field
        assert edge.mean() < 1e-3, f"{edge.sum()} of {edge.size} differ"
    labels = sitk.ReadImage(str(out / "labels.nii.gz"))
    assert labels.GetSize() == fixed.GetSize()
    assert np.allclose(labels.GetDirection(), fixed.GetDirection(), atol=1e-5)
    assert np.mean(list(told["dice"].values())) > 0.85
    assert told["folding"] < 0.005
    assert json.loads((out / "registration.json").read_text()) == told


def test_fields_come_back_as_written(tmp_path):
    affine = turned(phantom((5, 6, 7), (2.0, 1.5, 1.0)), (1, 2, 0), (1, 0, 1)).affine
    field = np.random.default_rng(0).standard_normal((5, 6, 7, 3)).astype(np.float32)
    displacement.write_nifti(field, affine, tmp_path / "field.nii.gz")
    again, place = displacement.read_nifti(tmp_path / "field.nii.gz")
    np.testing.assert_array_equal(again, field)
    np.testing.assert_allclose(place, affine, atol=1e-5)
    nifti.write(phantom((5, 6, 7)), tmp_path / "image.nii.gz")
    with pytest.raises(UserError, match="no displacement field"):
        displacement.read_nifti(tmp_path / "image.nii.gz")


def test_pictures_from_files(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    from PIL import Image as Picture

    size = (1, 60, 64)
    affine = centred(size, (1.0, 0.6, 0.6))

    def motion(points):
        return points + wave(points, height_mm=1.5) * [1, 1, 0]

    for name, back in (("moving", lambda p: p), ("fixed", motion)):
        values = phantom(size, affine=affine, back=back).array[0, 0]
        Picture.fromarray((values * 200).astype(np.uint8)).save(tmp_path / f"{name}.png")
    told = register(tmp_path / "moving.png", tmp_path / "fixed.png", out=tmp_path / "out")
    assert told["start"] == "centres"
    assert told["mind_distance_after"] < 0.5 * told["mind_distance_before"]
    ours = np.asarray(Picture.open(tmp_path / "out" / "warped.png")).astype(float)
    moving, fixed = (
        sitk.ReadImage(str(tmp_path / f"{n}.png"), sitk.sitkFloat64) for n in ("moving", "fixed")
    )
    transform = sitk.ReadTransform(str(tmp_path / "out" / "transform.mat"))
    lowest = float(sitk.GetArrayFromImage(moving).min())
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, lowest))
    assert (np.abs(theirs - ours) > 0.6).mean() < 2e-3


def test_label_maps_that_do_not_fit(tmp_path):
    nifti.write(phantom((10, 10, 10)), tmp_path / "image.nii.gz")
    small = phantom((9, 10, 10), of=labels_at, kind=np.uint8)
    nifti.write(small, tmp_path / "small.nii.gz")
    nifti.write(far_away(phantom((10, 10, 10), of=labels_at, kind=np.uint8)), tmp_path / "away.nii.gz")
    nifti.write(phantom((10, 10, 10)), tmp_path / "grey.nii.gz")
    image = tmp_path / "image.nii.gz"
    for name, words in (
        ("small", "10 x 10 x 9"),
        ("away", "elsewhere in space"),
        ("grey", "no whole numbers"),
    ):
        with pytest.raises(UserError, match=words) as told:
            register(image, image, out=tmp_path / "out", labels=tmp_path / f"{name}.nii.gz")
        assert f"{name}.nii.gz" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_no_overlap_names_both_files(tmp_path):
    nifti.write(phantom((12, 12, 12)), tmp_path / "fixed.nii.gz")
    nifti.write(far_away(phantom((12, 12, 12))), tmp_path / "moving.nii.gz")
    with pytest.raises(UserError, match=r"moving\.nii\.gz onto .*fixed\.nii\.gz: .*do not overlap"):
        register(tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz", out=tmp_path / "out")


@pytest.mark.shared_data
def test_histology_landmarks_come_nearer():
    folder = DATA / "birl_histology" / "rat-kidney"
    if not folder.is_dir():
        pytest.skip("birl_histology is not under MEDSPECTRUM_DATA")
    from medspectrum import formats

    fixed, moving = (formats.read(folder / f"Rat-Kidney_{stain}.jpg") for stain in ("HE", "PanCytokeratin"))
    points = [
        np.loadtxt(folder / f"Rat-Kidney_{stain}.csv", delimiter=",", skiprows=1)[:69, 1:]
        for stain in ("HE", "PanCytokeratin")
    ]
    there = [np.column_stack((p, np.zeros(len(p)))) for p in points]
    found = align(moving, fixed, start="centres")
    still = np.zeros_like(found.field)
    before = np.median(landmark_errors_mm(there[0], there[1], still, fixed.affine))
    after = np.median(landmark_errors_mm(there[0], there[1], found.field, fixed.affine))
    assert after < before  # two stains far apart in looks; the landmarks alone would allow an eighth

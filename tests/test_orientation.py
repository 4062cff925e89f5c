"""What goes in comes back in place: an asymmetric phantom in all 48 orders of axes, random oblique grids."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from made_dicom import write_series
from made_phantom import ALL_48, labels_at, phantom, turn_about, turned
from medspectrum import formats
from medspectrum.case import Case
from medspectrum.datasets import load
from medspectrum.engine import planes
from medspectrum.formats.resampled import load_resampled
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.tasks.segment import Segment, grid_of

SIZE, SPACING = (10, 13, 16), (3.0, 1.9, 1.6)
STEP = 30  # grey values from one label to the next


def answered(case: Case) -> LabelMap:
    """Labels read off the brightness of each plane that an encoder would see, joined as predictors do."""
    cut = planes.cut(grid_of(case))
    seen = [plane.load().array[0, 0].astype(float) / STEP for plane in cut.planes]
    return LabelMap.of(cut.joined([np.rint(p).astype(np.uint8) for p in seen]))


def bodies(order, flips) -> Image:
    """Balls numbered 1 to 7 as 8-bit grey, stored in that order and direction of axes."""
    image = turned(phantom(SIZE, SPACING, of=labels_at), order, flips)
    return Image((image.array * STEP).astype(np.uint8), image.affine, "")


def centres_mm(array: np.ndarray, affine: np.ndarray) -> dict[int, np.ndarray]:
    """Where the middle of each label lies; array (X, Y, Z)."""
    return {int(v): affine[:3] @ [*np.argwhere(array == v).mean(axis=0), 1.0] for v in np.unique(array) if v}


TRUE = centres_mm(phantom(SIZE, SPACING, of=labels_at).array[0].T, phantom(SIZE, SPACING).affine)
TASK = Segment([str(v) for v in sorted(TRUE)], sorted(TRUE))


def in_place(found: dict[int, np.ndarray]) -> None:
    assert found.keys() == TRUE.keys()
    for value, centre in found.items():
        np.testing.assert_allclose(centre, TRUE[value], atol=1e-3)


@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_nifti_goes_in_and_comes_back_in_place(tmp_path, order, flips):
    image = bodies(order, flips)
    path = tmp_path / "in" / "a.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(image.array[0].T, image.affine), path)
    (case,) = load(path.parent).cases
    folder = TASK.write([answered(case)], [case], tmp_path / "out")
    found = nibabel.load(folder / "a.nii.gz")
    assert found.shape == nibabel.load(path).shape
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    in_place(centres_mm(np.asarray(found.dataobj), found.affine))


@pytest.mark.parametrize(("order", "flips"), ALL_48[::3])
def test_dicom_goes_in_and_comes_back_in_place(tmp_path, order, flips):
    pytest.importorskip("highdicom")
    image = bodies(order, flips)
    write_series(tmp_path / "in", Image(image.array.astype(np.int16), image.affine, "MR"))
    (case,) = load(tmp_path / "in").cases
    whole = case.images["image"].load()
    labels = LabelMap.of(np.rint(whole.array[0] / STEP).astype(np.uint8))
    nifti = nibabel.load(TASK.write([labels], [case], tmp_path / "out") / "in.nii.gz")
    in_place(centres_mm(np.asarray(nifti.dataobj), nifti.affine))
    seg = formats.read(TASK.write([labels], [case], tmp_path / "seg", format="dicom-seg") / "in.dcm")
    in_place(centres_mm(seg.array[0].T, seg.affine))


KINDS = ("<i2", ">i2", "u1", "<f4", ">f4", "<u2")


@st.composite
def grids(draw):
    """A random volume file: size, oblique affine, type, scale, wanted spacing, packed or not, seed."""
    size = draw(st.tuples(*[st.integers(2, 12)] * 3))
    spacing = np.array(draw(st.tuples(*[st.floats(0.5, 4.0)] * 3)))
    angle = draw(st.sampled_from((0.0, 0.0, 12.0, 35.0)))
    axis = np.array(draw(st.tuples(*[st.integers(-3, 3)] * 3)), float)
    order, flips = draw(st.sampled_from(ALL_48))
    turn = turn_about(axis, angle) if axis.any() else np.eye(3)
    signed = np.eye(3)[:, list(order)] * np.where(flips, -1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = turn @ signed * spacing
    affine[:3, 3] = draw(st.tuples(*[st.integers(-50, 50)] * 3))
    kind = draw(st.sampled_from(KINDS))
    slope = draw(st.sampled_from((None, (2.0, -10.0), (0.5, 3.0))))
    wanted = draw(st.sampled_from((None, 1.0, 2.5, (3.0, 0.8, 1.3))))
    return size, affine, kind, slope, wanted, draw(st.booleans()), draw(st.integers(0, 99))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(grids())
def test_the_loader_gives_what_nibabel_and_scipy_give(tmp_path, made):
    """Each voxel of the loaded volume holds what lies at its place in the patient, by another way."""
    size, affine, kind, slope, wanted, packed, seed = made
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 200, size).astype(kind)
    if stored.dtype.kind == "f":
        stored = rng.normal(0, 50, size).astype(kind)
    header = nibabel.Nifti1Header(endianness="<" if stored.dtype.byteorder != ">" else ">")
    image = nibabel.Nifti1Image(stored, affine, header)
    image.header.set_data_dtype(stored.dtype)
    if slope and stored.dtype.kind != "f":
        image.header.set_slope_inter(*slope)
        image = nibabel.Nifti1Image(stored * slope[0] + slope[1], affine, image.header)
        image.header.set_slope_inter(*slope)
    content = image.to_bytes()
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    there = nibabel.Nifti1Image.from_bytes(content)
    values, places = there.get_fdata(), there.affine

    found = load_resampled(path, spacing_mm=wanted)
    z, y, x = np.indices(found.size)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3) @ found.affine[:3, :3].T + found.affine[:3, 3]
    voxels = np.linalg.solve(places[:3, :3], (points - places[:3, 3]).T)
    voxels = np.clip(voxels, 0, np.array(values.shape)[:, None] - 1)
    expected = map_coordinates(values, voxels, order=1, mode="nearest").reshape(found.size)
    np.testing.assert_allclose(found.array[0], expected, atol=2e-3 * max(1.0, np.abs(values).max()))
    if wanted is not None:
        np.testing.assert_allclose(found.spacing_mm, np.broadcast_to(wanted, 3), atol=1.1e-3)
    again = formats.read(path)
    np.testing.assert_allclose(again.array[0].T, values, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(again.affine, places, atol=1e-5)

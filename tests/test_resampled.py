"""Loading onto a wanted grid: what lies where in the patient stays there, with the values it had."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats.resampled import load_resampled
from medspectrum.image import Image

ORDERS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SPACING = np.array([0.9, 1.4, 2.1])  # along patient x, y, z
SIDES = np.array([13, 11, 9])


def field(places):
    """A value for every place in the patient (..., 3): no two axes or directions alike."""
    return places @ np.array([3.0, -7.0, 11.0]) + 40


def voxels(size, affine):
    """(X, Y, Z, 3): the places of all voxels, RAS mm."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def stored(order, signs, *, turn=None):
    """An affine for axes in that order and direction, and the size along them."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[world]
    size = tuple(int(SIDES[world]) for world in order)
    affine[:3, 3] = [5, -3, 8]
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    return size, affine


def write(path, array, affine, *, slope=1.0, shift=0.0, endian="<"):
    header = nibabel.Nifti1Header(endianness=endian)
    header.set_data_dtype(array.dtype)
    image = nibabel.Nifti1Image(array, affine, header)
    image.header.set_slope_inter(slope, shift)
    nibabel.save(image, path)
    return path


def in_place(image, inside_mm):
    """Largest difference to ``field`` over the voxels that lie between the outermost ones of the file."""
    size = image.array.shape[:0:-1]
    places = voxels(size, image.affine)
    low, high = inside_mm
    inside = ((places >= low - 1e-6) & (places <= high + 1e-6)).all(-1)
    assert inside.mean() > 0.6
    return float(np.abs(image.array[0].transpose(2, 1, 0) - field(places))[inside].max())


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_every_axis_order_comes_back_in_place(tmp_path, order, signs):
    size, affine = stored(order, signs)
    places = voxels(size, affine)
    path = write(tmp_path / "a.nii", field(places).astype(np.float32), affine)
    inside = places.reshape(-1, 3).min(0), places.reshape(-1, 3).max(0)
    for orientation, spacing in (("RAS", 1.3), ("LPS", (1.7, 1.2, 0.8)), ("SAL", None), (None, 1.1)):
        image = load_resampled(path, orientation=orientation, spacing_mm=spacing)
        assert in_place(image, inside) < 1e-3
        if orientation is not None:
            letters = "".join(nibabel.aff2axcodes(image.affine))
            assert letters == orientation
        if isinstance(spacing, tuple):
            np.testing.assert_allclose(image.spacing_mm, spacing)
    plain = load_resampled(path)
    assert plain.array.shape == (1, 9, 11, 13)
    assert in_place(plain, inside) < 1e-4


@pytest.mark.parametrize(("order", "signs"), ORDERS[::7])
def test_crops_come_from_where_they_are_asked_for(tmp_path, order, signs):
    size, affine = stored(order, signs)
    values = np.random.default_rng(0).integers(-900, 900, size).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", values, affine)
    whole = load_resampled(path, spacing_mm=1.1)
    part = load_resampled(path, spacing_mm=1.1, crop=(5, 6, 7))
    _, z, y, x = whole.array.shape
    first = [n // 2 - s // 2 for n, s in zip((z, y, x), (5, 6, 7), strict=True)]
    cut = tuple(slice(f, f + s) for f, s in zip(first, (5, 6, 7), strict=True))
    assert np.array_equal(part.array, whole.array[(slice(None), *cut)])
    np.testing.assert_allclose(part.affine[:3, 3], (whole.affine @ [*first[::-1], 1])[:3])
    corner = load_resampled(path, spacing_mm=1.1, crop=(50, 3, 50), start=(z - 2, 0, 4))
    assert np.array_equal(corner.array, whole.array[:, z - 2 :, :3, 4:])
    huge = load_resampled(path, spacing_mm=1.1, crop=(99, 99, 99))
    assert np.array_equal(huge.array, whole.array)


@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i2", ">u2", "<i4", ">f4", "<f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_types_byte_orders_and_scales(tmp_path, kind, suffix):
    size, affine = stored((0, 2, 1), (1, -1, 1))
    values = np.random.default_rng(0).integers(0, 100, size).astype(kind)
    path = write(
        tmp_path / f"a{suffix}",
        values,
        affine,
        slope=0.5,
        shift=-7.0,
        endian=kind[0] if len(kind) > 2 else "<",
    )
    expected = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    found = load_resampled(path)
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.array[0], expected.T, atol=1e-5)
    scaled = load_resampled(path, window=(0, 30), to=(-1, 1))
    np.testing.assert_allclose(scaled.array[0], np.clip(expected.T / 15 - 1, -1, 1), atol=1e-5)
    open_ended = load_resampled(path, window=(0, 30), clip=False)
    np.testing.assert_allclose(open_ended.array[0], expected.T / 30, atol=1e-5)


def test_label_maps_keep_their_values_and_type(tmp_path):
    size, affine = stored((2, 0, 1), (-1, 1, -1))
    labels = np.random.default_rng(0).integers(0, 5, size).astype(">u2")
    path = write(tmp_path / "a.nii.gz", labels, affine, endian=">")
    found = load_resampled(path, nearest=True)
    assert found.array.dtype == np.uint16
    assert np.array_equal(
        found.array[0], np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).T
    )
    finer = load_resampled(path, spacing_mm=0.5, nearest=True)
    assert set(np.unique(finer.array)) <= set(range(5))
    assert finer.array.dtype.isnative
    both = load_resampled(path, spacing_mm=0.5)
    assert finer.array.shape == both.array.shape
    assert np.array_equal(finer.affine, both.affine)
    sloped = write(tmp_path / "b.nii", labels.astype("<u2"), affine, slope=2.0)
    assert np.array_equal(load_resampled(sloped, nearest=True).array, found.array.astype(np.float32) * 2)


def test_channels_and_times_are_channels(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (7, 6, 40, 3)).astype(np.int16)
    affine = np.diag([-1, -1, 2.0, 1])
    path = write(tmp_path / "a.nii.gz", values, affine)
    found = load_resampled(path, spacing_mm=(1.0, 1.0, 1.0), crop=(20, 6, 7))
    assert found.array.shape == (3, 20, 6, 7)
    for channel in range(3):
        alone = write(tmp_path / f"{channel}.nii", np.ascontiguousarray(values[..., channel]), affine)
        expected = load_resampled(alone, spacing_mm=(1.0, 1.0, 1.0), crop=(20, 6, 7))
        assert np.array_equal(found.array[channel], expected.array[0])


def test_a_file_and_the_same_image_in_memory_agree(tmp_path):
    from medspectrum import formats

    size, affine = stored((1, 2, 0), (1, 1, -1))
    path = write(
        tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, size).astype(np.int16), affine
    )
    settings = {"spacing_mm": (1, 2, 1.5), "window": (10, 60), "crop": (6, 5, 4)}
    one, other = load_resampled(path, **settings), load_resampled(formats.read(path), **settings)
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.affine, other.affine)


def test_oblique_volumes_stay_oblique_and_sheared_ones_are_straightened(tmp_path):
    angle = np.deg2rad(17)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0.35], [0, 0, 1]])
    for number, moved in enumerate((turn, tilt, tilt @ turn)):
        size, affine = stored((0, 1, 2), (-1, -1, 1), turn=moved)
        places = voxels(size, affine)
        path = write(tmp_path / f"{number}.nii.gz", field(places).astype(np.float32), affine)
        image = load_resampled(path, spacing_mm=1.0)
        unit = image.affine[:3, :3]
        np.testing.assert_allclose(unit.T @ unit, np.eye(3), atol=1e-6)
        there = voxels(image.array.shape[:0:-1], image.affine)
        back = (there - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        inside = ((back >= 0) & (back <= np.array(size) - 1)).all(-1)
        assert inside.mean() > 0.3
        apart = np.abs(image.array[0].transpose(2, 1, 0) - field(there))[inside]
        assert apart.max() < 2e-3
        if number == 0:
            assert np.abs(image.affine[0, 1]) > 0.2


def test_nan_counts_as_the_lowest_value(tmp_path):
    values = np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32)
    values[2, 2, 2], values[0, 0, 0] = np.nan, np.inf
    path = write(tmp_path / "a.nii.gz", values, np.eye(4))
    found = load_resampled(path, spacing_mm=0.5)
    assert np.isfinite(found.array).all()
    assert found.array.min() == np.nanmin(values)
    assert found.array[0, 4, 4, 4] == np.nanmin(values)


def test_single_slices_single_voxels_and_unchanged_grids(tmp_path):
    one = write(tmp_path / "one.nii", np.full((1, 1, 1), 7, np.int16), np.diag([3.0, 3, 3, 1]))
    assert load_resampled(one, spacing_mm=1).array.tolist() == [[[[7.0]]]]
    flat = write(tmp_path / "flat.nii.gz", np.arange(12, dtype=np.int16).reshape(4, 3), np.eye(4))
    assert load_resampled(flat).array.shape == (1, 1, 3, 4)
    near = write(
        tmp_path / "near.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.diag([1.0005, 1, 1, 1])
    )
    same = load_resampled(near, spacing_mm=1)
    assert np.array_equal(same.array[0], np.arange(60).reshape(5, 4, 3).T)


def test_damaged_files_are_told_in_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "a.nii", rng.integers(0, 999, (40, 40, 40)).astype(np.int16), np.eye(4))
    content = whole.read_bytes()
    cases = {
        "cut.nii": content[: len(content) // 2],
        "cut.nii.gz": gzip.compress(content)[: len(content) // 3],
        "short.nii.gz": gzip.compress(content[: len(content) // 2]),
        "head.nii": content[:200],
    }
    broken = bytearray(gzip.compress(content))
    broken[len(broken) // 2 : len(broken) // 2 + 64] = bytes(64)
    cases["broken.nii.gz"] = bytes(broken)
    for name, written in cases.items():
        (tmp_path / name).write_bytes(written)
        with pytest.raises(UnreadableFile) as told:
            load_resampled(tmp_path / name, spacing_mm=2)
        assert "\n" not in str(told.value)
        assert str(tmp_path / name) in str(told.value)
        if name.startswith(("cut", "short")):
            assert "truncated" in told.value.reason
    with pytest.raises(UnreadableFile, match="does not exist"):
        load_resampled(tmp_path / "none.nii")


def test_settings_that_cannot_be_are_refused_in_words(tmp_path):
    path = write(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16), np.eye(4))
    for settings, words in (
        ({"orientation": "RLS"}, "no orientation"),
        ({"orientation": "RA"}, "no orientation"),
        ({"spacing_mm": 0}, "above 0 mm"),
        ({"spacing_mm": (1, -1, 1)}, "above 0 mm"),
        ({"window": (5, 5)}, "lower to a higher"),
        ({"crop": (0, 1, 1)}, "at least 1 voxel"),
        ({"crop": (2, 2, 2), "start": (4, 0, 0)}, "cannot start"),
    ):
        with pytest.raises(UserError, match=words):
            load_resampled(path, **settings)
    picture = Image(np.zeros((1, 1, 5, 5), np.uint8), spacing_known=False)
    with pytest.raises(UserError, match="no voxel size"):
        load_resampled(picture, spacing_mm=1)
    assert load_resampled(picture).array.shape == (1, 1, 5, 5)


@pytest.mark.parametrize("number", range(0, 48, 5))
def test_the_same_as_monai(tmp_path, number):
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is not installed")
    order, signs = ORDERS[number]
    angle = np.deg2rad(9 * (number % 2))
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    if number % 3 == 0:
        turn = turn @ np.array([[1, 0, 0], [0, 1, 0.3 * (-1) ** number], [0, 0, 1]])
    size, affine = stored(order, signs, turn=turn)
    values = np.random.default_rng(number).integers(-1000, 1500, size).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", values, affine, slope=1.5, shift=-20.0)
    ends = (("L", "R"), ("P", "A"), ("I", "S"))
    for spacing, crop in (((1.0, 1.0, 1.0), (8, 9, 10)), ((0.7, 1.9, 1.1), (6, 40, 7))):
        theirs = transforms.Compose([
            transforms.LoadImaged("i"),
            transforms.EnsureChannelFirstd("i"),
            transforms.Orientationd("i", axcodes="RAS", labels=ends),
            transforms.Spacingd("i", pixdim=spacing, mode="bilinear", padding_mode="border"),
            transforms.ScaleIntensityRanged("i", -800, 1200, 0, 1, clip=True),
            transforms.CenterSpatialCropd("i", crop),
        ])({"i": path})["i"]  # fmt: skip
        ours = load_resampled(path, spacing_mm=spacing[::-1], window=(-800, 1200), crop=crop[::-1])
        np.testing.assert_allclose(ours.array.transpose(0, 3, 2, 1), theirs.numpy(), atol=1e-3)
        np.testing.assert_allclose(ours.affine, theirs.affine.numpy(), atol=1e-6)

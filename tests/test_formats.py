"""Each format gives the values, the axes and the geometry that were written."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil

from medspectrum import formats
from medspectrum.errors import UnreadableFile
from medspectrum.formats import dicom, slide, video
from medspectrum.formats.safety import remarks

DATA = Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given")
shared = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason=f"no shared data below {DATA}")


def random(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "jp2"])
def test_grey_and_colour_pictures_come_back_exactly(tmp_path, suffix):
    grey, colour = random((20, 31)), random((20, 31, 3), seed=1)
    for name, array in (("grey", grey), ("colour", colour)):
        path = tmp_path / f"{name}.{suffix}"
        options = {"irreversible": False} if suffix == "jp2" else {}
        pil.fromarray(array).save(path, **options)
        image = formats.read(path)
        planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        assert np.array_equal(image.array[:, 0], planes)
        assert not image.spacing_known


def test_sixteen_bit_png_and_tiff_keep_their_values(tmp_path):
    import tifffile

    array = random((9, 7), np.uint16)
    pil.fromarray(array).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", array)
    colour = random((9, 7, 3), np.uint16)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    tifffile.imwrite(tmp_path / "float.tif", array.astype(np.float32) / 7)
    for name in ("a.png", "a.tif"):
        read = formats.read(tmp_path / name).array
        assert read.dtype == np.uint16
        assert np.array_equal(read[0, 0], array)
    assert np.array_equal(formats.read(tmp_path / "rgb.tif").array[:, 0], np.moveaxis(colour, -1, 0))
    assert np.allclose(formats.read(tmp_path / "float.tif").array[0, 0], array / np.float32(7))


def test_tiff_pages_stand_along_z_and_min_is_white_is_turned(tmp_path):
    import tifffile

    stack = random((4, 9, 7))
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    assert np.array_equal(formats.read(tmp_path / "stack.tif").array, stack[None])
    tifffile.imwrite(tmp_path / "white.tif", stack[0], photometric="miniswhite")
    assert np.array_equal(formats.read(tmp_path / "white.tif").array[0, 0], 255 - stack[0])


def test_transparency_is_laid_over_white(tmp_path):
    array = np.zeros((4, 4, 4), np.uint8)
    array[..., 0] = 200
    array[:2, :, 3] = 255  # the upper half is opaque, the lower one clear
    pil.fromarray(array, "RGBA").save(tmp_path / "a.png")
    image = formats.read(tmp_path / "a.png").array
    assert image.shape == (3, 1, 4, 4)
    assert image[:, 0, 0, 0].tolist() == [200, 0, 0]
    assert image[:, 0, 3, 3].tolist() == [255, 255, 255]
    grey = np.dstack([np.full((4, 4), 100, np.uint8), np.full((4, 4), 255, np.uint8)])
    pil.fromarray(grey, "LA").save(tmp_path / "b.png")
    assert formats.read(tmp_path / "b.png").array.shape == (1, 1, 4, 4)


def test_palettes_bits_cmyk_and_orientation(tmp_path):
    colour = pil.fromarray(random((8, 8, 3)))
    colour.quantize(4).save(tmp_path / "palette.png")
    assert formats.read(tmp_path / "palette.png").array.shape == (3, 1, 8, 8)
    colour.convert("L").convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(formats.read(tmp_path / "bits.png").array)) <= {0, 255}
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert formats.read(tmp_path / "cmyk.jpg").array.shape == (3, 1, 8, 8)
    tag = pil.Exif()
    tag[0x0112] = 6  # turned by a quarter
    pil.fromarray(random((8, 12))).save(tmp_path / "turned.jpg", exif=tag)
    assert formats.read(tmp_path / "turned.jpg").size == (1, 12, 8)


def test_nifti_is_ras_and_equal_to_nibabel(tmp_path):
    import nibabel

    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    affine = np.array([[-0.9, 0, 0, 10], [0, 0, 2.5, -3], [0, 1.1, 0, 4], [0, 0, 0, 1.0]])
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name)
        image = formats.read(tmp_path / name)
        assert np.array_equal(image.array[0], array.transpose(2, 1, 0))
        assert np.allclose(image.affine, affine)
        assert image.spacing_mm == pytest.approx((2.5, 1.1, 0.9))
    scaled = nibabel.Nifti1Image((array * 10).astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 3)
    nibabel.save(scaled, tmp_path / "scaled.nii.gz")
    expected = nibabel.load(tmp_path / "scaled.nii.gz").get_fdata()
    assert np.allclose(
        formats.read(tmp_path / "scaled.nii.gz").array[0], expected.transpose(2, 1, 0), atol=1e-5
    )
    nibabel.save(nibabel.Nifti2Image(np.stack([array] * 3, -1), affine), tmp_path / "four.nii.gz")
    assert formats.read(tmp_path / "four.nii.gz").array.shape == (3, 7, 6, 5)


def test_nrrd_is_turned_from_lps_to_ras(tmp_path):
    import nrrd
    import SimpleITK as sitk

    array = random((5, 6, 7), np.int16)  # z, y, x
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6, 2.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=True)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    ours, reference = formats.read(tmp_path / "a.nrrd"), formats.read(tmp_path / "a.nii.gz")
    assert np.array_equal(ours.array, reference.array)
    assert np.allclose(ours.affine, reference.affine, atol=1e-5)
    nrrd.write(str(tmp_path / "colour.nrrd"), random((3, 6, 7)), {"kinds": ["RGB-color", "domain", "domain"]})
    assert formats.read(tmp_path / "colour.nrrd").array.shape == (3, 1, 7, 6)


def test_dicom_series_has_the_geometry_of_itk(tmp_path):
    from medspectrum.datasets.dicom import write_slice

    paths = [tmp_path / f"{place}.dcm" for place in (2, 0, 1)]
    values = {place: random((6, 8), np.int16, place) // 8 for place in range(3)}
    for path, place in zip(paths, (2, 0, 1), strict=True):
        write_slice(path, values[place], patient="x", place=place, centre="north")
    volumes = dicom.volumes(dicom.header(path) for path in paths)
    assert [len(volume) for volume in volumes] == [3]
    image = dicom.read_series([header.path for header in volumes[0]])
    assert image.modality == "CT"
    assert image.spacing_mm == pytest.approx((2.5, 0.7, 0.8))
    assert np.array_equal(image.array[0], np.stack([values[n] for n in range(3)]) - 1000)
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "itk.nii.gz"))
    itk = formats.read(tmp_path / "itk.nii.gz")
    assert np.allclose(itk.affine, image.affine, atol=1e-4)
    assert np.array_equal(itk.array, image.array)


def _changed(tmp_path, **changes):
    import pydicom

    from medspectrum.datasets.dicom import write_slice

    path = tmp_path / "made.dcm"
    write_slice(path, random((6, 8), np.int16) // 100, patient="x", place=0, centre="north")
    data = pydicom.dcmread(path)
    stored = data.pixel_array.copy()
    for name, value in changes.items():
        setattr(data, name, value)
    if "PixelPaddingValue" in changes:
        data["PixelPaddingValue"].VR = "SS"
    data.save_as(path)
    return path, stored


def test_monochrome1_is_turned_and_window_clips(tmp_path):
    path, stored = _changed(
        tmp_path, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=0, BitsStored=12
    )
    assert np.array_equal(formats.read(path).array[0, 0], 4095 - stored - 1000)
    path, stored = _changed(tmp_path)
    clipped = dicom.read(path, window=(-900.0, 100.0)).array[0, 0]
    assert np.array_equal(clipped, np.clip(stored - 1000.0, -950, -850))


def test_padding_becomes_the_lowest_value(tmp_path):
    path, stored = _changed(tmp_path)
    low = int(stored[0, 0])
    path, stored = _changed(tmp_path, PixelPaddingValue=low)
    array = formats.read(path).array[0, 0]
    assert array[0, 0] == stored[stored != low].min() - 1000


def test_gantry_tilt_gives_a_sheared_affine_and_gaps_are_remarked(tmp_path):
    import pydicom

    from medspectrum.datasets.dicom import write_slice

    paths = []
    for place in range(4):
        path = tmp_path / f"{place}.dcm"
        write_slice(path, random((6, 8), np.int16) // 9, patient="x", place=place, centre="c")
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = [0.0, 1.0 * place, 3.0 * place if place < 3 else 15.0]
        data.save_as(path)
        paths.append(path)
    image = dicom.read_series(paths[:3])
    assert image.affine[:3, 2] == pytest.approx([0, -1, 3])
    with remarks() as said:
        dicom.read_series(paths)
    assert "uneven gaps" in said[0]


@shared
@pytest.mark.parametrize(
    ("name", "shape", "modality"),
    [
        ("single/MR2_J2KR.dcm", (1, 1, 1024, 1024), "MR"),
        ("single/OBXXXX1A_rle.dcm", (3, 1, 600, 800), "US"),
        ("single/US1_J2KR.dcm", (3, 1, 480, 640), "US"),
        ("single/eCT_Supplemental.dcm", (1, 2, 512, 512), "CT"),
        ("single/emri_small.dcm", (1, 10, 64, 64), "MR"),
        ("us_multiframe/examples_ybr_color.dcm", (3, 30, 240, 320), "US"),
    ],
)
def test_real_dicom_encodings(name, shape, modality):
    image = formats.read(DATA / "dicom" / name)
    assert image.array.shape == shape
    assert image.modality == modality
    assert image.array.std() > 0


@shared
def test_ybr_is_given_as_rgb():
    import pydicom
    from pydicom.pixels.processing import convert_color_space
    from pydicom.pixels.utils import pixel_array

    path = DATA / "dicom" / "us_multiframe" / "examples_ybr_color.dcm"
    raw = pixel_array(pydicom.dcmread(path), raw=True, index=0)
    expected = convert_color_space(raw, "YBR_FULL", "RGB")
    ours = np.moveaxis(formats.read(path).array[:, 0], 0, -1)
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 2


@shared
def test_slide_overview_tiles_and_broken_one():
    path = DATA / "wsi" / "CMU-1-Small-Region.svs"
    image = formats.read(path)
    assert image.modality == "SM"
    assert max(image.size) == 2048
    assert image.spacing_mm[2] == pytest.approx(0.000499 * 2220 / image.size[2], rel=0.01)
    found = slide.tiles(path, pixels=224, mpp=1.0, tissue=0.3, most=5)
    assert len(found) == 5
    tile = found[2].load()
    assert tile.array.shape == (3, 1, 224, 224)
    assert tile.spacing_mm[2] == pytest.approx(0.001, rel=0.01)
    assert len({t.key() for t in found}) == 5
    assert pickle.loads(pickle.dumps(found[0])).key() == found[0].key()
    everything = slide.tiles(path, pixels=224, mpp=1.0, tissue=0.0)
    assert len(everything) > len(slide.tiles(path, pixels=224, mpp=1.0, tissue=0.6))
    with pytest.raises(UnreadableFile, match="does not hold a whole slide"):
        formats.read(DATA / "wsi" / "broken.svs")


def write_video(path, frames):
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            array = np.full((48, 64, 3), number * 255 // frames, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


def test_video_frames_are_spread_over_the_whole(tmp_path):
    write_video(tmp_path / "a.mp4", 50)
    image = formats.read(tmp_path / "a.mp4")
    assert image.array.shape == (3, 32, 48, 64)
    levels = image.array[0].mean(axis=(1, 2))
    assert (np.diff(levels) > -1).all()
    assert levels[0] < 10
    assert levels[-1] > 235
    assert video.read(tmp_path / "a.mp4", frames=4).array.shape[1] == 4


def test_a_wrong_suffix_is_read_as_what_it_is(tmp_path):
    array = random((8, 9))
    pil.fromarray(array).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    with remarks() as said:
        assert np.array_equal(formats.read(tmp_path / "a.dcm").array[0, 0], array)
    assert "is named .dcm but holds a picture" in said[0]


def test_lazy_image_travels_and_its_key_is_the_content(tmp_path):
    for name in ("a.png", "b.png"):
        pil.fromarray(random((8, 9))).save(tmp_path / name)
    one, two = formats.lazy(tmp_path / "a.png"), formats.lazy(tmp_path / "b.png")
    assert one.key() == two.key()
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert np.array_equal(copy.load().array, one.load().array)

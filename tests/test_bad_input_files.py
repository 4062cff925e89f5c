"""Every bad file gets one clear sentence, and a run over many goes on."""

import gzip
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image as pil

from medspectrum import formats
from medspectrum.datasets import load
from medspectrum.describe import describe, labelled, usable
from medspectrum.errors import UnreadableFile, UserError


def png(path, shape=(24, 24), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pil.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def huge_png(path, side=20_000):
    """A valid header of side x side, with pixels that would unpack to nothing."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def nifti(path, array):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "nii", "nii.gz", "nrrd", "dcm", "mp4"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    array = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    if suffix in ("png", "jpg"):
        pil.fromarray(array).save(path)
    elif suffix == "tif":
        import tifffile

        tifffile.imwrite(path, array)
    elif suffix.startswith("nii"):
        nifti(path, np.stack([array] * 8))
    elif suffix == "nrrd":
        import nrrd

        nrrd.write(str(path), np.stack([array] * 8))
    elif suffix == "dcm":
        from medspectrum.datasets.dicom import write_slice

        write_slice(path, array.astype(np.int16), patient="x", place=0, centre="c")
    else:
        from test_formats import write_video

        write_video(path, 30)
    formats.read(path)
    cut(path, 0.3 if suffix == "mp4" else 0.6)
    with pytest.raises(UnreadableFile) as error:
        formats.read(path)
    assert str(path) in one_sentence(error)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.dcm", "a.nii.gz", "a.nrrd", "a.svs", "a.mp4"])
def test_empty_and_nonsense_files(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(UnreadableFile, match="is empty"):
        formats.read(path)
    path.write_bytes(b"this is a letter to nobody" * 40)
    with pytest.raises(UnreadableFile, match="does not hold"):
        formats.read(path)


@pytest.mark.parametrize(
    "magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"NRRD0004\n", b"GIF89a", b"BM"]
)
def test_right_beginning_then_nonsense(tmp_path, magic):
    path = tmp_path / "a.png"
    path.write_bytes(magic + bytes(range(256)) * 8)
    with pytest.raises(UnreadableFile) as error:
        formats.read(path)
    one_sentence(error)


def test_a_picture_of_20000_pixels_a_side_is_refused_before_it_is_decoded(tmp_path):
    with pytest.raises(UnreadableFile, match=r"pixels, .*limit"):
        formats.read(huge_png(tmp_path / "a.png"))
    import tifffile

    tifffile.imwrite(tmp_path / "b.tif", shape=(20_000, 20_000), dtype=np.uint8)
    with pytest.raises(UnreadableFile, match="20000 x 20000 pixels"):
        formats.read(tmp_path / "b.tif")


def test_a_tiled_tiff_of_20000_pixels_a_side_is_refused_or_read_in_parts(tmp_path):
    import tifffile

    path = tmp_path / "pyramid.tif"
    tile = np.full((512, 512, 3), 200, np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for side, kind in ((14_336, 0), (1_024, 1)):
            tiles = (tile for _ in range((side // 512) ** 2))
            out.write(
                tiles, shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), photometric="rgb",
                compression="zlib", subfiletype=kind,
            )  # fmt: skip
    image = formats.read(path)
    assert max(image.size) <= 2048
    assert (image.array == 200).all()


def test_one_pixel_and_no_pixel(tmp_path):
    assert formats.read(png(tmp_path / "a.png", (1, 1))).size == (1, 1, 1)
    import nibabel

    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes())
    struct.pack_into("<h", content, 42, 0)
    (tmp_path / "zero.nii").write_bytes(bytes(content))
    with pytest.raises(UnreadableFile, match="has no voxels"):
        formats.read(tmp_path / "zero.nii")


def test_nan_is_background_and_all_nan_is_unreadable(tmp_path):
    array = np.random.default_rng(0).normal(5, 1, (6, 6, 6)).astype(np.float32)
    array[0] = np.nan
    image = formats.read(nifti(tmp_path / "a.nii.gz", array)).array
    assert np.isfinite(image).all()
    assert image[0, :, :, 0].max() == np.nanmin(array)
    with pytest.raises(UnreadableFile, match="no finite value"):
        formats.read(nifti(tmp_path / "b.nii.gz", np.full((4, 4, 4), np.nan, np.float32)))


def test_header_and_gzip_bombs(tmp_path):
    import nibabel

    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)).to_bytes())
    struct.pack_into("<8h", content, 40, 3, 30_000, 30_000, 30_000, 1, 1, 1, 1)
    with gzip.open(tmp_path / "a.nii.gz", "wb") as out:
        out.write(bytes(content))
    with pytest.raises(UnreadableFile, match="limit of 4 GiB"):
        formats.read(tmp_path / "a.nii.gz")
    small = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)).to_bytes()
    with gzip.open(tmp_path / "b.nii.gz", "wb") as out:  # a small volume, then 300 MB of zeros
        out.write(small)
        for _ in range(300):
            out.write(bytes(1 << 20))
    assert formats.read(tmp_path / "b.nii.gz").array.size == 8


def locked_zip(path):
    """An archive whose member is marked as encrypted."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("images.npy", b"secret")
    content = bytearray(path.read_bytes())
    content[6] |= 1
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    path.write_bytes(bytes(content))
    return path


def test_locked_archives_and_documents(tmp_path):
    with pytest.raises(UnreadableFile, match="password-locked"):
        formats.read(locked_zip(tmp_path / "a.png"))
    with pytest.raises(UserError, match="password"):
        load(locked_zip(tmp_path / "a.npz"))
    with pytest.raises(UserError, match="password-locked"):
        load(locked_zip(tmp_path / "a.zip"))
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\n/Encrypt 5 0 R")
    with pytest.raises(UnreadableFile, match="PDF"):
        formats.read(tmp_path / "a.pdf")
    with pytest.raises(UserError, match="PDF"):
        load(tmp_path / "a.pdf")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a superuser may read anything")
def test_unreadable_file_and_folder(tmp_path):
    path = png(tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(UnreadableFile, match="permission"):
        formats.read(path)


def test_permission_is_named_without_a_traceback(tmp_path, monkeypatch):
    path = png(tmp_path / "a.png")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UnreadableFile, match="permission denied"):
        formats.read(path)


def test_missing_links_and_folders(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UnreadableFile, match="link to a file that is not there"):
        formats.read(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match="is a folder"):
        formats.read(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty folder"):
        load(tmp_path / "empty")


def test_nrrd_may_not_read_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(8))
    (tmp_path / "in").mkdir()
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: ../secret.raw\n\n"
    (tmp_path / "in" / "a.nhdr").write_text(header)
    with pytest.raises(UnreadableFile, match="outside its own folder"):
        formats.read(tmp_path / "in" / "a.nhdr")


def test_symlink_loops_end(tmp_path):
    for label in ("a", "b"):
        png(tmp_path / "data" / label / "1.png")
        (tmp_path / "data" / label / "loop").symlink_to(tmp_path / "data")
    case_set = load(tmp_path / "data", layout="folder_per_class")
    assert len(case_set.cases) >= 2
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with pytest.raises(UserError):
        load(tmp_path / "self")


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_pickled_npz_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    images = np.zeros((3, 8, 8), np.uint8)
    path = npz(tmp_path / "a.npz", images=images, labels=np.array([Trap(), 1, 2], dtype=object))
    with pytest.raises(UserError, match="pickled"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def test_npz_bombs_and_damage(tmp_path):
    path = npz(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    load(path, cache=tmp_path / "cache")
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, place + 24, 0xFFFFFFF0)  # a size that deflate cannot reach
    bomb = tmp_path / "bomb.npz"
    bomb.write_bytes(bytes(content))
    with pytest.raises(UserError, match="bomb"):
        load(bomb)
    header = np.lib.format.magic(1, 0)
    words = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }"
    words += b" " * (64 - (len(words) + 11) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "promise.npz", "w") as out:
        out.writestr("images.npy", header + struct.pack("<H", len(words)) + words)
    with pytest.raises(UserError, match="promises"):
        load(tmp_path / "promise.npz")
    with pytest.raises(UserError, match=r"damaged|cannot be read"):
        load(cut(path))
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError):
        load(tmp_path / "empty.npz")


def test_npz_with_unequal_rows_or_several_labels(tmp_path):
    images = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(UserError, match="must agree"):
        load(npz(tmp_path / "a.npz", images=images, labels=np.arange(2)))
    path = npz(tmp_path / "b.npz", images=images, labels=np.eye(3, dtype=np.uint8))
    with pytest.raises(UserError, match="3 labels per image"):
        load(path)
    assert load(path, label="1").labels() == ("0", "1")
    with pytest.raises(UserError, match="none of which is called images"):
        load(npz(tmp_path / "c.npz", things=images))


def folder_of(tmp_path, count=6):
    for number in range(count):
        png(tmp_path / "data" / ("a", "b")[number % 2] / f"{number}.png", seed=number)
    return tmp_path / "data"


def test_a_run_over_many_files_lists_the_three_bad_ones(tmp_path):
    folder = folder_of(tmp_path, 12)
    cut(folder / "a" / "0.png")
    (folder / "b" / "1.png").write_bytes(b"")
    (folder / "a" / "2.png").write_text("no picture")
    facts = describe(folder, cache=tmp_path / "cache")
    assert facts["cases"] == 12
    bad = {one["case"]: one["reason"] for one in facts["unreadable"]}
    assert set(bad) == {"a/0.png", "b/1.png", "a/2.png"}
    assert all(reason and "\n" not in reason for reason in bad.values())
    kept, left_out = usable(load(folder), facts)
    assert len(kept.cases) == 9
    assert len(left_out) == 3


def table(tmp_path, text, name="cases.csv"):
    folder_of(tmp_path)
    (tmp_path / "data" / name).write_text(text)
    return tmp_path / "data" / name


def test_table_with_missing_columns(tmp_path):
    path = table(tmp_path, "age,sex\n40,M\n50,F\n")
    with pytest.raises(UserError, match="no column holds paths of images"):
        load(path)
    path = table(tmp_path, "image,finding\na/0.png,x\nb/1.png,y\n")
    with pytest.raises(UserError, match=r"no column 'diagnosis'.*image, finding"):
        load(path, label="diagnosis")
    with pytest.raises(UserError, match="names no column 'nothing'"):
        load(path, image="{nothing}.png")
    with pytest.raises(UserError, match="names no column"):
        load(path, image="{image.__class__}")
    with pytest.raises(UserError, match="has no setting colour"):
        load(path, colour="red")


def test_table_with_duplicate_ids_and_images(tmp_path):
    path = table(tmp_path, "id,image,label\n1,a/0.png,x\n1,b/1.png,y\n")
    with pytest.raises(UserError, match="1 ids more than once"):
        load(path)
    assert len(load(path, id="").cases) == 2
    path = table(tmp_path, "image,label\na/0.png,x\na/0.png,y\n")
    with pytest.raises(UserError, match="more than one row"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"image,label\n", b"PK\x03\x04\0\0\0\0", b"image,label\na,b,c,d\n", b"\xff\xfe\0\0"],
)
def test_tables_that_are_none(tmp_path, content):
    path = table(tmp_path, "")
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(path)
    one_sentence(error)


def test_rows_whose_file_is_gone_are_listed(tmp_path):
    path = table(tmp_path, "image,label\na/0.png,x\nb/1.png,y\nb/gone.png,y\n,y\n")
    case_set = load(path)
    assert len(case_set.cases) == 2
    assert "line 4" in case_set.left_out[0].reason
    assert "names no image" in case_set.left_out[1].reason


def test_all_labels_missing_one_class_one_patient(tmp_path):
    path = table(tmp_path, "image,label\na/0.png,todo\nb/1.png,\na/2.png,NaN\n")
    facts = describe(path, cache=tmp_path / "cache")
    assert facts["missing_labels"] == 3
    assert "no case has a label" in facts["warnings"]
    with pytest.raises(UserError, match="no case has a class label"):
        labelled(load(path).cases)
    path = table(tmp_path, "image,label\na/0.png,x\nb/1.png,x\n")
    assert any("one class only" in words for words in describe(path, cache=tmp_path / "cache")["warnings"])
    with pytest.raises(UserError, match="one class"):
        labelled(load(path).cases)
    path = table(tmp_path, "image,label,patient\na/0.png,x,p\nb/1.png,y,p\n")
    assert any("one patient" in words for words in describe(path, cache=tmp_path / "cache")["warnings"])
    with pytest.raises(UserError, match="one patient"):
        labelled(load(path).cases)


def test_wrong_patient_patterns(tmp_path):
    folder = folder_of(tmp_path)
    for pattern, words in (
        ("(", "no regular expression"),
        ("abc", "has no group"),
        (r"(x\d)", "does not match"),
    ):
        with pytest.raises(UserError, match=words):
            load(folder, patient_pattern=pattern)


def test_xml_bombs_and_bad_boxes_are_left_out(tmp_path):
    from medspectrum import registry

    entry = registry.find("dataset", "voc")
    folder = entry.facts["fake"](tmp_path / "voc", 0)
    notes = sorted((folder / "Annotations").iterdir())
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'
    notes[0].write_text(bomb)
    notes[1].write_text("<annotation><object><name>x</name></object></annotation>")
    case_set = load(folder)
    assert len(case_set.cases) == 4
    assert len(case_set.left_out) == 2


def test_json_that_points_out_of_its_folder_is_left_out(tmp_path):
    from medspectrum import registry

    folder = registry.find("dataset", "msd").facts["fake"](tmp_path / "msd", 0)
    text = (folder / "dataset.json").read_text().replace("./imagesTr/made_000", "../../etc/made_000")
    (folder / "dataset.json").write_text(text)
    case_set = load(folder)
    assert "points out" in case_set.left_out[0].reason
    (folder / "dataset.json").write_text("{broken")
    with pytest.raises(UserError, match="not valid JSON"):
        load(folder, layout="msd")

"""Volumes, pictures, slides, tables and text: no identifier stays, what is seen stays as it was."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin

import medspectrum
from made_identifiers import SECRETS, made_ct, survivors

PICTURE = (np.arange(40 * 56 * 3) % 251).astype(np.uint8).reshape(40, 56, 3)
SAID = "Zwetschkenbaum, Ottokar"


def run(folder: Path, **settings):
    return medspectrum.deidentify(folder, out=folder.parent / "out", quiet=True, **settings)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti(place, name, kind):
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    image = kind(values, np.array([[0, 2, 0, 5], [-3, 0, 0, 6], [0, 0, 1.5, 7], [0, 0, 0, 1]], float))
    for word in ("descrip", "aux_file", "intent_name"):
        image.header[word] = SAID[: 14 if word != "descrip" else 60]
    image.header.extensions.append(Nifti1Extension("comment", f"{SAID} 4471930".encode()))
    nib.save(image, place / name)
    if name.endswith("gz"):  # names in the header of gzip itself
        packed = (place / name).read_bytes()
        with (place / name).open("wb") as raw, gzip.GzipFile("Zwetschkenbaum.nii", "wb", fileobj=raw) as file:
            file.write(gzip.decompress(packed) + SAID.encode())
    else:
        (place / name).write_bytes((place / name).read_bytes() + SAID.encode())
    told = run(place)
    assert told["kinds"] == {"nifti": 1}
    content = (place.parent / "out" / name).read_bytes()
    whole = gzip.decompress(content) if name.endswith("gz") else content
    assert b"Zwetsch" not in content + whole
    assert b"4471930" not in whole
    after: Any = nib.load(place.parent / "out" / name)
    np.testing.assert_array_equal(np.asarray(after.dataobj), values)
    np.testing.assert_array_equal(after.affine, image.affine)
    assert len(after.header.extensions) == 0


def test_a_nifti_file_that_is_cut_off_is_left_out(place):
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), place / "a.nii")
    (place / "a.nii").write_bytes((place / "a.nii").read_bytes()[:-9])
    (place / "b.nii.gz").write_bytes(gzip.compress(bytes(500))[:-7])
    told = run(place)
    assert told["left_out"][0]["reason"].startswith("is cut off")
    assert told["written"] == 0


def test_nrrd(place):
    import nrrd

    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    header = {
        **{"space": "left-posterior-superior", "space directions": np.diag([1.0, 2.0, 3.0])},
        **{"space origin": [1.0, 2.0, 3.0], "Segment0_Name": f"liver of {SAID} born 1937-02-14"},
        "scanned by": SAID,
    }
    nrrd.write(str(place / "a.nrrd"), values, header)
    content = (
        (place / "a.nrrd").read_bytes().replace(b"NRRD0005\n", b"NRRD0005\n# Ottokar\ncontent: Ottokar\n", 1)
    )
    (place / "a.nrrd").write_bytes(content)
    (place / "names.txt").write_text("x")
    (place.parent / "names").write_text(f"{SAID}\n")
    told = run(place, known=place.parent / "names")
    assert told["kinds"]["nrrd"] == 1
    assert survivors(place.parent / "out") == []
    after, fields = nrrd.read(str(place.parent / "out" / "a.nrrd"))
    np.testing.assert_array_equal(after, values)
    assert fields["Segment0_Name"] == "liver of [NAME] born [DATE]"
    np.testing.assert_array_equal(fields["space directions"], header["space directions"])


def test_png(place):
    words = PngImagePlugin.PngInfo()
    words.add_text("Patient", SAID)
    words.add_itxt("Note", SAID, zip=True)
    Image.fromarray(PICTURE).save(place / "a.png", pnginfo=words, dpi=(200, 100), icc_profile=SAID.encode())
    with (place / "a.png").open("ab") as file:
        file.write(SAID.encode())
    run(place)
    content = (place.parent / "out" / "a.png").read_bytes()
    assert b"Zwetsch" not in content
    chunks, at = [], 8
    while at < len(content):
        chunks.append(content[at + 4 : at + 8])
        at += 12 + struct.unpack(">I", content[at : at + 4])[0]
    assert set(chunks) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    after = Image.open(place.parent / "out" / "a.png")
    np.testing.assert_array_equal(np.asarray(after), PICTURE)
    assert round(after.info["dpi"][0]) == 200


def test_jpeg(place):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0112] = SAID, SAID, 6
    for name, settings in {"a.jpg": {}, "b.jpg": {"progressive": True}}.items():
        Image.fromarray(PICTURE).save(place / name, exif=exif, comment=SAID.encode(), quality=90, **settings)
        with (place / name).open("ab") as file:
            file.write(SAID.encode())
    run(place)
    assert survivors(place.parent / "out") == []
    for name in ("a.jpg", "b.jpg"):
        before, after = Image.open(place / name), Image.open(place.parent / "out" / name)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.getexif()[0x0112] == 6
        assert set(after.getexif()) == {0x0112}
    (place / "a.jpg").write_bytes((place / "a.jpg").read_bytes()[:900])
    assert run(place)["left_out"][0]["reason"].startswith("is cut off")
    assert not (place.parent / "out" / "a.jpg").exists()


@pytest.mark.parametrize("big", [False, True])
def test_tiff(place, big):
    with tifffile.TiffWriter(place / "a.tif", bigtiff=big) as file:
        settings = {
            "photometric": "rgb",
            "software": SAID,
            "datetime": "2021:03:05 11:22:33",
            "metadata": None,
        }
        file.write(
            PICTURE,
            description=SAID,
            resolution=(300, 200),
            extratags=[(700, 7, 30, SAID.ljust(30).encode(), True)],
            **settings,
        )
        file.write(PICTURE[::-1].copy(), compression="zlib", tile=(16, 16), description=SAID, **settings)
        file.write(PICTURE[:16, :16].copy(), description="label " + SAID, **settings)
    with (place / "a.tif").open("ab") as file:
        file.write(SAID.encode())
    told = run(place)
    assert told["done"]["pictures removed"] == 1
    assert survivors(place.parent / "out", (*SECRETS, "2021:03")) == []
    with tifffile.TiffFile(place.parent / "out" / "a.tif") as after:
        assert len(after.pages) == 2
        np.testing.assert_array_equal(after.pages[0].asarray(), PICTURE)
        np.testing.assert_array_equal(after.pages[1].asarray(), PICTURE[::-1])
        assert after.pages.first.tags["XResolution"].value == (300, 1)


def test_slides_lose_label_macro_and_who_scanned_them(place):
    words = "Aperio Image Library v10.0.51\r\n56x40 [0,0 56x40] (16x16) JPEG/RGB Q=30"
    rest = f"|AppMag = 20|Filename = {SAID}|Date = 03/05/21|User = ottokar@x|MPP = 0.4990|Title = Ottokar"
    with tifffile.TiffWriter(place / "a.svs") as file:
        settings = {"photometric": "rgb", "metadata": None}
        file.write(PICTURE, tile=(16, 16), description=words + rest, **settings)
        file.write(PICTURE[::2, ::2].copy(), description=words + " -> 28x20 - " + rest, **settings)
        file.write(
            np.full((24, 24, 3), 77, np.uint8), description="Aperio\r\nlabel 24x24", subfiletype=1, **settings
        )
        file.write(
            np.full((24, 30, 3), 78, np.uint8), description="Aperio\r\nmacro 30x24", subfiletype=9, **settings
        )
    run(place)
    content = (place.parent / "out" / "a.svs").read_bytes()
    assert survivors(place.parent / "out", (*SECRETS, "03/05/21")) == []
    assert bytes([77] * 500) not in content
    assert bytes([78] * 500) not in content
    import tiffslide

    with tiffslide.TiffSlide(str(place.parent / "out" / "a.svs")) as slide:
        assert slide.dimensions == (56, 40)
        assert float(slide.properties["tiffslide.mpp-x"]) == 0.499
        assert slide.properties["tiffslide.objective-power"] in (20, "20")
        assert not {"label", "macro"} & set(slide.associated_images)
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (56, 40)))[..., :3], PICTURE)


def test_tables_json_and_text_fit_to_the_images(place):
    made_ct(place / "Zwetschkenbaum" / "a.dcm")
    with (place / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                "image",
                "patient_id",
                "patient name",
                "birthdate",
                "scan_date",
                "diagnosis",
                "volume_ml",
                "note",
            ]
        )
        rows.writerow(
            [
                "Zwetschkenbaum/a.dcm",
                "QX-4471930",
                "O. Zwetschkenbaum",
                "1937-02-14",
                "2021-03-05",
                "cyst",
                "12.75",
                "asked Dr. Huber",
            ]
        )
        rows.writerow(
            [
                "other.dcm",
                "77001",
                "Anna Blaubeer",
                "1950-01-01",
                "2021-03-06",
                "none",
                "1e-3",
                "Anna Blaubeer was calm",
            ]
        )
    (place / "side.json").write_text(
        json.dumps(
            {
                "PatientName": SAID,
                "EchoTime": 0.03,
                "PatientBirthDate": "19370214",
                "Notes": ["Anna Blaubeer", 5],
                "Id": 9,
            }
        )
    )
    (place / "report.txt").write_text(
        "Herr Zwetschkenbaum, geb. 14.02.1937, Tel. 0664 5550147. Blaubeer too. Cyst of 9 mm."
    )
    told = run(place, dates="shift")
    assert told["kinds"] == {"dicom": 1, "json": 1, "table": 1, "text": 1}
    out = place.parent / "out"
    assert (
        survivors(out, (*SECRETS, "Blaubeer", "77001", "Huber", "1937", "1950-01", "2021-03", "5550147"))
        == []
    )
    first, second = csv.DictReader((out / "cases.csv").open())
    import pydicom

    data = pydicom.dcmread(out / first["image"])
    assert first["patient_id"] == data.PatientID != second["patient_id"]
    assert first["scan_date"].replace("-", "") == data.StudyDate
    assert (first["birthdate"], first["diagnosis"], first["volume_ml"]) == ("", "cyst", "12.75")
    assert second["note"] == "[NAME] was calm"
    side = json.loads((out / "side.json").read_text())
    assert (side["EchoTime"], side["Notes"]) == (0.03, ["[NAME]", 5])
    assert (out / "report.txt").read_text().endswith("too. Cyst of 9 mm.")


def test_comments_inside_compressed_dicom_pixels_go(place):
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.uid import JPEGBaseline8Bit

    coded = []
    for turned in (PICTURE, PICTURE[::-1]):
        held = io.BytesIO()
        Image.fromarray(turned[..., 0].copy()).save(held, "JPEG", comment=SAID.encode(), quality=95)
        coded.append(held.getvalue())
    import pydicom

    path = made_ct(place / "a.dcm")
    data = pydicom.dcmread(path)
    data.Rows, data.Columns, data.NumberOfFrames = 40, 56, 2
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate(coded)
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)
    assert b"Ottokar" in path.read_bytes()[2000:]
    run(place)
    assert survivors(place.parent / "out") == []
    after = pydicom.dcmread(place.parent / "out" / "a.dcm")
    for new, old in zip(generate_frames(after.PixelData, number_of_frames=2), coded, strict=True):
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(new))), np.asarray(Image.open(io.BytesIO(old)))
        )


def test_overlays_in_unused_bits_of_pixels_go(place):
    import pydicom

    values = (np.arange(240) % 4096).astype("<u2") | np.where(np.arange(240) % 3 == 0, 0x1000, 0).astype(
        "<u2"
    )
    path = made_ct(
        place / "a.dcm", BitsStored=12, HighBit=11, PixelRepresentation=0, PixelData=values.tobytes()
    )
    data = pydicom.dcmread(path)
    del data[0x60003000]
    data.add_new(0x60000102, "US", 12)
    data.save_as(path)
    run(place)
    after = pydicom.dcmread(place.parent / "out" / "a.dcm")
    np.testing.assert_array_equal(np.frombuffer(after.PixelData, "<u2"), values & 0x0FFF)


@pytest.mark.shared_data
def test_real_slides_and_maps_are_read_as_before(tmp_path):
    root = os.environ.get("MEDSPECTRUM_DATA")
    if not root:
        pytest.skip("MEDSPECTRUM_DATA does not name the larger data sets")
    import nrrd
    import tiffslide

    told = medspectrum.deidentify(Path(root) / "wsi", out=tmp_path / "wsi", quiet=True)
    assert told["kinds"]["tiff"] == 2
    for name in ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs"):
        with (
            tiffslide.TiffSlide(str(Path(root) / "wsi" / name)) as old,
            tiffslide.TiffSlide(str(tmp_path / "wsi" / name)) as new,
        ):
            assert new.level_dimensions == old.level_dimensions
            assert new.properties["tiffslide.mpp-x"] == old.properties["tiffslide.mpp-x"]
            assert not {"label", "macro"} & set(new.associated_images)
            for level in range(new.level_count):
                seen = [np.asarray(slide.read_region((300, 400), level, (200, 100))) for slide in (old, new)]
                np.testing.assert_array_equal(seen[0], seen[1])
    folder = Path(root) / "dicom" / "ct3slice_seg_sr"
    medspectrum.deidentify(folder, out=tmp_path / "maps", quiet=True)
    for path in folder.glob("*.nrrd"):
        np.testing.assert_array_equal(
            nrrd.read(str(tmp_path / "maps" / path.name))[0], nrrd.read(str(path))[0]
        )

"""Leaks that describe lists: each hand on a picture, each second name of a patient, and nothing else."""

import io
import json

import numpy as np
import pytest
from PIL import Image as pil
from PIL import ImageDraw, ImageOps

from medspectrum.datasets.dicom import write_slice
from medspectrum.describe import describe
from medspectrum.leakage.identity import patients_in_names, plain_id
from medspectrum.leakage.looks import alike, grey, lies_within, turn_word, turned
from medspectrum.leakage.pictures import _confirmed_crops, _Held
from test_describe import blobs

SIDE = 96


def jpeg(picture):
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=35)
    return pil.open(io.BytesIO(held.getvalue())).convert("L")


def written(picture):
    made = picture.copy()
    ImageDraw.Draw(made).text((4, 3), "LEFT 7", fill=255, font_size=14)
    return made


HANDS = {
    "copy": lambda p: p,
    "mirrored": ImageOps.mirror,
    "rotated by 90": lambda p: p.transpose(pil.Transpose.ROTATE_270),
    "rotated by 180": lambda p: p.transpose(pil.Transpose.ROTATE_180),
    "inverted": ImageOps.invert,
    "inverted, mirrored": lambda p: ImageOps.invert(ImageOps.mirror(p)),
    "recompressed": jpeg,
    "resized": lambda p: p.resize((64, 64), pil.Resampling.LANCZOS),
    "redrawn": lambda p: ImageOps.equalize(written(p)),
    "cropped": lambda p: p.crop((9, 4, 89, 84)),
}


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A table in which each hand has put a picture of the training part into the test part."""
    place = tmp_path_factory.mktemp("leaky")
    rows = ["image,label,patient,split"]
    for number in range(24):
        pil.fromarray(blobs(number, SIDE)).save(place / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},P{number},{('train', 'train', 'test')[number % 3]}")
    for number, hand in enumerate(HANDS.values()):
        source = 3 * (number // 2) + number % 2
        hand(pil.fromarray(blobs(source, SIDE))).save(place / f"again{number}.png")
        rows.append(f"again{number}.png,a,Q{number},test")
    (place / "t.csv").write_text("\n".join(rows))
    return describe(place / "t.csv", cache=place / "cache"), place


def test_every_hand_is_found_and_named(leaky):
    facts, _ = leaky
    kinds = {leak["cases"][1]: leak for leak in facts["leaks"]}
    for number, word in enumerate(HANDS):
        leak = kinds[f"again{number}.png"]
        source = 3 * (number // 2) + number % 2
        assert leak["cases"][0] == f"{source}.png"
        assert leak["splits"] == ["train", "test"]
        assert leak["crosses"] == "split"
        assert leak["files"][0].endswith(f"/{source}.png")
        if word != "rotated by 90":  # which of the two was turned cannot be known
            assert leak["kind"] == word
        else:
            assert leak["kind"] in ("rotated by 90", "rotated by 270")
    assert facts["leak_count"] == len(HANDS)
    json.dumps(facts, allow_nan=False)


def test_a_second_look_does_not_search_again(leaky, monkeypatch):
    from medspectrum.leakage import find

    facts, place = leaky
    monkeypatch.setattr(find, "again", lambda *_, **__: pytest.fail("searched again"))
    assert describe(place / "t.csv", cache=place / "cache")["leaks"] == facts["leaks"]


def test_different_pictures_of_one_kind_are_no_leaks(tmp_path):
    shape = blobs(0, SIDE).astype(float)
    for number in range(120):
        mixed = 0.75 * shape + 0.5 * (blobs(500 + number, SIDE).astype(float) - 128)
        pil.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    facts = describe(tmp_path, cache=tmp_path / "cache")
    assert facts["leaks"] == []


def test_one_patient_is_no_leak_without_a_split_and_one_with(tmp_path):
    for number in range(6):
        pil.fromarray(blobs(number, SIDE)).save(tmp_path / f"{number}.png")
    pil.fromarray(blobs(0, SIDE)).save(tmp_path / "6.png")
    lines = [f"{n}.png,{'ab'[n % 2]},{'P0' if n in (0, 6) else f'P{n}'}" for n in range(7)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,patient", *lines]))
    assert describe(tmp_path / "t.csv", cache=tmp_path / "cache")["leaks"] == []
    lines = [f"{line},{'test' if n > 4 else 'train'}" for n, line in enumerate(lines)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,patient,split", *lines]))
    (leak,) = describe(tmp_path / "t.csv", cache=tmp_path / "cache")["leaks"]
    assert (leak["cases"], leak["splits"]) == (["0.png", "6.png"], ["train", "test"])


def test_a_patient_spelt_in_two_ways(tmp_path):
    for number in range(6):
        pil.fromarray(blobs(number, SIDE)).save(tmp_path / f"{number}.png")
    names = ["P-007", "P1", "P2", "p7", "P17", "P3"]
    lines = [f"{n}.png,{'ab'[n % 2]},{name}" for n, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,patient", *lines]))
    (leak,) = describe(tmp_path / "t.csv", cache=tmp_path / "cache")["leaks"]
    assert leak["kind"] == "same patient, spelt differently"
    assert leak["patients"] == ["P-007", "p7"]
    assert plain_id("C1P1") != plain_id("C11P") != plain_id("C1P11")


def test_patients_that_stand_in_file_names(tmp_path):
    for number in range(12):
        name = f"subj{number // 3:02d}_{number % 3}.png"
        pil.fromarray(blobs(number, SIDE)).save(tmp_path / name)
    facts = describe(tmp_path, cache=tmp_path / "cache")
    assert {leak["kind"] for leak in facts["leaks"]} == {"same patient by file name"}
    assert facts["leak_count"] == 8
    told = describe(tmp_path, patient_pattern=r"(subj\d+)", cache=tmp_path / "cache")
    assert told["leaks"] == []


def test_names_that_only_count_are_no_patients(tmp_path):
    from medspectrum.datasets import load

    for number in range(8):
        pil.fromarray(blobs(number, 32)).save(tmp_path / f"BloodImage_{number:05d}.png")
    assert patients_in_names(load(tmp_path).cases) == {}


def test_a_plane_of_a_volume_saved_as_a_picture(tmp_path):
    import nibabel

    for number in range(4):
        volume = np.stack([blobs(40 * number + z, 48) for z in range(9)])
        nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / f"scan{number}.nii.gz")
        if number == 2:
            pil.fromarray(volume[6]).save(tmp_path / "figure.png")
    for number in range(5):
        pil.fromarray(blobs(900 + number, 48)).save(tmp_path / f"other{number}.png")
    (leak,) = describe(tmp_path, cache=tmp_path / "cache")["leaks"]
    assert leak["kind"] == "plane of a volume"
    assert set(leak["cases"]) == {"scan2.nii.gz", "figure.png"}


def test_one_study_under_two_patients(tmp_path):
    from pydicom import dcmread

    for number in range(3):
        write_slice(
            tmp_path / f"{number}.dcm",
            blobs(number, 32).astype(np.int16) * 4,
            patient=f"ID{number}",
            place=0,
            centre="north",
        )
    data = dcmread(tmp_path / "0.dcm")
    data.PatientID, data.SeriesInstanceUID = "someone else", data.SeriesInstanceUID + ".7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID + ".7"
    data.PixelData = (blobs(77, 32).astype(np.int16) * 4).tobytes()
    data.save_as(tmp_path / "9.dcm")
    (leak,) = describe(tmp_path, cache=tmp_path / "cache")["leaks"]
    assert leak["kind"] == "same study"


def test_detail_decides_and_not_shading():
    one, two = (grey(blobs(n, 96)[None]) for n in (1, 2))
    ramp = np.linspace(-3, 3, 64, dtype=np.float32)[None] * np.ones((64, 1), np.float32)
    assert alike((one + ramp)[None], one[None])[0] > 0.95
    assert alike((one + ramp)[None], (two + ramp)[None])[0] < 0.5
    assert alike(np.zeros((1, 64, 64)), one[None])[0] == 0


def test_a_part_is_found_where_it_lies():
    whole = blobs(5, 128)
    score, scale = lies_within(
        grey(whole[None]), grey(whole[None, 10:106, 24:120]), (0.65, 0.7, 0.75, 0.8, 0.85)
    )
    assert scale == 0.75
    assert score > 0.9


def test_sixteen_turns_are_sixteen_pictures():
    picture = blobs(3, 16).astype(np.float32) - 128
    made = {turned(picture, turn).tobytes() for turn in range(16)}
    assert len(made) == 16
    assert turn_word(0) == ""
    assert turn_word(9) == "inverted, rotated by 90"


def test_a_part_is_found_though_the_small_pictures_misjudge_its_size():
    pictures = [grey(blobs(n, SIDE)[None]) for n in range(8)]
    cut = blobs(3, SIDE)[18:85, 12:79]  # 70 % of a side
    held = _Held(lambda row: grey(cut[None]) if row == 8 else pictures[row])
    found = _confirmed_crops([(row, 8, 0.8) for row in range(8)], held, 0.9)
    assert [(p.first, p.second, p.kind) for p in found] == [(3, 8, "cropped")]

"""Lettering in pixels is found and blanked; everything else in the picture stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

import medspectrum
from made_identifiers import made_ct
from medspectrum.deid import lettering
from medspectrum.deid.pixels import eight_bits

needs_networks = pytest.mark.skipif(bool(lettering.lacking()), reason=lettering.lacking() or "there")
WORDS = "OTTOKAR 4471930"
PLACE = (30, 20)


def scene(high: int = 160, wide: int = 240) -> np.ndarray:
    """A dim, uneven ellipse on black, brighter to the right."""
    y, x = np.mgrid[:high, :wide]
    inside = ((y - high * 0.6) / (high * 0.3)) ** 2 + ((x - wide * 0.5) / (wide * 0.4)) ** 2 < 1
    return np.where(inside, 60 + x // 4 + y % 7, 4).astype(np.uint8)


def lettered(picture: np.ndarray, words: str = WORDS) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The picture with words on it, and the box that holds them."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    fill = 255 if picture.ndim == 2 else (255, 255, 255)
    draw.text(PLACE, words, font=font, fill=fill)
    x0, y0, x1, y1 = (int(v) for v in draw.textbbox(PLACE, words, font=font))
    return np.asarray(image), (x0, y0, x1 + 1, y1 + 1)


def run(folder: Path, **settings):
    return medspectrum.deidentify(folder, out=folder.parent / "out", quiet=True, **settings)


def far(box: tuple[int, int, int, int], shape: tuple[int, ...], reach: int = 14) -> np.ndarray:
    """Everywhere but near the box."""
    mask = np.ones(shape[:2], bool)
    x0, y0, x1, y1 = box
    mask[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = False
    return mask


@needs_networks
@pytest.mark.parametrize("signed", [False, True])
def test_text_in_dicom_is_blanked_and_nothing_else(tmp_path, signed):
    picture, box = lettered(scene())
    values = picture.astype("<i2" if signed else "<u2") * 5 - (1000 if signed else 0)
    made_ct(
        tmp_path / "in" / "a.dcm",
        **{"Rows": 160, "Columns": 240, "PixelData": values.tobytes(), "PixelRepresentation": int(signed)},
    )
    told = run(tmp_path / "in")
    assert told["done"]["text blanked"] >= 1
    after = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    new = np.frombuffer(after.PixelData, values.dtype).reshape(160, 240)
    x0, y0, x1, y1 = box
    assert (new[y0:y1, x0:x1] == values.min()).all()
    np.testing.assert_array_equal(new[far(box, new.shape)], values[far(box, new.shape)])
    assert after.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    kept = medspectrum.deidentify(tmp_path / "in", out=tmp_path / "kept", pixels="keep", quiet=True)
    assert "text blanked" not in kept["done"]
    assert pydicom.dcmread(tmp_path / "kept" / "a.dcm").PixelData == values.tobytes()


@needs_networks
def test_text_in_one_of_many_coloured_compressed_frames(tmp_path):
    from pydicom.uid import RLELossless

    plain = np.stack([scene(), scene() // 2, scene()], axis=-1)
    with_words, box = lettered(plain)
    frames = np.stack([plain] * 13)
    frames[9] = with_words
    path = made_ct(tmp_path / "in" / "a.dcm")
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 13
    data.set_pixel_data(frames, "RGB", 8, generate_instance_uid=False)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path)
    assert run(tmp_path / "in")["done"]["text blanked"] >= 1
    new = pydicom.dcmread(tmp_path / "out" / "a.dcm").pixel_array
    x0, y0, x1, y1 = box
    assert new.shape == frames.shape
    assert not new[:, y0:y1, x0:x1].any()
    np.testing.assert_array_equal(new[:, far(box, plain.shape)], frames[:, far(box, plain.shape)])


@needs_networks
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "grey.png", "palette.png"])
def test_text_in_pictures(tmp_path, name):
    picture, box = lettered(scene() if name.startswith("grey") else np.stack([scene()] * 3, axis=-1))
    (tmp_path / "in").mkdir()
    image = Image.fromarray(picture)
    image = image.quantize(64) if name.startswith("palette") else image
    image.save(tmp_path / "in" / name, **({"quality": 95} if name.endswith("jpg") else {}))
    before = np.asarray(Image.open(tmp_path / "in" / name).convert("L")).astype(int)
    assert run(tmp_path / "in")["done"]["text blanked"] >= 1
    after = Image.open(tmp_path / "out" / name)
    assert after.mode == Image.open(tmp_path / "in" / name).mode
    new = np.asarray(after.convert("L")).astype(int)
    x0, y0, x1, y1 = box
    assert new[y0:y1, x0:x1].max() <= 24
    apart = np.abs(new - before)[far(box, new.shape, 24)]
    assert apart.max() <= (8 if name.endswith("jpg") else 0)


@needs_networks
def test_a_picture_without_text_stays_byte_for_byte(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(scene()).save(tmp_path / "in" / "a.png")
    Image.fromarray(scene()).save(tmp_path / "in" / "b.tif")
    Image.fromarray(lettered(scene())[0]).save(tmp_path / "in" / "c.tif")
    told = run(tmp_path / "in")
    assert "text blanked" not in told["done"]
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "in" / "a.png").read_bytes()
    assert [r["source"] for r in told["left_out"]] == ["c.tif"]
    assert "text in its pixels" in told["left_out"][0]["reason"]


@pytest.mark.parametrize("pixels", ["text", "regions"])
def test_what_lies_outside_of_an_ultrasounds_regions_goes(tmp_path, pixels):
    if pixels == "text" and lettering.lacking():
        pytest.skip(lettering.lacking())
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    picture = np.stack([scene(), scene(), scene()], axis=-1)
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 20, 40
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 219, 149
    path = made_ct(tmp_path / "in" / "a.dcm", Modality="US", SequenceOfUltrasoundRegions=Sequence([region]))
    data = pydicom.dcmread(path)
    data.set_pixel_data(picture, "RGB", 8, generate_instance_uid=False)
    data.save_as(path)
    told = run(tmp_path / "in", pixels=pixels)
    assert told["done"]["outside of regions blanked"] == 1
    new = pydicom.dcmread(tmp_path / "out" / "a.dcm").pixel_array
    np.testing.assert_array_equal(new[40:150, 20:220], picture[40:150, 20:220])
    assert new.astype(int).sum() == picture[40:150, 20:220].astype(int).sum()


def test_without_the_networks_a_warning_says_what_was_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(lettering, "PACKAGE", "no_such_package")
    made_ct(tmp_path / "in" / "a.dcm")
    told = run(tmp_path / "in")
    assert told["written"] == 1
    assert "burnt-in text was not looked for" in told["warnings"][0]
    assert lettering.HOW in told["warnings"][0]
    after = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    assert "BurnedInAnnotation" not in after
    assert "113101" not in [item.CodeValue for item in after.DeidentificationMethodCodeSequence]


def test_dim_and_bright_values_are_both_shown():
    values = np.tile(np.arange(100, dtype=np.int16), (50, 1))
    assert len(eight_bits(values)) == 1
    values[0, 0] = 4000
    looks = eight_bits(values)
    assert len(looks) == 2
    assert looks[0][:, -1].min() == 255
    assert looks[1][1, -1].max() < 10

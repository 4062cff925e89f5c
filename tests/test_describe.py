"""What ``describe`` says of a data set is what is in it."""

import io
import json

import numpy as np
import pytest
from PIL import Image as pil

from medspectrum import registry
from medspectrum.datasets import load
from medspectrum.describe import describe, describe_cases, describe_text
from medspectrum.duplicates import exact
from medspectrum.scan import scan


def blobs(seed, side=64):
    """A smooth made-up picture with detail, unlike those of other seeds."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(side, side)), 6)
    fine = gaussian_filter(rng.normal(size=(side, side)), 1.5)
    mixed = coarse / coarse.std() + 0.7 * fine / fine.std()
    return (128 + 40 * mixed).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        place = tmp_path / "data" / ("ill", "well")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pil.fromarray(blobs(number)).save(place / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("name", sorted(registry.entries("dataset")))
def test_every_layout_is_described_in_the_same_words(tmp_path, name):
    path = registry.find("dataset", name).facts["fake"](tmp_path / "made", 0)
    facts = describe(path, cache=tmp_path / "cache")
    json.dumps(facts, allow_nan=False)
    assert facts["layout"] == name
    assert sum(facts["targets"].values()) == facts["cases"]
    assert sum(facts["modalities"].values()) == facts["images"]
    assert not facts["unreadable"]
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100).print(describe_text(facts))
    assert facts["name"] in out.getvalue()


def test_counts_sizes_spacing_and_classes(tmp_path):
    path = registry.find("dataset", "dicom").facts["fake"](tmp_path / "made", 0)
    facts = describe(path, cache=tmp_path / "cache")
    assert (facts["cases"], facts["patients"], facts["images"]) == (4, 4, 4)
    assert facts["centres"] == {"north": 2, "south": 2}
    assert facts["modalities"] == {"CT": 4}
    assert facts["sizes"]["common"] == {"3 x 16 x 16": 4}
    assert facts["spacing_mm"]["median"] == [2.5, 0.7, 0.8]
    assert facts["classes"] == {"dark": 2, "light": 2}


def test_a_second_look_decodes_nothing(folder, tmp_path):
    first = describe(folder, cache=tmp_path / "cache")
    second = describe(folder, cache=tmp_path / "cache")
    assert first["decoded"] == 12
    assert second.pop("decoded") == 0
    first.pop("decoded")
    assert first == second
    (folder / "ill" / "new.png").write_bytes((folder / "well" / "1.png").read_bytes())
    assert describe(folder, cache=tmp_path / "cache")["decoded"] == 0


def test_progress_reaches_the_end(folder, tmp_path):
    seen = []
    scan(load(folder), cache=tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_duplicates_are_found_and_named(folder, tmp_path):
    picture = pil.fromarray(blobs(0))
    picture.save(folder / "well" / "copy.bmp")
    picture.transpose(pil.Transpose.FLIP_LEFT_RIGHT).save(folder / "ill" / "mirror.png")
    pil.fromarray(blobs(1)).save(folder / "well" / "jpeg.jpg", quality=40)
    pil.fromarray(blobs(2)).resize((48, 48), pil.Resampling.LANCZOS).save(folder / "ill" / "small.png")
    brighter = (blobs(3).astype(float) * 0.7 + 30).astype(np.uint8)
    pil.fromarray(brighter).save(folder / "ill" / "brighter.png")
    twice = describe(folder, cache=tmp_path / "cache")["duplicates"]
    assert [sorted(group) for group in twice["exact"]] == [["ill/0.png", "well/copy.bmp"]]
    found = {frozenset(pair): kind for pair, kind in zip(twice["near"], twice["kinds"], strict=True)}
    assert found == {
        frozenset(("ill/0.png", "ill/mirror.png")): "mirrored",
        frozenset(("well/1.png", "well/jpeg.jpg")): "recompressed",
        frozenset(("ill/2.png", "ill/small.png")): "resized",
        frozenset(("well/3.png", "ill/brighter.png")): "recompressed",
    }


def test_small_pictures_that_are_alike_are_not_called_duplicates(tmp_path):
    shape = blobs(0, 28).astype(float)
    rng = np.random.default_rng(1)
    made = [0.8 * shape + 0.35 * (blobs(100 + n, 28).astype(float) - 128) for n in range(300)]
    images = np.stack(made).clip(0, 255).astype(np.uint8)
    images[299] = (images[0] + rng.normal(0, 1, (28, 28))).clip(0, 255).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(300) % 2)
    twice = describe(tmp_path / "a.npz", cache=tmp_path)["duplicates"]
    assert twice["near"] == [["image/0", "image/299"]]
    assert not twice["exact"]


def test_blank_images_are_counted_not_paired(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 8, 8), np.uint8), labels=np.arange(5) % 2)
    facts = describe(tmp_path / "a.npz", cache=tmp_path)
    assert facts["constant"] == 5
    assert facts["duplicates"]["exact"] == []


def test_patients_and_duplicates_on_both_sides_of_a_split(tmp_path):
    for number in range(6):
        pil.fromarray(blobs(number)).save(tmp_path / f"{number}.png")
    pil.fromarray(blobs(0)).save(tmp_path / "6.png")
    rows = ["image,label,patient,split", "0.png,a,P0,train", "1.png,b,P1,train", "2.png,a,P2,train"]
    rows += ["3.png,b,P1,test", "4.png,a,P4,test", "5.png,b,P5,val", "6.png,a,P6,test"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    facts = describe(tmp_path / "t.csv", cache=tmp_path / "cache")
    assert facts["split"]["train"] == {"cases": 3, "patients": 3}
    assert {"kind": "patient", "patient": "P1", "splits": {"train": 1, "test": 1}} in facts["split_leaks"]
    duplicates = [leak for leak in facts["split_leaks"] if leak["kind"] == "duplicate"]
    assert [leak["cases"] for leak in duplicates] == [["0.png", "6.png"]]
    assert facts["split_leak_count"] == 2
    assert "1 patient stands in more than one part of the given split" in facts["warnings"]
    assert "1 group of duplicates stands in more than one part of the given split" in facts["warnings"]


def test_nan_is_told(tmp_path):
    images = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    images[0, 0, 0] = np.nan
    images[1] = np.nan
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4) % 2)
    facts = describe_cases(load(tmp_path / "a.npz", cache=tmp_path), cache=tmp_path)
    assert [one["case"] for one in facts["unreadable"]] == ["image/1"]
    assert any("NaN" in words and "a.npz#" in words for words in facts["warnings"])


def test_exact_groups_keep_the_order_of_rows():
    digests = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [1, 2]], np.uint64)
    assert exact(digests) == [[0, 2, 5], [1, 4]]
    assert exact(digests[:0]) == []

"""DICOM folders with segmentation objects: cases with masks, learned from, and answered in kind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import medspectrum
from made_dicom import write_series
from made_outlines import volume
from medspectrum import formats
from medspectrum.case import ClassTarget, MaskTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats import dicom, dicom_seg
from medspectrum.formats.masks import write_mask
from medspectrum.image import Image
from tiny_encoder import tiny_encoder

pytest.importorskip("highdicom")
AFFINE = np.array([[-1.0, 0, 0, 9], [0, -1.0, 0, 5], [0, 0, 2.5, -40], [0, 0, 0, 1]])
NAMES = {1: "core", 2: "ring"}


def write_patient(folder: Path, number: int, *, names=NAMES, skip=(), affine=AFFINE) -> np.ndarray:
    """A CT series of blobs and its SEG, in folders of their own; gives the labels."""
    values, labels = volume(number)
    image = Image(values[None].astype(np.int16), affine, "CT")
    place = folder / f"P{number}"
    files = write_series(place / "ct", image, patient=f"P{number}")
    write_mask(labels, image, place / "seg" / "seg.dcm", names=names, sources=[str(f) for f in files])
    for z in skip:
        files[z].unlink()
    return labels


def test_a_series_and_its_segmentation_are_one_case(tmp_path):
    truths = {f"p{n}": write_patient(tmp_path, n) for n in range(2)}
    write_patient(tmp_path, 2, names={1: "ring"})  # another table: names, not numbers, say what a label is
    (tmp_path / "labels.csv").write_text("patient,label\nP0,ill\nP1,well\n")
    found = load(tmp_path)
    assert found.layout == "dicom"
    assert [c.id for c in found.cases] == ["P0/ct", "P1/ct", "P2/ct"]
    for case, (_, labels) in zip(found.cases, truths.items(), strict=False):
        target = case.asked(MaskTarget)
        assert dict(target.labels) == {1: "2", 2: "core", 3: "ring"}
        np.testing.assert_array_equal(target.mask.load().array[0], np.array([0, 2, 3])[labels])
        assert case.asked(ClassTarget).label in ("ill", "well")
    assert set(np.unique(found.cases[2].asked(MaskTarget).mask.load().array)) == {0, 1, 3}
    keys = [c.asked(MaskTarget).mask.key() for c in found.cases]
    assert len(set(keys)) == 3
    assert keys == [c.asked(MaskTarget).mask.key() for c in load(tmp_path).cases]
    assert found.left_out == ()
    assert not any("no pictures" in words for words in found.warnings)


def test_a_segmentation_whose_series_is_not_here_is_listed(tmp_path):
    write_patient(tmp_path, 0)
    write_patient(tmp_path, 1, skip=range(6))
    found = load(tmp_path)
    assert [c.id for c in found.cases] == ["P0/ct"]
    assert [x.reason for x in found.left_out] == [
        "refers to a series that is not here; put its images beside it"
    ]


def test_slices_that_are_missing_under_a_segmentation_are_told(tmp_path):
    labels = write_patient(tmp_path, 0, skip=[3])
    assert labels[3].any()
    target = load(tmp_path).cases[0].asked(MaskTarget)
    with pytest.raises(UserError, match=r"seg\.dcm: lies 0.50 voxels beside"):
        target.mask.load()


@pytest.mark.slow
def test_explore_learns_from_segmentations_and_predict_answers_with_them(tmp_path):
    truths = [write_patient(tmp_path / "data", n) for n in range(6)]
    quick = {"cache": tmp_path / "cache", "quiet": True}
    model = tiny_encoder(tmp_path / "cache")
    results = medspectrum.explore(
        tmp_path / "data", out=tmp_path / "out", task="segment", models=model, size=64,
        methods="mean_mask,dense_probe", budgets="full", draws=1, **quick,
    )  # fmt: skip
    assert results["task"]["classes"] == ["core", "ring"]
    assert results["left_out"] == []
    best = next(t for t in results["trials"] if t["method"] == "dense_probe")
    assert best["scores"]["dice"]["value"] > 0.6
    told = medspectrum.predict(
        tmp_path / "out" / "predictor", tmp_path / "data", out=tmp_path / "masks", format="dicom-seg", **quick
    )
    assert told["cases"] == 6
    written = sorted((tmp_path / "masks").glob("*.dcm"))
    assert len(written) == 6
    by_series = {next(iter(dicom_seg.header(p).series)): p for p in written}
    agree = []
    for number, labels in enumerate(truths):
        files = sorted((tmp_path / "data" / f"P{number}" / "ct").iterdir())
        mask = by_series[dicom.header(files[0]).series]
        back = dicom_seg.on_series([str(mask)], [str(f) for f in files], {"core": 1, "ring": 2})
        agree.append((back.array[0] == labels).mean())
    assert np.mean(agree) > 0.85


@pytest.mark.shared_data
def test_public_ct_with_overlapping_segments():
    place = Path(os.environ.get("MEDSPECTRUM_DATA", "")) / "dicom" / "ct3slice_seg_sr"
    if not os.environ.get("MEDSPECTRUM_DATA") or not place.is_dir():
        pytest.skip("MEDSPECTRUM_DATA does not hold dicom/ct3slice_seg_sr")
    found = load(place)
    (case,) = found.cases
    target = case.asked(MaskTarget)
    assert "Liver" in target.labels.values()
    mask, image = target.mask.load(), case.images["image"].load()
    assert mask.size == image.size == (3, 512, 512)
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
    assert any("laid over one another" in words for words in found.warnings)
    # the same segments as dcmqi, which wrote these objects, gives as NRRD
    alone = dicom_seg.on_series(
        [str(place / "liver.dcm")], list(case.images["image"].load.paths), {"Liver": 1}
    )
    theirs = formats.read(place / "liver_seg.nrrd")
    np.testing.assert_array_equal(alone.array[0], theirs.array[0] > 0)
    np.testing.assert_allclose(alone.affine, theirs.affine, atol=1e-4)

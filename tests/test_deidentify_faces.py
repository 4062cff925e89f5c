"""Volumes of the head lose what a face could be drawn from."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

import medspectrum
from made_identifiers import made_ct
from medspectrum.deid import faces
from medspectrum.errors import UserError
from medspectrum.models import brain_deepbet

SHAPE = (24, 30, 36)  # X, Y, Z
BRAIN = (slice(8, 14), slice(10, 16), slice(20, 28))


def volume(*more: int) -> np.ndarray:
    return np.random.default_rng(3).integers(-500, 3000, (*SHAPE, *more)).astype(np.int16)


@pytest.fixture
def seen(monkeypatch):
    """A brain in a known place, whatever the volume shows."""

    def mask(image):
        found = np.zeros(SHAPE, bool)
        found[BRAIN] = True
        return found.transpose(2, 1, 0)

    monkeypatch.setattr(brain_deepbet, "brain_mask", mask)
    monkeypatch.setattr(brain_deepbet, "lacking", lambda: "")


def run(folder: Path) -> list[dict[str, str]]:
    out = folder.parent / "out"
    medspectrum.deidentify(folder, out=out, faces="remove", pixels="keep", workers=1, quiet=True)
    return list(csv.DictReader((out / "deidentified.csv").open()))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("slope", [1.0, -2.0])
def test_all_but_the_brain_and_its_rim_becomes_as_the_darkest_voxel(seen, tmp_path, name, slope):
    (tmp_path / "in").mkdir()
    image = nibabel.Nifti1Image(volume(2), np.diag([2.0, 3.0, 1.0, 1.0]))
    image.header.set_slope_inter(slope, 5)
    nibabel.save(image, tmp_path / "in" / name)
    before = np.asarray(nibabel.Nifti1Image.from_filename(tmp_path / "in" / name).dataobj)
    [row] = run(tmp_path / "in")
    after = np.asarray(nibabel.Nifti1Image.from_filename(tmp_path / "out" / row["file"]).dataobj)
    assert "face removed 1" in row["done"]
    assert np.array_equal(after[BRAIN], before[BRAIN])
    # 8 mm: four voxels of 2 mm, two of 3 mm, eight of 1 mm
    for inside, outside in (
        ((4, 12, 24), (3, 12, 24)),
        ((10, 8, 24), (10, 7, 24)),
        ((10, 12, 12), (10, 12, 11)),
    ):
        assert np.array_equal(after[inside], before[inside])
        assert np.array_equal(after[outside], before.min(axis=(0, 1, 2)))
    assert (after == before.min(axis=(0, 1, 2))).mean() > 0.7


def test_nrrd_likewise_and_label_maps_stay(seen, tmp_path):
    (tmp_path / "in").mkdir()
    before = volume()
    nrrd.write(str(tmp_path / "in" / "head.nrrd"), before, {"spacings": [1.0, 1.0, 1.0]}, index_order="F")
    labels = (before > 0).astype(np.uint8)
    nrrd.write(str(tmp_path / "in" / "labels.nrrd"), labels, {"spacings": [1.0, 1.0, 1.0]}, index_order="F")
    rows = {row["file"]: row for row in run(tmp_path / "in")}
    after = nrrd.read(str(tmp_path / "out" / "head.nrrd"), index_order="F")[0]
    assert np.array_equal(after[BRAIN], before[BRAIN])
    assert after[0, 12, 24] == before[0, 12, 24]  # 8 mm from it
    assert after[0, 11, 19] == after[20, 29, 35] == before.min()
    assert np.array_equal(nrrd.read(str(tmp_path / "out" / "labels.nrrd"), index_order="F")[0], labels)
    assert "face" not in rows["labels.nrrd"]["done"]


def test_what_may_show_a_face_and_cannot_lose_it_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(brain_deepbet, "lacking", lambda: "")

    def none(image):
        raise UserError("no brain")

    monkeypatch.setattr(brain_deepbet, "brain_mask", none)
    made_ct(tmp_path / "in" / "head.dcm", number=1, BodyPartExamined="HEAD")
    made_ct(tmp_path / "in" / "chest.dcm", number=2, BodyPartExamined="CHEST")
    nibabel.save(nibabel.Nifti1Image(volume(), np.eye(4)), tmp_path / "in" / "knee.nii")
    rows = {Path(row["file"]).name: row for row in run(tmp_path / "in")}
    assert rows["chest.dcm"]["outcome"] == "written"
    assert "convert it first" in rows["head.dcm"]["reason"]
    assert "no brain was found" in rows["knee.nii"]["reason"]
    assert not (tmp_path / "out" / "knee.nii").exists()


def test_without_the_network_nothing_is_begun(monkeypatch, tmp_path):
    monkeypatch.setattr(brain_deepbet, "lacking", lambda: "pip install it")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("nothing")
    with pytest.raises(UserError, match="cannot find the brain: pip install it"):
        run(tmp_path / "in")
    assert not (tmp_path / "out").exists()


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.shared_data
def test_a_real_head(tmp_path):
    source = (
        Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given") / "pyradiomics_cases" / "brain1_image.nrrd"
    )
    if not source.is_file():
        pytest.skip("pyradiomics_cases is not under MEDSPECTRUM_DATA")
    if said := faces.lacking():
        pytest.skip(said)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "head.nrrd").write_bytes(source.read_bytes())
    [row] = run(tmp_path / "in")
    assert row["outcome"] == "written"
    before = nrrd.read(str(source), index_order="F")[0]
    after = nrrd.read(str(tmp_path / "out" / row["file"]), index_order="F")[0]
    tumour = nrrd.read(str(source.with_name("brain1_label.nrrd")), index_order="F")[0] > 0
    assert np.array_equal(after[tumour], before[tumour])
    changed = after != before
    assert 0.2 < changed.mean() < 0.9
    assert (after[changed] == before.min()).all()

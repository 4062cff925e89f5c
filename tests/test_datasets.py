"""Each layout is recognised, and gives the cases, patients, targets and splits that were written."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil

from medspectrum import registry
from medspectrum.case import BoxTarget, ClassTarget, MaskTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError

DATA = Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given")
shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA}")
LAYOUTS = sorted(registry.entries("dataset"))


def png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pil.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_recognises_and_reads_its_own_fake(tmp_path, name):
    entry = registry.find("dataset", name)
    path = entry.facts["fake"](tmp_path / "made", 0)
    case_set = load(path, cache=tmp_path / "cache")
    assert case_set.layout == name
    assert load(path, layout=name, cache=tmp_path / "cache").cases == case_set.cases
    assert len(case_set.cases) >= 4
    assert not case_set.left_out
    assert entry.summary
    for case in case_set.cases:
        assert pickle.loads(pickle.dumps(case)) == case
        for image in case.images.values():
            assert image.load().array.std() > 0
            assert image.key() == image.key()
        if isinstance(case.target, MaskTarget):
            picture, mask = next(iter(case.images.values())).load(), case.target.mask.load()
            assert picture.size == mask.size
            assert np.allclose(picture.affine, mask.affine)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_fake_is_made_from_the_same_seed(tmp_path, name):
    entry = registry.find("dataset", name)
    keys = []
    for folder in ("one", "two"):
        cases = load(entry.facts["fake"](tmp_path / folder / "made", 7), cache=tmp_path / "cache").cases
        keys.append([image.load().array.tobytes() for case in cases for image in case.images.values()])
    assert keys[0] == keys[1]


def test_folder_per_class_below_splits_and_patient_pattern(tmp_path):
    for split in ("train", "test"):
        for label in ("ill", "well"):
            for number in range(2):
                png(tmp_path / split / label / f"pat{number}-{split}-{number}.png", number)
    case_set = load(tmp_path, patient_pattern=r"(pat\d)-")
    assert case_set.layout == "folder_per_class"
    assert {case.split for case in case_set.cases} == {"train", "test"}
    assert case_set.labels() == ("ill", "well")
    assert {case.patient for case in case_set.cases} == {"pat0", "pat1"}
    plain = load(tmp_path)
    assert len({case.patient for case in plain.cases}) == 8
    assert "patients are not known" in plain.warnings[-1]


def test_a_bare_folder_and_a_single_file_are_cases_without_target(tmp_path):
    for number in range(3):
        png(tmp_path / "new" / f"{number}.png", number)
    case_set = load(tmp_path / "new")
    assert case_set.layout == "images"
    assert [case.target for case in case_set.cases] == [None] * 3
    assert load(tmp_path / "new" / "1.png").cases[0].id == "1.png"


def test_table_guesses_columns_and_keeps_the_rest(tmp_path):
    case_set = load(registry.find("dataset", "table").facts["fake"](tmp_path, 0))
    case = case_set.cases[0]
    assert case.target == ClassTarget("dark")
    assert (case.patient, case.centre, case.record) == ("p00", "north", {"age": "40"})
    assert sum(case.target is None for case in case_set.cases) == 2
    assert load(tmp_path).cases == case_set.cases


def test_table_with_semicolons_windows_letters_and_parquet(tmp_path):
    import polars

    png(tmp_path / "a.png")
    png(tmp_path / "b.png", 1)
    (tmp_path / "t.csv").write_bytes(
        "Bild;Befund;Klinik\na.png;gesund;Köln\nb.png;krank;Köln\n".encode("cp1252")
    )
    case_set = load(tmp_path / "t.csv", label="Befund", centre="Klinik")
    assert case_set.labels() == ("gesund", "krank")
    assert case_set.cases[0].centre == "Köln"
    polars.DataFrame({"image": ["a.png", "b.png"], "label": [0, 1]}).write_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").labels() == ("0", "1")


def test_table_without_a_label_names_the_columns_that_may_be_one(tmp_path):
    for number in range(4):
        png(tmp_path / f"{number}.png", number)
    (tmp_path / "t.csv").write_text("image,stain\n0.png,red\n1.png,blue\n2.png,red\n3.png,blue\n")
    case_set = load(tmp_path / "t.csv")
    assert {case.target for case in case_set.cases} == {None}
    assert any("--label; it may be stain (2 values)" in words for words in case_set.warnings)


def test_a_column_named_as_masks_is_no_image(tmp_path):
    """Else the answer would be among what a model sees."""
    for name in ("a", "b", "a_outline", "b_outline"):
        pil.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "cells.csv").write_text("Picture,Drawn by hand\na.png,a_outline.png\nb.png,b_outline.png\n")
    cases = load(tmp_path / "cells.csv", mask="Drawn by hand").cases
    assert [list(c.images) for c in cases] == [["image"], ["image"]]
    assert all(c.asked(MaskTarget).mask.source.endswith("_outline.png") for c in cases)


def test_table_with_several_images_split_mask_and_pattern(tmp_path):
    for name in ("f1", "l1", "f2", "l2", "m1"):
        png(tmp_path / "x" / f"{name}.png", len(name))
    rows = "case,frontal,lateral,label,split,mask\nA,x/f1.png,x/l1.png,1,Training,\n"
    rows += "B,x/f2.png,,,valid,x/m1.png\n"
    (tmp_path / "t.csv").write_text(rows)
    one, two = load(tmp_path / "t.csv").cases
    assert sorted(one.images) == ["frontal", "lateral"]
    assert sorted(two.images) == ["frontal"]
    assert (one.split, two.split) == ("train", "val")
    assert isinstance(two.target, MaskTarget)
    assert sorted(load(tmp_path / "t.csv", image="lateral,frontal").cases[0].images) == ["frontal", "lateral"]
    (tmp_path / "u.csv").write_text("number,label\n1,a\n2,b\n")
    found = load(tmp_path / "u.csv", image="x/f{number}.png").cases
    assert [case.images["image"].source for case in found] == [
        str(tmp_path / "x" / f"f{n}.png") for n in (1, 2)
    ]
    (tmp_path / "v.csv").write_text("image,label,split\nx/f1.png,a,AP\nx/f2.png,b,PA\n")
    assert load(tmp_path / "v.csv").cases[0].split is None
    with pytest.raises(UserError, match=r"line 2.*'AP' is no split"):
        load(tmp_path / "v.csv", split="split")


def test_table_may_name_folders_of_dicom_series(tmp_path):
    folder = registry.find("dataset", "dicom").facts["fake"](tmp_path / "scans", 0)
    lines = ["folder,label"] + [f"scans/ID{n}/series,{'ab'[n % 2]}" for n in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    case_set = load(tmp_path / "t.csv")
    direct = load(folder)
    for case, other in zip(case_set.cases, direct.cases, strict=True):
        image, same = case.images["folder" if "folder" in case.images else "image"], other.images["image"]
        assert image.load().size == (3, 16, 16)
        assert image.key() == same.key()


def test_npz_rows_are_mapped_and_their_key_is_their_content(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    images[3] = images[0]
    np.savez_compressed(
        tmp_path / "a.npz",
        images=images,
        labels=np.array(["x", "y", "nan", "x"]),
        patient=np.array([1, 1, 2, 3]),
    )
    cases = load(tmp_path / "a.npz", cache=tmp_path / "cache").cases
    assert np.array_equal(cases[1].images["image"].load().array[:, 0], np.moveaxis(images[1], -1, 0))
    keys = [case.images["image"].key() for case in cases]
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3
    assert [case.patient for case in cases] == ["1", "1", "2", "3"]
    assert cases[2].target is None
    np.savez(tmp_path / "vol.npz", images=np.zeros((2, 5, 6, 7), np.float64), labels=np.arange(2))
    assert load(tmp_path / "vol.npz", cache=tmp_path / "cache").cases[0].images["image"].load().size == (
        5,
        6,
        7,
    )


def test_dicom_patients_centres_labels(tmp_path):
    folder = registry.find("dataset", "dicom").facts["fake"](tmp_path / "d", 0)
    case_set = load(folder)
    assert case_set.labels() == ("dark", "light")
    assert [case.centre for case in case_set.cases] == ["north", "north", "south", "south"]
    assert all(case.patient.startswith("p-") and "ID" not in case.patient for case in case_set.cases)
    assert [c.patient for c in load(folder, identifiers=True).cases] == ["ID0", "ID1", "ID2", "ID3"]
    (folder / "labels.csv").unlink()
    assert {case.target for case in load(folder).cases} == {None}
    assert load(folder, labels="folder").cases[0].target == ClassTarget("ID0")
    (folder / "other.csv").write_text("path,label\nID1/series,x\nID7,y\n")
    other = load(folder, labels="other.csv")
    assert [case.target for case in other.cases] == [None, ClassTarget("x"), None, None]
    assert any("1 rows of other.csv match no" in words for words in other.warnings)


def test_nnunet_channels_are_roles_and_a_lacking_one_is_listed(tmp_path):
    folder = registry.find("dataset", "nnunet").facts["fake"](tmp_path, 0)
    (folder / "imagesTr" / "made_002_0001.nii.gz").unlink()
    case_set = load(folder)
    assert len(case_set.cases) == 3
    assert sorted(case_set.cases[0].images) == ["T1", "T2"]
    assert case_set.cases[0].target.labels == {0: "background", 1: "front", 2: "back"}
    assert "lacks channel 0001" in case_set.left_out[0].reason


def test_boxes_of_voc_and_coco(tmp_path):
    voc = load(registry.find("dataset", "voc").facts["fake"](tmp_path / "voc", 0))
    assert voc.cases[0].target == BoxTarget(((2.0, 1.0, 9.0, 12.0),), ("dark",))
    assert [case.split for case in voc.cases] == ["train"] * 4 + ["test"] * 2
    coco = load(registry.find("dataset", "coco").facts["fake"](tmp_path / "coco", 0))
    assert coco.cases[1].target == BoxTarget(((2.0, 1.0, 9.0, 12.0),), ("light",))


def test_settings_are_those_of_the_layout(tmp_path):
    png(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no setting split; it has patient_pattern"):
        load(tmp_path, split="x")
    with pytest.raises(UserError, match="did you mean"):
        load(tmp_path, layout="imagess")


def test_a_hundred_thousand_cases_stay_small(tmp_path):
    import tracemalloc

    rows = 5_000
    images = np.zeros((rows, 2, 2), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(rows) % 2)
    load(tmp_path / "a.npz", cache=tmp_path)
    tracemalloc.start()
    case_set = load(tmp_path / "a.npz", cache=tmp_path)
    size = tracemalloc.get_traced_memory()[0] / len(case_set.cases)
    tracemalloc.stop()
    assert size < 1200, f"{size:.0f} bytes a case"


def test_importing_is_cheap():
    import subprocess

    code = (
        "import sys, medspectrum.formats, medspectrum.describe, medspectrum.registry as registry;"
        "registry.entries('dataset');"
        "heavy = ('torch', 'polars', 'pydicom', 'scipy', 'nibabel', 'PIL', 'tifffile', 'av');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@shared
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "layout", "cases", "patients", "settings"),
    [
        ("pneumoniamnist", "medmnist", 5856, 5856, {}),
        ("malaria_cells", "medmnist", 7069, 160, {}),
        ("covid_cxr", "table", 270, 146, {}),
        ("wbc_seg", "pairs", 300, 300, {}),
        ("wbc_seg/labels.csv", "table", 300, 300, {"image": "{site}/{id:0>3}_image.png"}),
        ("bccd", "voc", 364, 364, {}),
        ("msd_hippocampus", "pairs", 208, 208, {}),
        ("dsb2018_nuclei", "table", 541, 541, {"label": "domain"}),
        ("dicom", "dicom", 10, None, {}),
        ("wsi", "images", 3, 3, {}),
        ("pyradiomics_cases", "pairs", 3, 3, {}),
        ("ct_cranium", "images", 2, 2, {}),
    ],
)
def test_public_data(tmp_path, name, layout, cases, patients, settings):
    case_set = load(DATA / name, cache=tmp_path, **settings)
    assert case_set.layout == layout
    assert len(case_set.cases) == cases
    assert patients is None or len({case.patient for case in case_set.cases}) == patients
    alone = {x.source for x in case_set.left_out if "refers to a series that is not here" in x.reason}
    assert {x.source for x in case_set.left_out} == alone
    assert len(alone) == (name == "dicom")


@shared
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["iu_reports", "lidc_ratings", "survival_ehr"])
def test_public_data_without_pictures_says_what_it_found(name):
    with pytest.raises(UserError, match=r"only files of .*Understood are"):
        load(DATA / name)

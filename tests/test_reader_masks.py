"""Masks of several readers: overlap by hand, STAPLE against a made reader, grids, labels, broken files."""

import json
from typing import Any

import nibabel
import numpy as np
import pytest

import medspectrum
from medspectrum import formats
from medspectrum.errors import UserError
from medspectrum.reader_masks import agreed, dice

AFFINE = np.array([[0, 1.5, 0, 3.0], [-1, 0, 0, 8], [0, 0, 2.5, -4], [0, 0, 0, 1]])
READERS = {"anna": (0, 0, 0), "bert": (0, 1, 0), "carl": (0, 0, 2)}


def truth(case):
    """(X, Y, Z): a box of 1 with a smaller one of 5 inside, at an uneven place."""
    made = np.zeros((22, 17, 9), np.uint8)
    made[3 : 12 + case, 5:11, 2:6] = 1
    made[4:7, 6:8, 3:5] = 5
    return made


@pytest.fixture
def folder(tmp_path):
    for reader, shift in READERS.items():
        (tmp_path / "m" / reader).mkdir(parents=True)
        for case in range(3):
            image = nibabel.Nifti1Image(np.roll(truth(case), shift, (0, 1, 2)), AFFINE)
            nibabel.save(image, tmp_path / "m" / reader / f"p{case // 2}_{case}.nii.gz")
    return tmp_path / "m"


def test_overlap_is_what_counting_gives_and_the_consensus_lies_on_the_grid(folder, tmp_path):
    told = medspectrum.agreement(folder, patient_pattern=r"(p\d)", out=tmp_path / "joined", quiet=True)
    assert (told["cases"], told["patients"], told["labels"]) == (3, 2, [1, 5])
    a, b = truth(0) == 5, np.roll(truth(0), 1, 1) == 5
    by_hand = 2 * (a & b).sum() / (a.sum() + b.sum())
    pair = next(p for p in told["pairs"] if p["readers"] == ["anna", "bert"])
    assert pair["per_label"]["5"]["value"] == pytest.approx(by_hand, abs=1e-4)
    of_both = [pair["per_label"][label]["value"] for label in ("1", "5")]
    assert pair["dice"]["value"] == pytest.approx(np.mean(of_both), abs=1e-4)
    best = max(told["others"], key=lambda row: row["dice"]["value"])
    assert best["reader"] == "anna"
    written: Any = nibabel.load(tmp_path / "joined" / "p0_1.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE)
    joined = np.asarray(written.dataobj)
    assert dice(joined, truth(1))[1] > 0.9
    assert set(np.unique(joined)) == {0, 1, 5}
    json.dumps(told, allow_nan=False)
    assert json.loads((tmp_path / "joined" / "agreement.json").read_text())["dice"] == told["dice"]


def test_staple_trusts_the_readers_that_agree_where_a_majority_cannot():
    true = np.zeros((5, 30, 30), np.uint8)
    true[1:4, 6:18, 9:24] = 1
    rng = np.random.default_rng(0)
    careless = [np.where(rng.random(true.shape) < 0.45, 1 - true, true).astype(np.uint8) for _ in range(3)]
    careful = [np.where(rng.random(true.shape) < 0.02, 1 - true, true).astype(np.uint8) for _ in range(2)]
    masks = [*careless, *careful]
    wrong = {way: (agreed(masks, way)[0] != true).sum() for way in ("staple", "majority")}
    assert wrong["staple"] < wrong["majority"] / 2
    found = [share or 0.0 for share in agreed(masks, "staple")[1]]
    assert min(found[3:]) > max(found[:3]) + 0.2


def test_majority_ties_to_nothing_and_empty_masks_are_no_error():
    one, two = np.zeros((1, 4, 6), np.uint8), np.zeros((1, 4, 6), np.uint8)
    one[0, 1, 2:4] = 3
    two[0, 1, 3:5] = 3
    joined, found = agreed([one, two], "majority")
    assert np.argwhere(joined).tolist() == [[0, 1, 3]]
    assert found == [1.0, 1.0]
    for way in ("staple", "majority"):
        assert agreed([one * 0, two * 0], way)[1] == [None, None]
    assert dice(one * 0, two * 0) == {}


def test_other_grids_and_broken_masks_are_left_out_and_told(folder, tmp_path):
    other = AFFINE.copy()
    other[0, 3] += 5
    nibabel.save(nibabel.Nifti1Image(truth(0), other), folder / "bert" / "p0_0.nii.gz")
    (folder / "carl" / "p0_1.nii.gz").write_bytes(b"no mask")
    told = medspectrum.agreement(folder, consensus="majority", out=tmp_path / "o", quiet=True)
    assert told["cases_of_several"] == 1
    assert {("grids" in x["reason"]) for x in told["left_out"]} == {True, False}
    assert not formats.named_like_image(tmp_path / "o" / "agreement.json")
    assert sorted(p.name for p in (tmp_path / "o").glob("*.nii.gz")) == ["p1_2.nii.gz"]


def test_what_cannot_be_used_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="there are staple, majority"):
        medspectrum.agreement(folder, consensus="mean")
    (tmp_path / "e" / "anna").mkdir(parents=True)
    with pytest.raises(UserError, match="two readers"):
        medspectrum.agreement(tmp_path / "e")

"""Whole images outlined by networks of nnU-Net: the labels that its own predictor writes.

The references were made by ``scripts/conformance/nnunet_whole.py`` with the original code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import medspectrum
from medspectrum import planned
from medspectrum.errors import UserError
from medspectrum.models import _nnunet_whole
from medspectrum.models._nnunet_plans import Resampling

pytest.importorskip("dynamic_network_architectures", reason="needs dynamic-network-architectures")

DATA = Path(__file__).parent / "data" / "nnunet_whole"
SAME = 0.999


def folder(name: str) -> Path:
    (found,) = (p.parent for p in (DATA / name).glob("*/plans.json"))
    return found


def run(name, tmp_path, **settings):
    return medspectrum.segment(
        DATA / name / "images",
        model=Path(f"nnunet:{folder(name)}"),
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        quiet=True,
        **settings,
    )


@pytest.mark.parametrize(
    ("name", "file", "labels"),
    [
        ("volume", "case.nii.gz", {"liver": 1, "spleen": 2}),
        ("planes", "case_0000.nii.gz", {"whole": 1, "core": 2}),
    ],
)
def test_a_whole_image_is_outlined_as_by_nnu_net_itself(name, file, labels, tmp_path):
    told = run(name, tmp_path)
    assert (told["prompts_by"], told["labels"], told["left_out"]) == ("plans", labels, [])
    mine: Any
    theirs: Any
    mine, theirs = nibabel.load(tmp_path / "out" / file), nibabel.load(DATA / name / "outline.nii.gz")
    assert np.allclose(mine.affine, theirs.affine, atol=1e-4)
    own, known = np.asanyarray(mine.dataobj), np.asanyarray(theirs.dataobj)
    assert own.shape == known.shape
    for value in (1, 2):
        assert (known == value).sum() > 50
    assert (own == known).mean() >= SAME
    assert (own == known)[known > 0].mean() >= 0.99
    voxels = {row["label"]: row["voxels"] for row in told["images"][0]["outlines"]}
    assert voxels == {label: int((own == value).sum()) for label, value in labels.items()}


def test_what_does_not_fit_the_plans_is_told(tmp_path):
    with pytest.raises(UserError, match="outlines the whole image by itself; leave --everything out"):
        run("planes", tmp_path, everything=True)
    with pytest.raises(UserError, match="has 1 channels, the network takes 2: CT, T1"):
        medspectrum.segment(
            DATA / "planes" / "images",
            model=Path(f"nnunet:{folder('volume')}"),
            out=tmp_path / "out",
            quiet=True,
        )
    with pytest.raises(UserError, match="is no folder"):
        planned.named(Path(f"nnunet:{tmp_path / 'absent'}"))
    assert planned.named(DATA / "sam_tiny.pth") is None
    assert planned.named(Path("vit")) is None
    changed = Path(shutil.copytree(folder("planes"), tmp_path / folder("planes").name))
    plans = json.loads((changed / "plans.json").read_text())
    plans["configurations"]["2d"]["resampling_fn_data"] = "resample_torch_fornnunet"
    (changed / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match="resamples by resample_torch_fornnunet"):
        planned.named(Path(f"nnunet:{changed}"))


def test_slices_far_apart_are_resampled_on_their_own():
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(1, 4, 10, 8)).astype(np.float32)
    near = _nnunet_whole.resampled(volume, (8, 10, 8), (6.0, 1, 1), (3.0, 1, 1), Resampling(3))
    assert np.array_equal(near, np.repeat(volume, 2, axis=1))
    bent = _nnunet_whole.resampled(volume, (8, 10, 8), (2.0, 1, 1), (1.0, 1, 1), Resampling(3))
    assert not np.allclose(bent, near)
    assert bent.min() >= volume.min()
    assert bent.max() <= volume.max()


def test_labels_of_an_image_of_nothing_are_background():
    trained = planned.named(Path(f"nnunet:{folder('planes')}"))
    assert trained is not None
    found = _nnunet_whole.labels_of(
        trained.plans,
        lambda batch: np.full((len(batch), 2, *batch.shape[2:]), -1.0, np.float32),
        np.zeros((1, 3, 20, 31), np.float32),
        (2.0, 1.0, 1.0),
    )
    assert found.shape == (3, 20, 31)
    assert not found.any()

"""Folders that nnU-Net left: the network of the plans with the checkpoint's weights answers as its own code.

The references were made by ``scripts/conformance/nnunet.py`` with the original code.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import nnunet_first, nnunet_folder, resolve
from medspectrum.registry import find

pytest.importorskip("dynamic_network_architectures", reason="needs dynamic-network-architectures")

DATA = Path(__file__).parent / "data" / "nnunet"
FIRST = Path(__file__).parent / "data" / "nnunet_first"


def folder(name: str) -> Path:
    (found,) = (p.parent for p in (DATA / name).glob("*/plans.json"))
    return found


@pytest.fixture
def copied(tmp_path) -> Path:
    return Path(shutil.copytree(folder("new"), tmp_path / folder("new").name))


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_folder_of_nnu_net_answers_as_its_own_code(name):
    model = find("model", "nnunet:FOLDER").thing(folder(name))
    with np.load(DATA / name / "answers.npz") as held, torch.inference_mode():
        logits = model.network(torch.from_numpy(held["volume"])).numpy()
        assert np.abs(held["logits"]).max() > 0.1
        np.testing.assert_allclose(logits, held["logits"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(model.normalised(held["raw"]), held["normalised"], rtol=0, atol=1e-5)


def test_the_plans_are_told():
    new, old = (nnunet_folder.load(folder(name)).plans for name in ("new", "old"))
    assert (new.kind, new.channels, new.heads) == ("ResidualEncoderUNet", ("CT", "PET"), 2)
    assert new.labels == {"background": 0, "whole": (1, 2), "core": (2,), "ignore": 3}
    assert (new.spacing_mm, new.patch) == ((2.0, 1.0, 1.0), (8, 16, 16))
    assert (old.kind, old.heads, old.labels["spleen"]) == ("PlainConvUNet", 3, 2)
    with pytest.raises(ValueError, match="takes 2 channels; got 1"):
        nnunet_folder.load(folder("new")).normalised(np.zeros((1, 4, 4, 4), np.float32))


def test_voxels_outside_are_left_where_training_left_them():
    plans = replace(nnunet_folder.load(folder("new")).plans, masked=(False, True))
    volume = np.random.default_rng(0).normal(5, 2, (2, 3, 4, 5)).astype(np.float32)
    inside = np.zeros((3, 4, 5), bool)
    inside[1:] = True
    made = nnunet_folder._nnunet_plans.normalised(plans, volume, inside)[1]
    assert abs(float(made[inside].mean())) < 1e-5
    assert np.array_equal(made[~inside], volume[1][~inside])


def test_a_zip_of_a_trained_folder_is_unpacked_once(tmp_path):
    card = find("model", "totalsegmentator-ribs").facts["card"]
    place = nnunet_folder.weights_place.place(card, tmp_path)
    place.parent.mkdir(parents=True)
    shutil.copytree(folder("old"), tmp_path / "packed" / "Dataset295" / folder("old").name)
    shutil.make_archive(str(place.with_suffix("")), "zip", tmp_path / "packed")
    entry = find("model", "totalsegmentator-ribs")
    first, second = (entry.thing(cache=tmp_path) for _ in range(2))
    assert first.source == second.source
    assert Path(first.source).parent.parent == place.with_suffix("")
    assert torch.equal(*(next(iter(m.network.state_dict().values())) for m in (first, second)))
    with pytest.raises(UserError, match=r"totalsegmentator-organs needs its weights.*Dataset291"):
        find("model", "totalsegmentator-organs").thing(cache=tmp_path)


def test_damaged_folders_are_told_in_a_sentence(copied, tmp_path):
    with pytest.raises(UserError, match=r"no fold_3/checkpoint_final\.pth; there are folds: \['0'\]"):
        nnunet_folder.load(copied, fold="3")
    with pytest.raises(UserError, match="say which configuration it holds: 3d_fullres, 3d_lowres"):
        nnunet_folder.load(copied, configuration="2d")
    plans = json.loads((copied / "plans.json").read_text())
    full = plans["configurations"]["3d_fullres"]
    told = full["architecture"]
    for change, sentence in (
        ({"network_class_name": "os.system"}, "holds a system; networks that are read are PlainConvUNet and"),
        (
            {"arch_kwargs": {**told["arch_kwargs"], "conv_op": "os.system"}},
            "plans name os.system, which is no",
        ),
        (
            {"arch_kwargs": {**told["arch_kwargs"], "features_per_stage": [4, 6, 10]}},
            "not of ResidualEncoder",
        ),
    ):
        full["architecture"] = {**told, **change}
        (copied / "plans.json").write_text(json.dumps(plans))
        with pytest.raises(UserError, match=sentence):
            nnunet_folder.load(copied)
    full["architecture"] = told
    full["previous_stage"] = "3d_lowres"
    (copied / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match="refines another network's outlines"):
        nnunet_folder.load(copied)
    full["inherits_from"] = "3d_fullres"
    (copied / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UnreadableFile, match="inherits from itself"):
        nnunet_folder.load(copied)
    (copied / "plans.json").write_text("{")
    with pytest.raises(UnreadableFile, match="is no JSON"):
        nnunet_folder.load(copied)
    (copied / "plans.json").unlink()
    with pytest.raises(UserError, match="holds not one trained network of nnU-Net but none"):
        nnunet_folder.load(copied)
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(UnreadableFile, match="is no whole zip"):
        nnunet_folder.load(tmp_path / "broken.zip")
    with pytest.raises(UnreadableFile, match="does not exist"):
        nnunet_folder.load(tmp_path / "absent.zip")


@pytest.mark.parametrize(("name", "dims", "channels"), [("3d_fullres", 3, 2), ("2d", 2, 1)])
def test_the_first_version_answers_as_its_own_code(name, dims, channels):
    model = find("model", "nnunet1:FOLDER").thing(FIRST / f"{name}.model")
    assert (model.dims, model.channels, model.heads) == (dims, channels, 3)
    with np.load(FIRST / "answers.npz") as held, torch.inference_mode():
        logits = model.network(torch.from_numpy(held[f"{name}_image"])).numpy()
        assert np.abs(held[f"{name}_logits"]).max() > 0.1
        np.testing.assert_allclose(logits, held[f"{name}_logits"], rtol=0, atol=1e-5)


def test_a_zip_of_the_first_version_holds_folds(tmp_path):
    card = find("model", "msd-heart").facts["card"]
    place = nnunet_folder.weights_place.place(card, tmp_path)
    for name in ("3d_fullres", "2d"):
        fold = tmp_path / "packed" / name / "Task002_Heart" / "nnUNetTrainerV2__nnUNetPlansv2.1" / "fold_0"
        fold.mkdir(parents=True)
        shutil.copy(FIRST / f"{name}.model", fold / nnunet_first.CHECKPOINT)
    place.parent.mkdir(parents=True)
    shutil.make_archive(str(place.with_suffix("")), "zip", tmp_path / "packed")
    thing = find("model", "msd-heart").thing
    assert thing(cache=tmp_path).dims == 3
    assert thing(cache=tmp_path, configuration="2d").dims == 2
    with pytest.raises(UserError, match=r"holds not one 3d_fullres with fold_4/.*there are: none"):
        thing(cache=tmp_path, fold="4")
    with pytest.raises(UserError, match=r"holds not one 3d_lowres .*there are: .*2d/Task002_Heart"):
        thing(cache=tmp_path, configuration="3d_lowres")
    with pytest.raises(UserError, match="msd-heart serves segment, and gives no features"):
        resolve("msd-heart", cache=tmp_path)


def test_other_weights_are_not_taken_for_the_first_versions(tmp_path):
    state = torch.load(FIRST / "2d.model", weights_only=False)["state_dict"]
    for left_out, sentence in (
        ("tu.", "no tu and conv_blocks_context"),
        ("seg_outputs.1.weight", "not of nnU-Net's first version .*seg_outputs.1.weight"),
        ("conv_blocks_context.0.blocks.1.instnorm.bias", "not of GenericUNet: .*instnorm.bias is missing"),
    ):
        kept = {k: v for k, v in state.items() if not k.startswith(left_out)}
        torch.save({"state_dict": kept}, tmp_path / "other.model")
        with pytest.raises(UnreadableFile, match=sentence):
            nnunet_first.load(tmp_path / "other.model")

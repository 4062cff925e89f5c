"""What RadFM's row does beside answering as the original (test_published.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medspectrum.engine import weights_place
from medspectrum.engine.weights_file import UnsafeFile, tensors_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.image import Image
from medspectrum.models import radfm
from medspectrum.registry import entries

torch = pytest.importorskip("torch")
DATA = Path(__file__).parent / "data" / "published" / "radfm"


def small():
    settings = json.loads((DATA / "meta.json").read_text())["settings"]
    return entries("model")["radfm"].facts["published"].network(DATA / "small.bin", **settings)


def test_volumes_are_turned_to_the_makers_axes_and_back():
    """In RAS what lies left, behind and below is what the makers find last, last and first."""
    made = small()
    reads = radfm.reader(made, (16, 32, 32))
    rng = np.random.default_rng(0)
    volume = torch.from_numpy(rng.uniform(0, 1, (2, 3, 6, 12, 20)).astype(np.float32))
    theirs = torch.empty(2, 3, 12, 20, 6)
    for z in range(6):
        theirs[..., z] = torch.flip(volume[:, :, z], (-1, -2))
    with torch.inference_mode():
        vectors, patches = made(theirs), made.vision_encoder(theirs)
        np.testing.assert_allclose(reads(volume).numpy(), vectors.mean(1).numpy(), atol=1e-6)
        (tokens,) = reads.read_level(volume, "tokens")
        assert tokens.shape == (2, 12, 3, 3, 5)
        first = patches.reshape(2, 3, 5, 3, 12)
        np.testing.assert_allclose(tokens[:, :, 2, 0, 4].numpy(), first[:, 2, 0, 2].numpy(), atol=1e-6)
        maps = reads.read_level(volume, "maps")
    assert len(maps) == 4
    assert torch.equal(maps[-1], tokens)
    assert not torch.equal(maps[0], tokens)


def test_what_is_shown_lies_between_nought_and_one():
    rng = np.random.default_rng(1)
    volume = rng.normal(-300, 400, (1, 10, 20, 24)).astype(np.float32)
    volume[0, 3, 4, 5] = np.nan
    made = radfm.volume_input(Image(volume, modality="CT"), (8, 16, 16))
    assert made.shape == (3, 8, 16, 16)
    assert np.array_equal(made[0], made[2])
    assert 0 <= made.min() < made.max() <= 1
    np.testing.assert_allclose(
        radfm.volume_input(Image(3 * volume, modality="CT"), (8, 16, 16)), made, atol=1e-5
    )
    assert not radfm.volume_input(Image(np.full_like(volume, 7), modality="CT"), (8, 16, 16)).any()
    with pytest.raises(UserError, match="radfm takes volumes"):
        radfm.volume_input(Image(volume[:, :1], modality="CT"), (8, 16, 16))


def test_more_patches_than_positions_are_told():
    with torch.inference_mode(), pytest.raises(UserError, match=r"positions for up to \(8, 8, 8\) patches"):
        small()(torch.zeros(1, 3, 36, 32, 16))


def test_a_mapped_file_gives_the_same_and_runs_nothing(tmp_path):
    mapped, whole = tensors_of(DATA / "small.bin", mapped=True), tensors_of(DATA / "small.bin")
    assert mapped.keys() == whole.keys()
    assert all(torch.equal(mapped[k], whole[k]) for k in whole)
    old = tmp_path / "old.bin"
    torch.save(whole, old, _use_new_zipfile_serialization=False)
    assert tensors_of(old, mapped=True).keys() == whole.keys()
    torch.save({"weight": torch.ones(2), "run": print}, tmp_path / "foreign.bin")
    with pytest.raises(UnsafeFile, match="holds more than weights"):
        tensors_of(tmp_path / "foreign.bin", mapped=True)
    (tmp_path / "cut.bin").write_bytes((DATA / "small.bin").read_bytes()[:-200])
    with pytest.raises(UnreadableFile):
        tensors_of(tmp_path / "cut.bin", mapped=True)


def test_its_file_is_one_that_a_person_gets(tmp_path):
    assert weights_place.place(radfm.CARD, tmp_path).name == "pytorch_model.bin"
    assert "get pytorch_model.bin by https://huggingface.co/chaoyi-wu/RadFM" in weights_place.lacking(
        radfm.CARD, tmp_path
    )

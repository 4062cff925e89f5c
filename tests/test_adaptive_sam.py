"""Segment Anything told by words: equal to AdaptiveSAM's own code, and it learns which word means what.

The reference was made by ``scripts/conformance/adaptive_sam.py`` with the original code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from made_outlines import outlined
from medspectrum.engine.text_tower import text_features
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.methods.adaptive_sam import by_words, fake
from medspectrum.models import efficientnet_lite0, resolve
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return resolve(f"sam:{DATA / 'sam_tiny.pth'}", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return fake(tmp_path_factory.mktemp("tower"))["text_tower"]


def test_words_are_outlined_as_by_the_original(encoder):
    with np.load(DATA / "adaptive_sam.npz") as held:
        known = {name: torch.from_numpy(array) for name, array in held.items()}
    made = by_words(encoder.whole((64,)), known["words"].numpy())
    own = {n.removeprefix("affine."): t for n, t in known.items() if n.startswith("affine.")}
    made.affine.load_state_dict(own)
    with torch.inference_mode():
        masks = F.interpolate(made.masks(known["pictures"]), (64, 64), mode="bilinear", align_corners=False)
        scores = made(known["pictures"])
    assert not torch.allclose(masks[:, 0], masks[:, 1], atol=1e-3)
    assert torch.allclose(torch.sigmoid(masks), known["masks"], rtol=0, atol=1e-5)
    assert scores.shape[1] == 3
    assert not scores[:, 0].any()


def test_biases_norms_places_and_the_decoder_learn(encoder, tower):
    made = by_words(encoder.whole((64,)), text_features(tower, ["core"]))
    learn = {n for n, p in made.named_parameters() if p.requires_grad}
    inside = {n for n in learn if n.startswith("network.vision_encoder.")}
    assert "network.vision_encoder.pos_embed" in inside
    assert "network.vision_encoder.layers.0.attn.qkv.bias" in inside
    assert "network.vision_encoder.layers.0.attn.qkv.weight" not in inside
    assert "network.mask_decoder.mask_tokens.weight" in learn
    assert "affine.0.weight" in learn


def test_words_are_read_by_a_text_tower_on_this_machine(tower, tmp_path):
    found = text_features(tower, ["core", "ring", "core"])
    assert found.shape == (3, 24)
    assert np.allclose(found[0], found[2], atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)
    alone = text_features(tower, ["ring"])
    assert np.allclose(alone[0], found[1], atol=1e-5)  # whatever stands beside it
    with pytest.raises(UnreadableFile, match="is no folder"):
        text_features(tmp_path / "absent", ["core"])
    with pytest.raises(UnreadableFile, match="holds no text tower"):
        text_features(tmp_path, ["core"])


def test_what_words_mean_is_learned(tower, tmp_path):
    encoder = resolve(f"sam:{DATA / 'sam_ovals.pth'}", cache=tmp_path)
    learn, test = outlined(6), outlined(4, first=50)
    task = Segment.of(learn)
    entry = find("method", "adaptive_sam")
    made = entry.thing(encoder, learn, task, text_tower=tower, least_steps=100, most_steps=100)
    dice = task.score(made.predict(test), test, resamples=0)["scores"]["dice"]["value"]
    assert dice > 0.5


def test_what_it_needs_is_told(tower, tmp_path):
    cases = outlined(2)
    network = efficientnet_lite0.tiny(cache=tmp_path)
    with pytest.raises(UserError, match="no decoder of prompts"):
        find("method", "adaptive_sam").thing(network, cases, Segment.of(cases), text_tower=tower)

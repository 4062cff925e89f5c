"""LLaVA-Med 1.5 in its makers' own layout: a small folder answers as the original network did."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medspectrum import catalogue
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _llava_mistral, _sentencepiece, language

torch = pytest.importorskip("torch")
DATA = Path(__file__).parent / "data" / "published" / "llava-med"
PIECES = ["<unk>", "<s>", "</s>", "▁", "[", "]", "/", "I", "N", "S", "T", "\n", *"what is?".replace(" ", "")]
PIECES = [*dict.fromkeys(PIECES)]


def field(number: int, value: Any) -> bytes:
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3 | 2, len(value)]) + bytes(value)


def sentencepiece(words) -> bytes:
    """A message as SentencePiece writes it, with a field after the pieces that is none of them."""
    told = b"".join(field(1, field(1, w.encode()) + field(2, -float(i))) for i, w in enumerate(words))
    return told + bytes([2 << 3 | 2, 2, 3 << 3 | 0, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As published: config.json, one shard, tokenizer.model; the tower's settings in a folder beside."""
    path = tmp_path_factory.mktemp("llava-med") / "net"
    (path / "tower").mkdir(parents=True)
    told = json.loads((DATA / "meta.json").read_text())["settings"]
    (path / "config.json").write_text(json.dumps({**told["config"], "mm_vision_tower": "makers/tower"}))
    tower = {**told["tower"], "model_type": "clip_vision_model"}
    (path / "tower" / "config.json").write_text(json.dumps(tower))
    (path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    shutil.copy(DATA / "small.safetensors", path / "model.safetensors")
    return path


def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def logits_differ(network) -> float:
    with np.load(DATA / "io.npz") as held, torch.inference_mode():
        given = {k[3:]: torch.from_numpy(held[k]) for k in held if k.startswith("in_")}
        found = _llava_mistral.answer(network, given)
        return max(
            float(np.abs(found[k].float().numpy() - held[f"out_{k}"]).max()) for k in ("one", "two", "words")
        )


def test_the_folder_as_published_answers_as_the_original(folder):
    given = language.load(folder)
    assert given.kind == "llava_mistral"
    assert logits_differ(given.network) < 1e-5
    assert given.network.dtype == torch.float32
    half = language.load(folder, dtype="bfloat16").network
    assert half.dtype == torch.bfloat16
    assert 1e-5 < logits_differ(half) < 0.5


def test_it_says_words_about_pictures(folder):
    rng = np.random.default_rng(0)
    given = language.load(folder)
    pictures = [rng.integers(0, 256, (3, 20, 44), dtype=np.uint8) for _ in range(3)]
    said = [language.answer(given, "what is it?", pictures=[p], most_tokens=8) for p in pictures]
    assert said == [language.answer(given, "what is it?", pictures=[p], most_tokens=8) for p in pictures]
    assert any(said)
    assert not any("INST" in s and "what is it" in s for s in said)
    assert isinstance(language.answer(given, "what is it?", pictures=pictures[:2], most_tokens=4), str)
    assert isinstance(language.answer(given, "what is it?", most_tokens=4), str)
    with pytest.raises(UserError, match="holds a word that the network does not know"):
        language.answer(given, "what is <unk>?", pictures=pictures[:1])


def test_a_question_is_put_as_the_makers_put_it(folder):
    from PIL import Image as Pillow

    reader = language.load(folder).processor
    place = {word: i for i, word in enumerate(PIECES)}
    made = reader("what?", [Pillow.new("RGB", (40, 20), (255, 0, 0))])
    before, after = ("▁[INST]▁", "▁\nwhat?▁[/INST]")
    wanted = [1, *(place[c] for c in before), 0, 0, 0, 0, *(place[c] for c in after)]
    assert made["input_ids"][0].tolist() == wanted
    shown = made["pixel_values"][0]
    assert shown.shape == (3, 28, 28)
    assert float(shown[:, :5].abs().max()) < 0.02, "above a wide picture lies the mean colour"
    assert float(shown[0, 14, 14]) == pytest.approx((1 - 0.48145466) / 0.26862954, abs=1e-3)
    two = reader("what?", [Pillow.new("RGB", (20, 20)), Pillow.new("RGB", (20, 20))])
    assert (two["input_ids"] == 0).sum() == 8
    assert two["pixel_values"].shape == (2, 3, 28, 28)
    assert reader("what?", [])["input_ids"][0].tolist() == [1, *(place[c] for c in "▁[INST]▁what?▁[/INST]")]


def test_shards_and_a_tower_of_its_own_give_the_same(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    path = copied(folder, tmp_path)
    whole = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    seen = {k: v for k, v in whole.items() if ".vision_tower." in k}
    rest = [k for k in whole if k not in seen]
    parts = {"model-00001-of-00002.safetensors": rest[::2], "model-00002-of-00002.safetensors": rest[1::2]}
    for name, keys in parts.items():
        save_file({k: whole[k] for k in keys}, path / name)
    index = {"weight_map": {k: name for name, keys in parts.items() for k in keys}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnreadableFile, match="holds no weights of the tower; copy openai/clip-vit-large"):
        language.load(path)
    own = {k.removeprefix("model.vision_tower.vision_tower."): v for k, v in seen.items()}
    own["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    own["text_model.final_layer_norm.weight"] = torch.ones(3)
    save_file(own, path / "tower" / "model.safetensors")
    assert logits_differ(language.load(path).network) < 1e-5
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnreadableFile, match=r"lacks model-00002-of-00002\.safetensors"):
        language.load(path)


def test_what_is_no_such_folder_is_told_in_a_sentence(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    path = copied(folder, tmp_path)
    told = json.loads((path / "config.json").read_text())
    for changed, words in (
        ({"mm_projector_type": "linear"}, "its projector is 'linear', not mlp2x_gelu"),
        ({"mm_vision_select_feature": "all"}, "takes 'all' of the tower"),
        ({"mm_use_im_start_end": True}, "puts words of its own around a picture"),
        ({"mm_vision_tower": "someone/else"}, "names the tower 'someone/else', which is not here"),
        ({"num_hidden_layers": 3}, r"its weights differ: model\.language_model\.layers\.2\.\S+ is missing"),
    ):
        (path / "config.json").write_text(json.dumps({**told, **changed}))
        with pytest.raises(UnreadableFile, match=words):
            language.load(path)
    (path / "config.json").write_text(json.dumps(told))
    state = load_file(path / "model.safetensors")
    state["model.layers.0.self_attn.lora.weight"] = torch.ones(2)
    save_file(state, path / "model.safetensors")
    with pytest.raises(UnreadableFile, match=r"layers\.0\.self_attn\.lora\.weight is unknown"):
        language.load(path)
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    with pytest.raises(UnreadableFile, match=r"holds no \.safetensors"):
        language.load(path)


def test_pieces_are_read_in_order_with_their_scores(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece(PIECES))
    assert _sentencepiece.pieces(path) == {w: -float(i) for i, w in enumerate(PIECES)}
    for broken in (path.read_bytes()[:-3], b"", b"no message at all", b"\x0a\x7fa"):
        path.write_bytes(broken)
        with pytest.raises(UnreadableFile, match="is no SentencePiece model"):
            _sentencepiece.pieces(path)
    with pytest.raises(UnreadableFile, match=r"neither tokenizer\.model nor tokenizer\.json"):
        _sentencepiece.tokenizer(tmp_path / "empty")


def test_a_folder_is_verified_as_a_whole(folder, tmp_path):
    found: Any = catalogue.models("llava-med", verify=folder)
    assert found["fits"] is False
    assert found["keys"] == 80
    assert len(found["sha256"]) == 64
    assert found["differing"][0] == "model.vision_tower.encoder.layers.3.self_attn.k_proj.weight is missing"
    assert found["more"] > 600
    (tmp_path / "config.json").write_text("{}")
    empty: Any = catalogue.models("llava-med", verify=tmp_path)
    assert empty["verdict"] == "unreadable"
    assert "holds no .safetensors" in empty["sentence"]

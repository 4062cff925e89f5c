"""Networks that answer about pictures: a small one of each kind, saved by transformers, answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import language
from medspectrum.registry import entries

torch = pytest.importorskip("torch")
WORDS = [
    *("<s>", "</s>", "<unk>", "<pad>", "<image>", "<fake_token_around_image>", "\n", ":", "?"),
    *("USER", "ASSISTANT", "Question", "Answer", "what", "is", "it", "a", "lung", "heart"),
]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 3,
}
SEEN = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<fake_token_around_image>"],
    )


def llava():
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SEEN, projection_dim=32),
        text_config=LlamaConfig(**TEXT),
        image_token_index=WORDS.index("<image>"),
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28),
        tokenizer=tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def blip2():
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        OPTConfig,
    )

    asked = {k: v for k, v in SEEN.items() if k not in ("image_size", "patch_size")}
    text = OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=3,
    )
    config = Blip2Config(
        vision_config=SEEN,
        qformer_config={**asked, "encoder_hidden_size": 32, "vocab_size": len(WORDS)},
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=WORDS.index("<image>"),
    )
    shown = BlipImageProcessor(size={"height": 28, "width": 28})
    return Blip2ForConditionalGeneration(config), Blip2Processor(shown, tokenizer(), num_query_tokens=4)


def idefics():
    from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsImageProcessor, IdeficsProcessor

    config = IdeficsConfig(
        **TEXT,
        additional_vocab_size=0,
        cross_layer_interval=1,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={"embed_dim": 32, **{k: v for k, v in SEEN.items() if k != "hidden_size"}},
        perceiver_config={
            "use_resampler": True,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
        },
    )
    return IdeficsForVisionText2Text(config), IdeficsProcessor(
        IdeficsImageProcessor(image_size=28), tokenizer()
    )


@pytest.fixture(scope="module", params=[llava, blip2, idefics], ids=["llava", "blip-2", "idefics"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("language") / "net"
    torch.manual_seed(0)
    network, processor = request.param()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.3 * torch.randn_like(value))
    network.save_pretrained(str(path))
    processor.save_pretrained(str(path))
    return path


def test_a_small_network_of_each_kind_answers(folder):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (3, 40, 50), dtype=np.uint8) for _ in range(4)]
    given = language.load(folder)
    assert given.kind in language.KINDS
    said = [language.answer(given, "what is it ?", pictures=[p], most_tokens=12) for p in pictures]
    assert said == [language.answer(given, "what is it ?", pictures=[p], most_tokens=12) for p in pictures]
    assert all(isinstance(s, str) for s in said)
    assert any(said), "it says nothing at all"
    assert not any("what is it" in s for s in said), "the question is no part of the answer"


def test_folders_that_are_none_are_told_in_a_sentence(folder, tmp_path):
    import shutil

    copy = tmp_path / "net"
    shutil.copytree(folder, copy)
    said = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**said, "model_type": "bert"}))
    with pytest.raises(UnreadableFile, match=r"holds a model of type 'bert'; give one of llava"):
        language.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UnreadableFile, match=r"holds no \.safetensors"):
        language.load(copy)
    with pytest.raises(UnreadableFile, match=r"holds no config\.json"):
        language.load(tmp_path)


def test_a_row_looks_where_its_folder_belongs(tmp_path):
    with pytest.raises(UserError, match=r"llava-1\.5-7b needs its weights \(14,127 MB\).*--fetch"):
        entries("model")["llava-1.5-7b"].thing(cache=tmp_path)

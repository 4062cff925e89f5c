"""Small open-vocabulary detectors with drawn weights, saved as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("cell", "nucleus", "a", "of", "small")


def _saved(kind, config, folder: Path, seed: int, spread: float) -> None:
    """Weights spread widely enough that scores differ."""
    torch.manual_seed(seed)
    network = kind(config)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(spread * torch.randn_like(value))
    network.save_pretrained(str(folder))


def owlvit(folder: Path, seed: int = 4) -> Path:
    """An OWL-ViT of 48 pixels with a tokenizer of single letters."""
    from transformers import (
        CLIPTokenizer,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        OwlViTProcessor,
    )

    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=16)
    side = {"height": 48, "width": 48}
    OwlViTProcessor(OwlViTImageProcessor(size=side, crop_size=side), tokenizer).save_pretrained(str(folder))
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 53, "bos_token_id": 52, "eos_token_id": 53}
    config = OwlViTConfig(
        text_config={**small, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 16},
        vision_config={**small, "image_size": 48, "patch_size": 8},
        projection_dim=32,
    )
    _saved(OwlViTForObjectDetection, config, folder, seed, 0.06)
    return folder


def grounding_dino(folder: Path, seed: int = 1) -> Path:
    """A Grounding DINO of some 100 thousand weights that knows ``WORDS``."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer.from_pretrained(str(folder))
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(str(folder))
    swin = SwinConfig(
        image_size=48,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=3,
        out_features=["stage2", "stage3", "stage4"],
    )
    bert = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        num_queries=12,
        num_feature_levels=4,
        max_text_len=32,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    _saved(GroundingDinoForObjectDetection, config, folder, seed, 0.2)
    return folder

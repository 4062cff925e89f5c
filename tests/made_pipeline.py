"""A tiny latent diffusion model with random weights, written by diffusers itself in its own layout."""

from __future__ import annotations

import json
from pathlib import Path

SIDE = 64


def made_pipeline(folder: Path) -> Path:
    """A folder as StableDiffusionPipeline saves it; its words are single letters."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),  # type: ignore[arg-type]
                down_block_types=("DownEncoderBlock2D",) * 4,  # type: ignore[arg-type]
                up_block_types=("UpDecoderBlock2D",) * 4,  # type: ignore[arg-type]
                latent_channels=4,
                norm_num_groups=4,
                sample_size=SIDE,
            ),
            unet=UNet2DConditionModel(
                sample_size=SIDE // 8,
                layers_per_block=1,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=4,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2, bos_token_id=52, eos_token_id=53, pad_token_id=53,
                )
            ),
            tokenizer=CLIPTokenizer(
                str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
            ),
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),  # type: ignore[arg-type]
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder

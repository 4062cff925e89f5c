"""Segment Anything's own weight files, as Meta and MedSAM publish them, brought to the library's names.

Sizes are read off the keys and shapes, so ViT-B, -L and -H and small networks of the same design are known
without being told. The only size that no shape shows, the decoder's number of heads, is 8 in every published
file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medspectrum.errors import UnreadableFile

HEADS_OF_DECODER = 8
BLOCK_NORM_EPS = 1e-5
"""Of the decoder's blocks: the published network leaves torch's default, the library's own is 1e-6."""

_RENAMED = (
    (r"image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"(layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (
        r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
)
_COMPILED = tuple((re.compile(found), put) for found, put in _RENAMED)
_MLP = re.compile(r"^(.*(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(.*)$")
_SHARED = "prompt_encoder.shared_embedding.positional_embedding"


def configuration(state: Mapping[str, Any], source: object) -> Any:
    """The library's configuration for weights under Meta's names. Raises UnreadableFile for others."""
    from transformers import SamConfig

    try:
        return SamConfig(**_sizes(state))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UnreadableFile(
            source, f"these weights are not of Segment Anything ({missing}); give a SAM checkpoint"
        ) from error


def _sizes(state: Mapping[str, Any]) -> dict[str, Any]:
    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape)

    def count(pattern: str) -> int:
        found = [int(m.group(1)) for k in state if (m := re.match(pattern, k))]
        return max(found) + 1 if found else 0

    width, channels, patch, _ = shape("image_encoder.patch_embed.proj.weight")
    grid = shape("image_encoder.pos_embed")[1]
    depth = count(r"image_encoder\.blocks\.(\d+)\.")
    reach = [shape(f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    everywhere = [i for i, (n, _) in enumerate(reach) if n == 2 * grid - 1]
    windows = {(n + 1) // 2 for n, _ in reach if n != 2 * grid - 1}
    if len(windows) > 1:
        raise ValueError(f"windows of {sorted(windows)} places")
    out = shape("image_encoder.neck.0.weight")[0]
    attention = "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
    head = "mask_decoder.iou_prediction_head.layers"
    vision = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": grid * patch,
        "num_hidden_layers": depth,
        "num_attention_heads": width // reach[0][1],
        "global_attn_indexes": everywhere,
        "window_size": windows.pop() if windows else 0,
        "output_channels": out,
        "mlp_dim": shape("image_encoder.blocks.0.mlp.lin1.weight")[0],
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in state,
        "num_pos_feats": shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1],
    }
    prompt = {
        "hidden_size": out,
        "image_size": grid * patch,
        "patch_size": patch,
        "mask_input_channels": shape("prompt_encoder.mask_downscaling.3.weight")[0],
        "num_point_embeddings": count(r"prompt_encoder\.point_embeddings\.(\d+)\."),
    }
    decoder = {
        "hidden_size": out,
        "mlp_dim": shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        "num_hidden_layers": count(r"mask_decoder\.transformer\.layers\.(\d+)\."),
        "num_attention_heads": HEADS_OF_DECODER,
        "attention_downsample_rate": out // shape(attention)[0],
        "num_multimask_outputs": shape("mask_decoder.mask_tokens.weight")[0] - 1,
        "iou_head_depth": count(re.escape(head) + r"\.(\d+)\."),
        "iou_head_hidden_dim": shape(f"{head}.0.weight")[0],
        "layer_norm_eps": BLOCK_NORM_EPS,
    }
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors, float32, under the library's names."""
    last = {
        m.group(1): max(int(n.group(2)) for k in state if (n := _MLP.match(k)) and n.group(1) == m.group(1))
        for m in map(_MLP.match, state)
        if m
    }
    found = {}
    for name, tensor in state.items():
        mlp = _MLP.match(name)
        if mlp:
            stem, place, rest = mlp.group(1), int(mlp.group(2)), mlp.group(3)
            layer = {0: "proj_in", last[stem]: "proj_out"}.get(place, f"layers.{place - 1}")
            name = f"{stem}.{layer}.{rest}"
        for pattern, put in _COMPILED:
            name = pattern.sub(put, name)
        found[name] = tensor.float()
    if "shared_image_embedding.positional_embedding" in found:
        found[_SHARED] = found["shared_image_embedding.positional_embedding"]
    return found

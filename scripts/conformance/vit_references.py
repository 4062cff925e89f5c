"""Make tests/data/published of the plain transformers: MAE, RETFound and DINOv2, by their own code.

    python scripts/conformance/vit_references.py MAE RETFOUND DINOV2

Each is a checkout: github.com/facebookresearch/mae (efb2a80), rmaphoh/RETFound_MAE (897d71c) and
facebookresearch/dinov2 (b8931f7). The first two were written for timm 0.3.2: what it no longer takes
(``qk_scale``) is left out, and ``np.float`` is given back.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import _keep
import numpy as np
import timm.models.vision_transformer as transformer
import torch

NORM = partial(torch.nn.LayerNorm, eps=1e-6)
MAE_SIZES = {"mae-vit-b": (768, 12, 12, 16), "mae-vit-l": (1024, 24, 16, 16), "mae-vit-h": (1280, 32, 16, 14)}


def main() -> None:
    """Write all rows."""
    mae, retfound, dinov2 = sys.argv[1:4]
    vars(np)["float"] = float
    own = transformer.Block
    transformer.Block = lambda *a, qk_scale=None, **k: own(*a, **k)  # noqa: ARG005
    sys.path.insert(0, mae)
    autoencoder, encoder = (importlib.import_module(n) for n in ("models_mae", "models_vit"))
    transformer.Block = own
    for row, (width, depth, heads, patch) in MAE_SIZES.items():
        state = encoding(small_autoencoder(autoencoder, 2 * patch, patch))
        asked(row, encoder, state, patch, "github.com/facebookresearch/mae efb2a80, models_vit.py")
        _keep.shapes(
            row,
            encoding(masked(autoencoder, width, depth, heads, patch)),
            listed_from="models_mae.py at the published size: its encoder, which the published file holds",
        )
        torch.save({"model": halves(state)}, _keep.folder(row) / "small.pth")
    sys.path.insert(0, retfound)
    del sys.modules["models_vit"]
    encoder = importlib.import_module("models_vit")
    assert Path(encoder.__file__).parent == Path(retfound)
    for seed, row in enumerate(("retfound-cfp", "retfound-oct"), start=3):
        state = small_autoencoder(autoencoder, 32, 16, seed)
        asked(row, encoder, state, 16, "github.com/rmaphoh/RETFound_MAE 897d71c, models_vit.py")
        _keep.shapes(
            row,
            masked(autoencoder, 1024, 24, 16, 16),
            listed_from="facebookresearch/mae models_mae.py, mae_vit_large_patch16, which trained the file",
        )
        args = Namespace(lr=1.5e-4, model="mae_vit_large_patch16")
        torch.save({"model": halves(state), "epoch": 799, "args": args}, _keep.folder(row) / "small.pth")
    self_distilled(dinov2)


def encoding(state: dict) -> dict:
    """What a file holds that was published without its decoder."""
    return {k: v for k, v in state.items() if "decoder" not in k and k != "mask_token"}


def halves(state: dict) -> dict:
    """The same values, which half precision holds exactly."""
    return {k: v.half() for k, v in state.items()}


def masked(autoencoder, width: int, depth: int, heads: int, patch: int) -> dict:
    """The tensors of a whole masked autoencoder; its blocks are built once, without memory."""
    network = autoencoder.MaskedAutoencoderViT(
        patch_size=patch, embed_dim=width, depth=0, num_heads=heads, norm_layer=NORM
    )
    found = dict(network.state_dict())
    with torch.device("meta"):
        block = transformer.Block(width, heads, 4, qkv_bias=True, norm_layer=NORM)
    for place in range(depth):
        found |= {f"blocks.{place}.{k}": v for k, v in block.state_dict().items()}
    return found


def small_autoencoder(autoencoder, side: int, patch: int, seed: int = 0) -> dict:
    """The state of a small masked autoencoder."""
    torch.manual_seed(seed)
    network = autoencoder.MaskedAutoencoderViT(
        img_size=side,
        patch_size=patch,
        embed_dim=32,
        depth=2,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        norm_layer=NORM,
    )
    _keep.stirred(network, seed)
    return network.state_dict()


def asked(row: str, encoder, state: dict, patch: int, original: str) -> None:
    """The class token that the original encoder gives a picture."""
    side = 2 * patch
    network = encoder.VisionTransformer(
        img_size=side,
        patch_size=patch,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=NORM,
        num_classes=0,
    ).eval()
    told = network.load_state_dict(state, strict=False)
    assert not told.missing_keys, told.missing_keys
    pictures = torch.randn(1, 3, side, side)
    with torch.no_grad():
        found = {"pooled": network.forward_features(pictures)}
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": side}
    _keep.answers(row, {"pictures": pictures}, found, original=original, settings=settings)


def self_distilled(checkout: str) -> None:
    """DINOv2, of four sizes, with and without registers."""
    sys.path.insert(0, checkout)
    models = importlib.import_module("dinov2.models.vision_transformer")
    sizes = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant2"}
    for seed, (size, word) in enumerate(sizes.items()):
        for registers in (0, 4):
            how = {
                "patch_size": 14,
                "init_values": 1.0,
                "block_chunks": 0,
                "num_register_tokens": registers,
                "ffn_layer": "swiglufused" if size == "vitg" else "mlp",
            }
            torch.manual_seed(seed)
            network = models.DinoVisionTransformer(img_size=28, embed_dim=48, depth=2, num_heads=2, **how)
            _keep.stirred(network, seed)
            pictures = torch.randn(1, 3, 28, 28)
            with torch.no_grad():
                found = network.eval().forward_features(pictures)
            tokens = [found[f"x_norm_{k}"] for k in ("regtokens", "patchtokens")]
            answers = {
                "pooled": found["x_norm_clstoken"],
                "tokens": torch.cat([found["x_norm_clstoken"][:, None], *tokens], dim=1),
            }
            row = f"dinov2-{size}14" + ("-reg4" if registers else "")
            _keep.answers(
                row,
                {"pictures": pictures},
                answers,
                original="github.com/facebookresearch/dinov2 b8931f7, dinov2/models/vision_transformer.py",
                settings={"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 28},
            )
            with torch.device("meta"):
                whole = getattr(models, f"vit_{word}")(img_size=518, **how)
            _keep.shapes(row, whole.state_dict(), listed_from="the sizes of dinov2/hub/backbones.py")
            torch.save(halves(network.state_dict()), _keep.folder(row) / "small.pth")


if __name__ == "__main__":
    main()

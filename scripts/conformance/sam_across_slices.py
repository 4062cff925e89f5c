"""Make tests/data/sam_across_slices.npz: what the originals of MA-SAM and 3DSAM-adapter compute, small.

    python scripts/conformance/sam_across_slices.py MA_SAM ADAPTER

MA_SAM is a checkout of github.com/cchen-cc/MA-SAM (commit 0c3cd90 was used), ADAPTER one of
github.com/med-air/3DSAM-adapter (commit f4fb8f3). MA-SAM's encoder is its own, around the image encoder of
tests/data/sam_tiny.pth, with adapters of 6 channels instead of 384; of 3DSAM-adapter it is the adapter alone.
Kept are the weights that these add, inputs and outputs. Needs icecream, as MA-SAM does.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _keep import stirred

DATA = Path(__file__).parents[2] / "tests" / "data"
RANK, MIDDLE, SLICES = 3, 6, 3


def main() -> None:
    """Write the file."""
    sys.path.insert(0, str(Path(sys.argv[1]) / "MA-SAM"))
    made = ma_sam() | adapter(Path(sys.argv[2]))
    np.savez_compressed(DATA / "sam_across_slices.npz", **made)


def ma_sam() -> dict[str, np.ndarray]:
    """Its encoder on two stacks of slices."""
    from sam_fact_tt_image_encoder import Fact_tt_Sam
    from segment_anything.modeling import ImageEncoderViT

    encoder = ImageEncoderViT(
        depth=2,
        embed_dim=32,
        img_size=64,
        mlp_ratio=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=2,
        patch_size=8,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[1],
        window_size=5,
        out_chans=32,
    )
    for block in encoder.blocks:
        block.adapter_channels = MIDDLE
        for end in ("", "_2"):
            setattr(block, f"adapter_linear_down{end}", torch.nn.Linear(32, MIDDLE, bias=False))
            setattr(block, f"adapter_linear_up{end}", torch.nn.Linear(MIDDLE, 32, bias=False))
            conv = torch.nn.Conv3d(MIDDLE, MIDDLE, (3, 1, 1), padding="same")
            setattr(block, f"adapter_conv{end}", conv)
    holder = torch.nn.Module()
    holder.image_encoder = encoder
    torch.manual_seed(0)
    whole = Fact_tt_Sam(holder, RANK).eval()
    stirred(whole, 0, spread=0.2)
    known = torch.load(DATA / "sam_tiny.pth")
    mine = whole.sam.image_encoder.state_dict()
    # where the original's wrapping put the parts of the published encoder
    plain = {
        name: name.replace("ImageEncoderViT.", "").replace("Block.", "").replace("Attention.", "")
        .replace("qkv.qkv.", "qkv.")
        for name in mine
    }  # fmt: skip
    for name, tensor in mine.items():
        if f"image_encoder.{plain[name]}" in known:
            tensor.copy_(known[f"image_encoder.{plain[name]}"].float())
    added = {n: t for n, t in mine.items() if f"image_encoder.{plain[n]}" not in known}
    seen = torch.randn(2 * SLICES, 3, 64, 64)
    with torch.no_grad():
        answer = whole.sam.image_encoder(seen, SLICES)
    kept = {f"ma_sam/{plain[n]}": t.numpy() for n, t in added.items()}
    return kept | {"ma_sam_input": seen.numpy(), "ma_sam_output": answer.numpy()}


def adapter(checkout: Path) -> dict[str, np.ndarray]:
    """The adapter, on a volume of (height, width, depth)."""
    place = checkout / "3DSAM-adapter" / "modeling" / "image_encoder.py"
    spec = importlib.util.spec_from_file_location("image_encoder_3d", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    one = module.Adapter(8, 4).eval()
    stirred(one, 1, spread=0.2)
    seen = torch.randn(2, 5, 6, 4, 8)
    with torch.no_grad():
        answer = one(seen)
    kept = {f"adapter/{n}": t.numpy() for n, t in one.state_dict().items()}
    return kept | {"adapter_input": seen.numpy(), "adapter_output": answer.numpy()}


if __name__ == "__main__":
    main()

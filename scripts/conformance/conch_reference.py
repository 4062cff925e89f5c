"""Make tests/data/published/conch by its makers' own code.

    python scripts/conformance/conch_reference.py CHECKOUT

CHECKOUT is a checkout of github.com/mahmoodlab/CONCH (commit 141cc09). Its ``timm.models.layers`` is today's
``timm.layers``. The whole network, text half and decoder too, is built, so that the names are all there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import _keep
import timm.layers
import torch

SMALL_VISION = {
    "image_size": 32,
    "patch_size": 16,
    "width": 32,
    "layers": 2,
    "num_heads": 2,
    "attentional_pool_caption": True,
    "attentional_pool_contrast": True,
    "n_queries_contrast": 1,
    "n_queries_caption": 4,
    "output_tokens": True,
}
SMALL_TEXT = {
    "context_length": 8,
    "vocab_size": 20,
    "width": 16,
    "heads": 2,
    "layers": 1,
    "embed_cls": True,
    "output_tokens": True,
}


def main() -> None:
    """Write the row."""
    checkout = Path(sys.argv[1])
    sys.modules.setdefault("timm.models.layers", timm.layers)
    sys.path.insert(0, str(checkout))
    from conch.open_clip_custom.coca_model import CoCa

    torch.manual_seed(4)
    read = {k: v for k, v in SMALL_TEXT.items() if k not in ("embed_cls", "output_tokens")}
    network = CoCa(
        embed_dim=16, embed_dim_caption=16, vision_cfg=SMALL_VISION, text_cfg=SMALL_TEXT, multimodal_cfg=read
    )
    _keep.stirred(network, 4, spread=0.05)
    network.eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = {
            "pooled": network.encode_image(pictures, normalize=False, proj_contrast=False),
            "projected": network.encode_image(pictures, normalize=False, proj_contrast=True),
        }
    settings = {"width": 32, "depth": 2, "heads": 2, "side": 32, "embed": 16, "asking": 8}
    original = "github.com/mahmoodlab/CONCH 141cc09, conch/open_clip_custom/coca_model.py"
    _keep.answers("conch", {"pictures": pictures}, found, original=original, settings=settings)
    torch.save({k: v.half() for k, v in network.state_dict().items()}, _keep.folder("conch") / "small.bin")
    told = json.loads((checkout / "conch/open_clip_custom/model_configs/conch_ViT-B-16.json").read_text())
    told.pop("custom_text")
    with torch.device("meta"):
        whole = CoCa(**told)
    _keep.shapes("conch", whole.state_dict(), listed_from="model_configs/conch_ViT-B-16.json")


if __name__ == "__main__":
    main()

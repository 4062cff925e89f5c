"""Make tests/data/published/rad-dino by the transformers library, for which its makers published it.

    python scripts/conformance/rad_dino_reference.py

transformers 5.24.0 was used; it saves the names that published DINOv2 files have.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import _keep
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, __version__


def main() -> None:
    """Write the row."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **sizes)).eval()
    _keep.stirred(network, 6)
    pictures = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        tokens = network(pixel_values=pictures).last_hidden_state
    _keep.answers(
        "rad-dino",
        {"pictures": pictures},
        {"pooled": tokens[:, 0], "tokens": tokens},
        original=f"transformers {__version__}, Dinov2Model",
        settings={"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 28},
    )
    folder = Path(tempfile.mkdtemp())
    network.save_pretrained(str(folder))
    state = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in state.items()}, _keep.folder("rad-dino") / "small.safetensors")
    one = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, num_hidden_layers=1))
    one.save_pretrained(str(folder))
    state = load_file(folder / "model.safetensors")
    block = {k: v for k, v in state.items() if ".layer.0." in k}
    for place in range(1, 12):
        state |= {k.replace(".layer.0.", f".layer.{place}."): v for k, v in block.items()}
    _keep.shapes(
        "rad-dino", state, listed_from="Dinov2Model of its config.json (DINOv2-B at 518), twelve equal layers"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Make tests/data/published/radfm: what RadFM's own eye answers with a small network.

    python scripts/conformance/radfm.py CHECKOUT

CHECKOUT is a checkout of github.com/chaoyi-wu/RadFM (commit 9efba84 was used; it needs einops, einops-exts).
Its eye is part of an embedding layer that fetches a BERT and holds a LLaMA's words; the parts that look at
volumes are built here as that layer builds them, and saved with the names and in the way that the published
pytorch_model.bin has, beside a few tensors of the language part, which are to be left out.
"""

from __future__ import annotations

import sys

import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "chaoyi-wu/RadFM, commit 9efba84 (Quick_demo)"
ROW = "radfm"
PUBLISHED = {"patch": 32, "frame_patch": 4, "width": 768, "depth": 12, "heads": 8, "inside": 2048}
PUBLISHED |= {"image_size": 512, "frames": 512, "head_width": 64, "perceiver_depth": 6, "latents": 32}
PUBLISHED |= {"words": 5120}
SMALL = {"patch": 4, "frame_patch": 2, "width": 12, "depth": 2, "heads": 2, "inside": 20}
SMALL |= {"image_size": 32, "frames": 16, "head_width": 5, "perceiver_depth": 1, "latents": 3, "words": 7}


def eye(size: dict):
    """The embedding layer's parts that look at volumes, as it names them."""
    from Model.RadFM.helpers import PerceiverResampler
    from Model.RadFM.vit_3d import ViT

    made = torch.nn.Module()
    made.vision_encoder = ViT(
        image_size=size["image_size"],
        frames=size["frames"],
        image_patch_size=size["patch"],
        frame_patch_size=size["frame_patch"],
        dim=size["width"],
        depth=size["depth"],
        heads=size["heads"],
        mlp_dim=size["inside"],
        dim_head=size["head_width"],
        dropout=0.1,
        emb_dropout=0.1,
    )
    made.perceiver = PerceiverResampler(
        dim=size["width"], depth=size["perceiver_depth"], num_latents=size["latents"]
    )
    made.fc = torch.nn.Linear(size["width"], size["words"])
    return made.eval()


def looked(made, volume):
    """Patches, vectors and words of volumes (1, 3, H, W, D), through the layer's own steps."""
    patches, _ = made.vision_encoder(volume)
    vectors = made.perceiver(patches[:, None, None])[:, 0]
    return {"patches": patches, "vectors": vectors, "words": made.fc(vectors)}


def main() -> None:
    """Write all files."""
    sys.path.insert(0, f"{sys.argv[1]}/Quick_demo")
    torch.manual_seed(5)
    network = eye(SMALL)
    stirred(network, 5)
    given = {"whole": torch.rand(1, 3, 32, 32, 16), "part": torch.rand(2, 3, 20, 12, 6)}
    with torch.no_grad():
        found = {f"{k}_{n}": v for k, x in given.items() for n, v in looked(network, x).items()}
    answers(ROW, given, found, original=ORIGINAL, settings=SMALL)
    state = {f"embedding_layer.{k}": v for k, v in network.state_dict().items()}
    state["embedding_layer.weight"] = torch.randn(5, SMALL["words"])
    state["embedding_layer.bert_projection_fc.bias"] = torch.randn(3)
    state["lang_model.model.norm.weight"] = torch.randn(SMALL["words"])
    torch.save(state, folder(ROW) / "small.bin")

    with torch.device("meta"):
        whole = eye(PUBLISHED)
    named = {f"embedding_layer.{k}": v for k, v in whole.state_dict().items()}
    said = f"{ORIGINAL}, vision encoder, perceiver and last linear map at the sizes that MyEmbedding gives"
    shapes(ROW, named, listed_from=said)


if __name__ == "__main__":
    main()

"""Make tests/data/published/hipt-*: what the original HIPT answers with small networks of both levels.

    python scripts/conformance/hipt.py CHECKOUT

CHECKOUT is a checkout of github.com/mahmoodlab/HIPT (commit 780fafa was used). Checkpoints hold what its
training script saves: student and teacher with their heads, and the settings. The answer of both levels
together comes from methods of its HIPT_4K class, in whose source 384 is made the small network's width.
"""

from __future__ import annotations

import argparse
import ast
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "mahmoodlab/HIPT, commit 780fafa"
WIDTHS = {"hipt-vit256": (24, 3, 2), "hipt-4k": (12, 2, 2)}  # width, depth, heads


def main() -> None:
    """Write all files."""
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout / "HIPT_4K"))
    import vision_transformer as vits
    import vision_transformer4k as vits4k

    wrapped = _class(checkout / "1-Hierarchical-Pretraining" / "utils.py", "MultiCropWrapper")
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    made = {}
    for row, (width, depth, heads) in WIDTHS.items():
        common = {"depth": depth, "num_heads": heads, "qkv_bias": True, "norm_layer": norm}
        torch.manual_seed(7)
        if row == "hipt-vit256":
            network = vits.VisionTransformer(embed_dim=width, patch_size=16, **common)
            given = torch.randn(2, 3, 64, 80)
        else:
            network = vits4k.VisionTransformer4K(input_embed_dim=24, output_embed_dim=width, **common)
            given = torch.randn(2, 24, 3, 5)
        network.eval()
        stirred(network, 3)
        made[row] = network
        with torch.no_grad():
            found = {"answer": network(given), "states": network.get_intermediate_layers(given, n=1)[0]}
        settings = {"width": width, "depth": depth, "heads": heads}
        if row != "hipt-vit256":
            settings["inside"] = 24
        answers(row, {"images": given}, found, original=ORIGINAL, settings=settings)
        teacher = wrapped(network, vits.DINOHead(width, 8, hidden_dim=8, bottleneck_dim=4))
        teacher = {k: v.half() for k, v in teacher.state_dict().items()}
        student = {k: v[:1] for k, v in teacher.items()}
        kept = {
            "student": student,
            "teacher": teacher,
            "epoch": 1,
            "args": argparse.Namespace(arch="vit_small"),
        }
        torch.save(kept, folder(row) / "small.pth")

    region = torch.randn(1, 3, 520, 800)
    both = _methods(checkout / "HIPT_4K" / "hipt_4k.py", ("forward", "prepare_img_tensor"))
    cpu = torch.device("cpu")
    whole = types.SimpleNamespace(
        model256=made["hipt-vit256"], model4k=made["hipt-4k"], device256=cpu, device4k=cpu
    )
    whole.prepare_img_tensor = partial(both["prepare_img_tensor"], whole)
    coarse = torch.nn.functional.interpolate(region[..., ::40, ::40].half().float(), region.shape[2:])
    with torch.no_grad():
        found = both["forward"](whole, coarse)
    kept = {"coarse": region[..., ::40, ::40].half().numpy(), "answer": found.numpy()}
    np.savez_compressed(folder("hipt-4k") / "two_levels.npz", **kept)

    for row, build, width in (
        ("hipt-vit256", vits.vit_small, 384),
        ("hipt-4k", vits4k.vit4k_xs, 192),
    ):
        state = wrapped(build(), vits.DINOHead(width, 65536)).state_dict()
        said = f"{ORIGINAL}, the teacher of its training script, built with the published settings"
        shapes(row, state, listed_from=said)


def _class(path: Path, name: str):
    """One class of a file whose other parts need what is not at hand."""
    (found,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef) and n.name == name)
    space = {"torch": torch, "nn": torch.nn}
    exec(compile(ast.Module([found], []), path, "exec"), space)  # noqa: S102 - the checkout that was named
    return space[name]


def _methods(path: Path, names: tuple[str, ...]) -> dict:
    """Methods of HIPT_4K as functions."""
    from einops import rearrange
    from torchvision import transforms

    tree = ast.parse(path.read_text().replace("384", "24"))
    (owner,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "HIPT_4K")
    found = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name in names]
    space = {"torch": torch, "rearrange": rearrange, "transforms": transforms}
    exec(compile(ast.Module(found, []), path, "exec"), space)  # noqa: S102 - the checkout that was named
    return space


if __name__ == "__main__":
    main()

"""Make tests/data/published/endo-fm: what the original Endo-FM answers with a small network.

    python scripts/conformance/endo_fm.py CHECKOUT

CHECKOUT is a checkout of github.com/med-air/Endo-FM (commit 206427e was used; it needs einops). The
checkpoint holds what its training script saves; videos of the trained and of another size are shown.
"""

from __future__ import annotations

import argparse
import ast
import sys
from functools import partial
from pathlib import Path

import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "med-air/Endo-FM, commit 206427e"
ROW = "endo-fm"


def main() -> None:
    """Write all files."""
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    from models.timesformer import VisionTransformer
    from vision_transformer import DINOHead

    (found,) = (
        n
        for n in ast.parse((checkout / "utils" / "utils.py").read_text()).body
        if isinstance(n, ast.ClassDef) and n.name == "MultiCropWrapper"
    )
    space = {"torch": torch, "nn": torch.nn}
    exec(compile(ast.Module([found], []), "utils.py", "exec"), space)  # noqa: S102 - the checkout that was named
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    common = {"patch_size": 16, "mlp_ratio": 4, "qkv_bias": True, "norm_layer": norm, "num_frames": 8}
    torch.manual_seed(2)
    network = VisionTransformer(
        img_size=32, embed_dim=24, depth=3, num_heads=2, num_classes=5, **common
    ).eval()
    network.head = None  # as get_vit_base_patch16_224(no_head=True) leaves it
    stirred(network, 2)
    video, other = torch.randn(1, 3, 8, 32, 32), torch.randn(1, 3, 5, 32, 48)
    with torch.no_grad():
        made = {"own_size": network.forward_features(video, get_all=True)}
        made |= {"pooled": network(video), "other_size": network.forward_features(other, get_all=True)}
    settings = {"width": 24, "depth": 3, "heads": 2, "side": 2, "frames": 8}
    answers(ROW, {"video": video, "other": other}, made, original=ORIGINAL, settings=settings)
    wrapped = space["MultiCropWrapper"](network, DINOHead(24, 8, hidden_dim=8, bottleneck_dim=4))
    teacher = {k: v.half() for k, v in wrapped.state_dict().items()}
    kept = {"student": {k: v[:1] for k, v in teacher.items()}, "teacher": teacher, "motion_teacher": 0}
    kept |= {"epoch": 1, "args": argparse.Namespace(arch="timesformer")}
    torch.save(kept, folder(ROW) / "small.pth")

    whole = VisionTransformer(img_size=224, embed_dim=768, depth=12, num_heads=12, num_classes=400, **common)
    whole.head = None
    state = space["MultiCropWrapper"](whole, DINOHead(768, 65536)).state_dict()
    said = f"{ORIGINAL}, the teacher of its training script, built with the published settings"
    shapes(ROW, state, listed_from=said)


if __name__ == "__main__":
    main()

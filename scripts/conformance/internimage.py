"""Make tests/data/published/internimage-*: what the original InternImage answers with small networks.

    python scripts/conformance/internimage.py CHECKOUT

CHECKOUT is a checkout of github.com/OpenGVLab/InternImage (commit 31c962d was used). Its core is the one in
plain PyTorch, brought to check the compiled operator against; the module of that operator is left empty.
Of the head of the two largest sizes the widths, which are numbers in the source, are made smaller.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "OpenGVLab/InternImage, commit 31c962d"
H = {"dw_kernel_size": 5, "use_clip_projector": True, "level2_post_norm": True, "center_feature_scale": True}
SIZES = {
    "t": {"channels": 64, "depths": [4, 4, 18, 4], "groups": [4, 8, 16, 32]},
    "s": {
        "channels": 80,
        "depths": [4, 4, 21, 4],
        "groups": [5, 10, 20, 40],
        "layer_scale": 1e-5,
        "post_norm": True,
    },
    "b": {
        "channels": 112,
        "depths": [4, 4, 21, 4],
        "groups": [7, 14, 28, 56],
        "layer_scale": 1e-5,
        "post_norm": True,
    },
    "l": {
        "channels": 160,
        "depths": [5, 5, 22, 5],
        "groups": [10, 20, 40, 80],
        "layer_scale": 1e-5,
        "offset_scale": 2.0,
        "post_norm": True,
    },
    "xl": {
        "channels": 192,
        "depths": [5, 5, 24, 5],
        "groups": [12, 24, 48, 96],
        "layer_scale": 1e-5,
        "offset_scale": 2.0,
        "post_norm": True,
    },
    "h": {
        "channels": 320,
        "depths": [6, 6, 32, 6],
        "groups": [10, 20, 40, 80],
        "res_post_norm": True,
        "level2_post_norm_block_ids": [5, 11, 17, 23, 29],
        **H,
    },
    "g": {
        "channels": 512,
        "depths": [2, 2, 48, 4],
        "groups": [16, 32, 64, 128],
        "post_norm": True,
        "level2_post_norm_block_ids": [5, 11, 17, 23, 29, 35, 41, 47],
        **H,
    },
}
"""The published settings, of the files under classification/configs."""
RENAMED = {
    "dw_kernel_size": "depthwise",
    "center_feature_scale": "center_scale",
    "level2_post_norm_block_ids": "post_norm_after",
}


def main() -> None:
    """Write all files."""
    checkout = Path(sys.argv[1]) / "classification"
    sys.path.insert(0, str(checkout))
    sys.modules["DCNv3"] = types.ModuleType("DCNv3")
    packages = types.ModuleType("pkg_resources")
    packages.get_distribution = lambda _: types.SimpleNamespace(version="1.0")
    sys.modules["pkg_resources"] = packages
    text = (checkout / "models" / "intern_image.py").read_text()
    text = text.replace("timm.models.layers", "timm.layers").replace("x.item() for x in", "float(x) for x in")
    text = text.replace("torch.linspace(0, drop_path_rate, sum(depths))", "[0.0] * sum(depths)")
    original, small = types.ModuleType("original"), types.ModuleType("small")
    exec(text, original.__dict__)  # noqa: S102 - the checkout that was named
    exec(text.replace("1024, 2, 16, 768", "16, 2, 4, 12"), small.__dict__)  # noqa: S102
    picture = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    for place, (size, published) in enumerate(SIZES.items()):
        row = f"internimage-{size}"
        narrow = {"channels": 8, "depths": [1, 1, 2, 1], "groups": [1, 2, 2, 4], "num_classes": 5}
        if "level2_post_norm_block_ids" in published:
            narrow["level2_post_norm_block_ids"] = [1]
        torch.manual_seed(place)
        settings = {**published, **narrow}
        network = small.InternImage(core_op="DCNv3_pytorch", **settings).eval()
        stirred(network, place)
        torch.save(
            {"model": {k: v.half() for k, v in network.state_dict().items()}}, folder(row) / "small.pth"
        )
        with torch.no_grad():
            maps = network.forward_features_seq_out(picture)
            clip = settings.get("use_clip_projector")
            pooled = network.forward_clip_projector(picture) if clip else network.forward_features(picture)
            found = {"logits": network(picture), "pooled": pooled}
        found |= {f"map{i}": m.permute(0, 3, 1, 2) for i, m in enumerate(maps) if i in (1, 3)}
        ours = {RENAMED.get(k, k): v for k, v in settings.items() if k != "level2_post_norm"}
        ours["classes"] = ours.pop("num_classes")
        ours["layer_scale"] = ours.get("layer_scale") is not None
        if ours.pop("use_clip_projector", False):
            ours["clip"] = [16, 4, 12]
        answers(row, {"picture": picture}, found, original=ORIGINAL, settings=ours)
        with torch.device("meta"):
            whole = original.InternImage(core_op="DCNv3_pytorch", **published)
        said = f"{ORIGINAL}, built with the settings of its classification/configs"
        shapes(row, whole.state_dict(), listed_from=said)


if __name__ == "__main__":
    main()

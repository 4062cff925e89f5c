"""Make tests/data/published/med3d-*: what the original Med3D networks answer, made narrow.

    python scripts/conformance/med3d.py CHECKOUT

CHECKOUT is a checkout of github.com/Tencent/MedicalNet (commit 20f76aa was used). Its widths are numbers in
its source; for the small networks they are divided by sixteen there, and nothing else is changed. Answers are
of the trunk, the part that was published (the published files have the sizes of the trunk's tensors).
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "Tencent/MedicalNet, commit 20f76aa"
SHORTCUTS = {10: "B", 18: "A", 34: "A", 50: "B", 101: "B", 152: "B", 200: "B"}
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (2, 2, 2, 2), 50: (1, 2, 2, 1)}
"""Of the small networks; those above 50 differ from it in their numbers of blocks alone."""


def main() -> None:
    """Write all files."""
    path = Path(sys.argv[1]) / "models" / "resnet.py"
    text = path.read_text()
    narrow = re.sub(r"\b(64|128|256|512)\b", lambda m: str(int(m[1]) // 16), text)
    original, small = loaded(text, path), loaded(narrow, path)
    volume = torch.randn(1, 1, 20, 24, 28, generator=torch.Generator().manual_seed(4))
    common = {"sample_input_D": 20, "sample_input_H": 24, "sample_input_W": 28, "num_seg_classes": 2}
    for depth, shortcut in SHORTCUTS.items():
        row = f"med3d-resnet{depth}"
        blocks = BLOCKS.get(depth, (1, 2, 3, 1))
        settings = {
            "blocks": blocks,
            "bottleneck": depth >= 50,
            "projected": shortcut == "B",
            "width": 4,
        }
        block = small.Bottleneck if depth >= 50 else small.BasicBlock
        torch.manual_seed(depth)
        network = small.ResNet(block, list(blocks), shortcut_type=shortcut, no_cuda=True, **common).eval()
        stirred(network, depth)
        network.conv_seg = torch.nn.Identity()
        kept = torch.nn.DataParallel(network).half()
        torch.save({"state_dict": kept.state_dict()}, folder(row) / "small.pth")
        network.float()
        with torch.no_grad():
            last = network(volume)
        found = {"tokens": last, "pooled": last.mean(dim=(2, 3, 4))}
        answers(row, {"volume": volume}, found, original=ORIGINAL, settings=settings)

        build = getattr(original, f"resnet{depth}")
        with torch.device("meta"):
            whole = build(shortcut_type=shortcut, no_cuda=True, **common)
        state = {k: v for k, v in whole.state_dict().items() if not k.startswith("conv_seg.")}
        said = (
            f"{ORIGINAL}, built at its full size without the decoder, as its published files are, whose names"
        )
        said += " begin with the module. of parallel training"
        shapes(row, state, listed_from=said)


def loaded(text: str, path: Path) -> types.ModuleType:
    """The original's source as a module, with the name that torch has given its initialiser since."""
    made = types.ModuleType("resnet")
    text = text.replace("nn.init.kaiming_normal(", "nn.init.kaiming_normal_(")
    exec(compile(text, path, "exec"), made.__dict__)  # noqa: S102 - the checkout that was named
    return made


if __name__ == "__main__":
    main()

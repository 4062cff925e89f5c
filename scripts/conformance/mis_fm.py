"""Make tests/data/published/mis-fm-pctnet: what the original PCT-Net answers with a small network.

    python scripts/conformance/mis_fm.py CHECKOUT

CHECKOUT is a checkout of github.com/openmedlab/MIS-FM (commit 1506d65 was used; it needs einops). Compared is
what enters the last convolutions, which a fine-tuned network has for labels of its own. The file is written
as PyMIC, with which it was trained, writes checkpoints.
"""

from __future__ import annotations

import sys

import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "openmedlab/MIS-FM, commit 1506d65"
ROW = "mis-fm-pctnet"
DEMO = {"in_chns": 1, "class_num": 2, "input_size": [64, 128, 128], "feature_chns": [24, 48, 128, 256, 512]}
DEMO |= {"resolution_mode": 1}
"""Of demo/pctnet_pretrain.cfg, with which the published file is tuned."""


def main() -> None:
    """Write all files."""
    sys.path.insert(0, sys.argv[1])
    from net.pct_net import PCTNet

    torch.manual_seed(3)
    small = {
        "in_chns": 1,
        "class_num": 3,
        "input_size": [16, 32, 32],
        "feature_chns": [1, 2, 4, 4, 8],
        "num_heads": [1, 2, 2],
        "window_sizes": [3, 2, 2],
        "resolution_mode": 1,
        "multiscale_pred": True,
    }
    network = PCTNet(small).eval()
    stirred(network, 3)
    seen = {}
    head = network.pred_heads[1]
    head.out_conv0.register_forward_pre_hook(lambda _, given: seen.update(decoded=given[0]))
    pyramid = network.pyramid_ct
    for place in (2, 4):
        block = getattr(pyramid, f"convtrans_e{place}")
        block.register_forward_hook(lambda _, __, made, place=place: seen.update({f"scale{place}": made}))
    volume = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        network(volume)
    settings = {
        "channels": small["feature_chns"],
        "size": small["input_size"],
        "heads": small["num_heads"],
        "windows": small["window_sizes"],
    }
    answers(ROW, {"volume": volume}, seen, original=ORIGINAL, settings=settings)
    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    kept = {"iteration": 1, "valid_pred": 0.5, "model_state_dict": state, "optimizer_state_dict": {}}
    torch.save(kept, folder(ROW) / "small.pt")

    whole = PCTNet(DEMO)
    said = f"{ORIGINAL}, built with demo/pctnet_pretrain.cfg, whose number of labels may not be the file's"
    shapes(ROW, whole.state_dict(), listed_from=said)


if __name__ == "__main__":
    main()

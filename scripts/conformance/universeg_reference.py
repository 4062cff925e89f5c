"""Make tests/data/universeg_*: what the original UniverSeg code answers with a small network.

    python scripts/conformance/universeg_reference.py CHECKOUT

CHECKOUT is a checkout of github.com/JJGO/UniverSeg (commit 833a0c3 was used; it needs einops and pydantic).
The network is built by the original classes with drawn weights and saved as its own state dict.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from _keep import answers, folder, shapes

OUT = Path(__file__).parents[2] / "tests" / "data"


def main() -> None:
    """Write all files."""
    sys.path.insert(0, sys.argv[1])
    from universeg import UniverSeg, universeg

    torch.manual_seed(5)
    network = UniverSeg(encoder_blocks=[(6, 8), (8, 10), 12]).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn_like(value))
    torch.save(network.state_dict(), OUT / "universeg_tiny.pt")
    target = torch.rand(2, 1, 32, 32)
    images, labels = torch.rand(2, 3, 1, 32, 32), (torch.rand(2, 3, 1, 32, 32) > 0.5).float()
    with torch.no_grad():
        logits = network(target, images, labels)
    np.savez_compressed(
        OUT / "universeg_reference.npz",
        target=target.numpy(),
        images=images.numpy(),
        labels=labels.numpy(),
        logits=logits.numpy(),
    )
    whole = universeg(version="v1", pretrained=False)
    listed = {name: list(value.shape) for name, value in whole.state_dict().items()}
    (OUT / "universeg_shapes.json").write_text(json.dumps(listed, indent=0) + "\n")

    original = "JJGO/UniverSeg, commit 833a0c3"
    torch.save(network.state_dict(), folder("universeg") / "small.pt")
    given = {"target": target, "images": images, "labels": labels}
    settings = {"encoder": [(6, 8), (8, 10), (12, 12)]}
    answers("universeg", given, {"logits": logits}, original=original, settings=settings)
    said = f"{original}, universeg(version='v1') without its weights"
    shapes("universeg", whole.state_dict(), listed_from=said)


if __name__ == "__main__":
    main()

"""Make tests/data/published of TorchXRayVision's DenseNets by its own code.

    python scripts/conformance/torchxrayvision_reference.py CHECKOUT

CHECKOUT is a checkout of github.com/mlmed/torchxrayvision (commit f4087a0); its readers of data sets are not
needed and are left out. The small network is saved whole and in the old format, as the published ones were.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import _keep
import torch

ROWS = [f"xrv-densenet121-{name}" for name in ("all", "nih", "pc", "chex", "rsna", "mimic-nb", "mimic-ch")]


def main() -> None:
    """Write all rows."""
    package = types.ModuleType("torchxrayvision")
    package.__path__ = [str(Path(sys.argv[1]) / "torchxrayvision")]
    data = types.ModuleType("torchxrayvision.datasets")
    data.default_pathologies = [""] * 18
    sys.modules |= {"torchxrayvision": package, "torchxrayvision.datasets": data}
    package.datasets = data
    models = importlib.import_module("torchxrayvision.models")
    for seed, row in enumerate(ROWS):
        torch.manual_seed(seed)
        network = models.DenseNet(
            growth_rate=8, block_config=(1, 2, 1, 1), num_init_features=16, num_classes=3
        )
        _keep.stirred(network, seed, spread=0.05)
        network.eval()
        pictures = 1024 * (2 * torch.rand(1, 1, 64, 64) - 1)
        with torch.no_grad():
            found = {"pooled": network.features2(pictures), "logits": network(pictures)}
        _keep.answers(
            row,
            {"pictures": pictures},
            found,
            original="github.com/mlmed/torchxrayvision f4087a0, torchxrayvision/models.py",
            settings={"growth": 8, "blocks": [1, 2, 1, 1], "labels": 3},
        )
        with torch.device("meta"):
            whole = models.DenseNet()
        _keep.shapes(row, whole.state_dict(), listed_from="torchxrayvision/models.py at its own size")
        torch.save(network, _keep.folder(row) / "small.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()

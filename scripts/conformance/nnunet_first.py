"""Make tests/data/nnunet_first/: what nnU-Net's first version answers with small networks that it saved.

    python scripts/conformance/nnunet_first.py CHECKOUT

CHECKOUT is a checkout of github.com/uni-medical/STU-Net (commit 0652eaf was used), which holds nnU-Net
1.7.1 whole; it needs batchgenerators and pandas. Networks are built as nnUNetTrainerV2 does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from _keep import stirred
from torch import nn

OUT = Path(__file__).parents[2] / "tests" / "data" / "nnunet_first"
NETWORKS = {
    "3d_fullres": (
        2,
        [[1, 2, 2], [2, 2, 2], [2, 1, 2]],
        [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 1, 3]],
        (nn.Conv3d, nn.InstanceNorm3d, nn.Dropout3d),
        (8, 16, 16),
    ),
    "2d": (1, [[2, 2], [2, 2]], [[3, 3]] * 3, (nn.Conv2d, nn.InstanceNorm2d, nn.Dropout2d), (24, 16)),
}


def main() -> None:
    """Write both files, and answers.npz."""
    sys.path.insert(0, f"{sys.argv[1]}/nnUNet-1.7.1")
    from nnunet.network_architecture.generic_UNet import Generic_UNet
    from nnunet.network_architecture.initialization import InitWeights_He
    from nnunet.training.network_training.network_trainer import NetworkTrainer

    kept = {}
    for seed, (name, (channels, pools, kernels, operators, size)) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed)
        convolution, norm, dropout = operators
        norm_facts, drop_facts = {"eps": 1e-5, "affine": True}, {"p": 0, "inplace": True}
        leaky = {"negative_slope": 1e-2, "inplace": True}
        network = Generic_UNet(
            channels, 4, 3, len(pools), 2, 2, convolution, norm, norm_facts, dropout, drop_facts,
            nn.LeakyReLU, leaky, True, False, lambda x: x, InitWeights_He(1e-2), pools, kernels,
            False, True, True, max_num_features=10,
        ).eval()  # fmt: skip
        stirred(network, seed)
        network.half()
        trainer = SimpleNamespace(
            network=network,
            lr_scheduler=None,
            epoch=1,
            print_to_log_file=lambda *_: None,
            all_tr_losses=[np.mean([0.5, 0.25])],
            all_val_losses=[],
            all_val_losses_tr_mode=[],
            all_val_eval_metrics=[np.mean([0.5, 0.5])],
            best_epoch_based_on_MA_tr_loss=0,
            best_MA_tr_loss_for_patience=np.float64(0.5),
            best_val_eval_criterion_MA=np.float64(0.5),
            amp_grad_scaler=None,
        )
        OUT.mkdir(exist_ok=True)
        NetworkTrainer.save_checkpoint(trainer, OUT / f"{name}.model", save_optimizer=False)
        network.float()
        network.do_ds = False
        image = torch.randn(1, channels, *size)
        with torch.no_grad():
            kept |= {f"{name}_image": image.numpy(), f"{name}_logits": network(image).numpy()}
    np.savez_compressed(OUT / "answers.npz", **kept)


if __name__ == "__main__":
    main()

"""Make tests/data/published/stu-net-*: what the original STU-Net answers with small networks.

    python scripts/conformance/stu_net.py CHECKOUT

CHECKOUT is a checkout of github.com/uni-medical/STU-Net (commit 0652eaf was used; it needs batchgenerators
and pandas). Files are written by the saving code of the nnU-Net that it brings, as the published ones were.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import torch
from _keep import answers, folder, shapes, stirred

ORIGINAL = "uni-medical/STU-Net, commit 0652eaf, nnUNet-1.7.1"
POOLS = [[2, 2, 2], [2, 2, 2], [1, 2, 1], [1, 1, 1], [1, 1, 2]]
PUBLISHED_POOLS = [[2, 2, 2]] * 4 + [[1, 1, 2]]  # of plan_files/base_ep4k.model.pkl
SIZES = {"s": (1, 16, 4), "b": (1, 32, 6), "l": (2, 64, 4), "h": (3, 96, 4)}


def main() -> None:
    """Write all files."""
    sys.path.insert(0, f"{sys.argv[1]}/nnUNet-1.7.1")
    from nnunet.network_architecture.STUNet import STUNet
    from nnunet.training.network_training.network_trainer import NetworkTrainer

    def built(depth, dims, outputs, pools):
        kernels = [[3, 3, 3]] * 6
        return STUNet(
            1, outputs, depth=[depth] * 6, dims=dims, pool_op_kernel_sizes=pools, conv_kernel_sizes=kernels
        )

    for place, (size, (depth, first, small)) in enumerate(SIZES.items()):
        row = f"stu-net-{size}"
        torch.manual_seed(place)
        dims = [small, small, 6, 6, 6, 6]
        network = built(depth, dims, 3, POOLS).eval()
        stirred(network, place)
        trainer = SimpleNamespace(
            network=network,
            lr_scheduler=None,
            epoch=1,
            print_to_log_file=lambda *_: None,
            all_tr_losses=[np.mean([0.5, 0.25])],
            all_val_losses=[np.mean([0.5, 0.75])],
            all_val_losses_tr_mode=[],
            all_val_eval_metrics=[np.mean([0.5, 0.5])],
            best_epoch_based_on_MA_tr_loss=0,
            best_MA_tr_loss_for_patience=np.float64(0.5),
            best_val_eval_criterion_MA=np.float64(0.5),
            amp_grad_scaler=None,
        )
        network.half()
        NetworkTrainer.save_checkpoint(trainer, folder(row) / "small.model", save_optimizer=False)
        network.float()
        volume = torch.randn(1, 1, 8, 16, 16)
        network.do_ds = False
        with torch.no_grad():
            found = {"answer": network(volume)}
        settings = {"depth": depth, "dims": dims, "outputs": 3, "pools": POOLS}
        answers(row, {"volume": volume}, found, original=ORIGINAL, settings=settings)

        widths = [first * factor for factor in (1, 2, 4, 8, 16, 16)]
        with torch.device("meta"):
            whole = built(depth, widths, 105, PUBLISHED_POOLS)
        said = f"{ORIGINAL}, built with the settings of STUNetTrainer and the published plans"
        shapes(row, whole.state_dict(), listed_from=said)


if __name__ == "__main__":
    main()

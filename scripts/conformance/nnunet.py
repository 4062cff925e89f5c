"""Make tests/data/nnunet/: small folders as nnU-Net leaves them, and what its own code answers with them.

    python scripts/conformance/nnunet.py CHECKOUT

CHECKOUT is a checkout of github.com/MIC-DKFZ/nnUNet (commit 0e49508 was used, with its needs installed).
Networks come from its plans through its own functions, checkpoints from its trainer's saving method,
normalised volumes from its classes. One folder has the plans of today, with residual blocks and regions,
one those of before 2.4.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from _keep import stirred

OUT = Path(__file__).parents[2] / "tests" / "data" / "nnunet"
NUMBERS = {"mean": 40.0, "std": 120.0, "percentile_00_5": -300.0, "percentile_99_5": 500.0}
KERNELS = [[3, 3, 3]] * 3
NEW = {
    "trainer": "nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres",
    "configurations": {
        "3d_lowres": {"spacing": [3.0, 3.0, 3.0], "patch_size": [16, 16, 16]},
        "3d_fullres": {
            "inherits_from": "3d_lowres",
            "spacing": [2.0, 1.0, 1.0],
            "patch_size": [8, 16, 16],
            "batch_size": 2,
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, False],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 6, 8],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
                    "n_blocks_per_stage": [1, 2, 2],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        },
    },
    "dataset": {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
    },
}
OLD = {
    "trainer": "nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres",
    "configurations": {
        "3d_fullres": {
            "spacing": [1.5, 1.5, 1.5],
            "patch_size": [16, 16, 16],
            "batch_size": 2,
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 10,
            "n_conv_per_stage_encoder": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "num_pool_per_axis": [2, 2, 2],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "conv_kernel_sizes": KERNELS,
        }
    },
    "dataset": {"modality": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}},
}


def main() -> None:
    """Write both folders."""
    sys.path.insert(0, sys.argv[1])
    for seed, (name, told) in enumerate({"new": NEW, "old": OLD}.items()):
        write(name, told, seed)


def write(name: str, told: dict, seed: int) -> None:
    """One folder, and its answers beside it."""
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    configurations = told["configurations"]
    plans = {"dataset_name": f"Dataset00{seed}_Made", "plans_name": told["trainer"].split("__")[1]}
    plans |= {
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
    }
    channels = told["dataset"].get("channel_names") or told["dataset"]["modality"]
    plans["foreground_intensity_properties_per_channel"] = dict.fromkeys(channels, NUMBERS)
    plans["label_manager"] = "LabelManager"
    folder = OUT / name / told["trainer"]
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=1) + "\n")
    (folder / "dataset.json").write_text(json.dumps(told["dataset"], indent=1) + "\n")

    manager = PlansManager(copy.deepcopy(plans))
    chosen = manager.get_configuration("3d_fullres")
    inputs = determine_num_input_channels(manager, chosen, told["dataset"])
    heads = manager.get_label_manager(told["dataset"]).num_segmentation_heads
    torch.manual_seed(seed)
    network = get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        inputs,
        heads,
        deep_supervision=False,
    ).eval()
    stirred(network, seed)
    network.half()
    trainer = SimpleNamespace(
        local_rank=0,
        disable_checkpointing=False,
        is_ddp=False,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        grad_scaler=None,
        logger=SimpleNamespace(get_checkpoint=lambda: {"ema_fg_dice": [np.float64(0.5)], "lrs": [0.01]}),
        _best_ema=np.float64(0.5),
        current_epoch=0,
        my_init_kwargs={"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        inference_allowed_mirroring_axes=(0, 1, 2),
    )
    nnUNetTrainer.save_checkpoint(trainer, str(folder / "fold_0" / "checkpoint_final.pth"))
    network.float()
    volume = torch.randn(1, inputs, *chosen.patch_size)
    with torch.no_grad():
        answer = network(volume)
    rng = np.random.default_rng(seed)
    raw = rng.normal(50, 400, (inputs, 4, 6, 8)).astype(np.float32)
    made = [
        getattr(schemes, scheme)(use_mask_for_norm=False, intensityproperties=NUMBERS).run(raw[i].copy())
        for i, scheme in enumerate(chosen.normalization_schemes)
    ]
    kept = {"volume": volume.numpy(), "logits": answer.numpy(), "raw": raw, "normalised": np.stack(made)}
    np.savez_compressed(OUT / name / "answers.npz", **kept)


if __name__ == "__main__":
    main()

"""Make tests/data/nnunet_whole/: whole images as nnU-Net itself outlines them with small networks it trained.

    python scripts/conformance/nnunet_whole.py

Needs nnunetv2 (2.8.1 was used). Networks come from its plans through its own functions, learn for a minute on
images that its own preprocessor prepared, and outline one more image through its ``nnUNetPredictor`` from
files: one in volumes, with turned axes, two channels, wide slices and an image stored out of RAS, one in
planes with regions.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

OUT = Path(__file__).parents[2] / "tests" / "data" / "nnunet_whole"
NUMBERS = {"mean": 60.0, "std": 90.0, "percentile_00_5": -100.0, "percentile_99_5": 260.0, "max": 300.0,
           "min": -200.0, "median": 50.0}  # fmt: skip
STEPS = 600


def architecture(dims: int, kernels: list, strides: list) -> dict:
    """A plain U-Net as today's plans tell of it."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [6, 8, 10],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def resampling() -> dict:
    """How plans of today say it."""
    name, told = "resample_data_or_seg_to_shape", {"order_z": 0, "force_separate_z": None}
    made = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        made[f"resampling_fn_{what}"] = name
        made[f"resampling_fn_{what}_kwargs"] = {"is_seg": what == "seg", "order": order, **told}
    return made


CASES = {
    "volume": {
        "reader": "NibabelIOWithReorient",
        "configuration": "3d_fullres",
        "order": ([1, 0, 2], [1, 0, 2]),
        "facts": {
            "spacing": [1.2, 5.0, 1.2],
            "patch_size": [32, 8, 32],
            "batch_size": 2,
            "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, True],
            "architecture": architecture(
                3, [[3, 1, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [2, 1, 2], [2, 2, 2]]
            ),
        },
        "dataset": {
            "channel_names": {"0": "CT", "1": "T1"},
            "labels": {"background": 0, "liver": 1, "spleen": 2},
            "file_ending": ".nii.gz",
        },
        "mirror": (0, 2),
        "spacing": (0.9, 1.4, 4.0),
        "size": (44, 36, 13),
        "axes": "LPI",
    },
    "planes": {
        "reader": "SimpleITKIO",
        "configuration": "2d",
        "order": ([0, 1, 2], [0, 1, 2]),
        "facts": {
            "spacing": [1.0, 1.3],
            "patch_size": [32, 24],
            "batch_size": 2,
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "architecture": architecture(2, [[3, 3]] * 3, [[1, 1], [2, 2], [2, 2]]),
        },
        "dataset": {
            "channel_names": {"0": "MR"},
            "labels": {"background": 0, "whole": [1, 2], "core": [2]},
            "regions_class_order": [1, 2],
            "file_ending": ".nii.gz",
        },
        "mirror": None,
        "spacing": (0.8, 1.1, 2.0),
        "size": (50, 37, 7),
        "axes": "RAS",
    },
}


def image(told: dict, rng) -> tuple[np.ndarray, np.ndarray]:
    """(channels, X, Y, Z) with two ovals, one in the other where regions are asked for, and their labels."""
    size = told["size"]
    grid = np.indices(size) / np.array(size)[:, None, None, None]
    regions = "regions_class_order" in told["dataset"]
    first = rng.uniform(0.3, 0.45, 3)
    second = first if regions else rng.uniform(0.6, 0.75, 3)
    far = [((grid - m[:, None, None, None]) ** 2).sum(axis=0) ** 0.5 for m in (first, second)]
    labels = np.zeros(size, np.uint8)
    labels[far[0] < rng.uniform(0.2, 0.26)] = 1
    labels[far[1] < (0.18 if regions else rng.uniform(0.16, 0.22))] = 2
    channels = []
    for values in ((20, 90, 160), (300, 500, 420))[: len(told["dataset"]["channel_names"])]:
        made = np.array(values, float)[labels] + rng.normal(0, 12, size)
        made[:3] = 0  # outside, cut off
        channels.append(np.rint(made).astype(np.int16))
    return np.stack(channels), labels


def main() -> None:
    """Write all folders."""
    for seed, (name, told) in enumerate(CASES.items()):
        write(name, told, seed)


def write(name: str, told: dict, seed: int) -> None:
    """One trained folder, an image, and its outline."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    facts, chosen_name = told["facts"] | resampling(), told["configuration"]
    plans = {
        "dataset_name": f"Dataset90{seed}_Made",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": told["reader"],
        "transpose_forward": told["order"][0],
        "transpose_backward": told["order"][1],
        "configurations": {chosen_name: facts | {"preprocessor_name": "DefaultPreprocessor"}},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": dict.fromkeys(
            told["dataset"]["channel_names"], NUMBERS
        ),
    }
    folder = OUT / name / f"nnUNetTrainer__nnUNetPlans__{chosen_name}"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=1) + "\n")
    (folder / "dataset.json").write_text(json.dumps(told["dataset"], indent=1) + "\n")
    manager = PlansManager(copy.deepcopy(plans))
    chosen = manager.get_configuration(chosen_name)
    heads = manager.get_label_manager(told["dataset"]).num_segmentation_heads
    network = get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        len(told["dataset"]["channel_names"]),
        heads,
        deep_supervision=False,
    )
    train(network, told, manager, chosen, rng)
    network.half()
    torch.save(
        {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": chosen_name, "fold": 0},
            "inference_allowed_mirroring_axes": told["mirror"],
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )
    channels, labels = image(told, rng)
    affine = np.diag([*told["spacing"], 1.0])
    affine[:3, 3] = [11, -7, 30]
    files = []
    (OUT / name / "images").mkdir(exist_ok=True)
    for number, channel in enumerate(channels):
        stored = nibabel.Nifti1Image(channel, affine)
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(told["axes"])
        )
        files.append(str(OUT / name / "images" / f"case_{number:04d}.nii.gz"))
        nibabel.save(stored.as_reoriented(turn), files[-1])
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
    predictor.network.float()
    predictor.list_of_parameters = [
        {k: v.float() for k, v in p.items()} for p in predictor.list_of_parameters
    ]
    place = OUT / name / "found"
    place.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential([files], [str(place / "case")], save_probabilities=False)
    found = nibabel.load(place / "case.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.asanyarray(found.dataobj).astype(np.uint8), found.affine),
        OUT / name / "outline.nii.gz",
    )
    back = np.asanyarray(nibabel.as_closest_canonical(found).dataobj)
    for extra in (*place.iterdir(),):
        extra.unlink()
    place.rmdir()
    for value in (1, 2):
        both = (
            2
            * ((back == value) & (labels == value)).sum()
            / ((back == value).sum() + (labels == value).sum())
        )
        assert both > 0.5, (name, value, both)  # it learned something


def train(network, told: dict, manager, chosen, rng) -> None:
    """Learn patches of images that the original prepares."""
    prepared = []
    for _ in range(6):
        channels, labels = image(told, rng)
        data = channels.transpose(0, 3, 2, 1).astype(np.float32)
        seg = labels.transpose(2, 1, 0)[None].astype(np.int8)
        facts = {"spacing": list(told["spacing"][::-1])}
        made, answer, _ = DefaultPreprocessor(verbose=False).run_case_npy(
            data, seg, facts, manager, chosen, told["dataset"]
        )
        prepared.append((torch.from_numpy(np.asarray(made)).float(), torch.from_numpy(answer[0]).long()))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    patch, flat = chosen.patch_size, len(chosen.patch_size) == 2
    network.train()
    for _ in range(STEPS if flat else STEPS // 2):
        seen, answer = prepared[rng.integers(len(prepared))]
        if flat:
            number = rng.integers(seen.shape[1])
            seen, answer = seen[:, number], answer[number]
        pads = [max(0, p - n) for p, n in zip(patch, answer.shape, strict=True)]
        reach = [v for pad in pads[::-1] for v in (0, pad)]
        seen, answer = F.pad(seen, reach), F.pad(answer, reach)
        begin = [rng.integers(n - p + 1) for p, n in zip(patch, answer.shape, strict=True)]
        box = tuple(slice(b, b + p) for b, p in zip(begin, patch, strict=True))
        scores, right = network(seen[(None, slice(None), *box)]), answer[(None, *box)].clamp(min=0)
        if "regions_class_order" in told["dataset"]:
            regions = torch.stack([right > 0, right == 2], dim=1).float()
            loss = F.binary_cross_entropy_with_logits(scores, regions)
        else:
            loss = F.cross_entropy(scores, right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


if __name__ == "__main__":
    main()

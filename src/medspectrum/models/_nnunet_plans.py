"""What nnU-Net's plans.json and dataset.json say of a network, read without importing nnU-Net.

Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z), in the second version's format, older plans too. Names
of classes are looked up in a short list; nothing that a file names is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile, UserError

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
OPERATORS = (
    *(f"{kind}{dims}d" for kind in ("Conv", "InstanceNorm", "BatchNorm", "Dropout") for dims in (2, 3)),
    *("LeakyReLU", "ReLU", "GELU", "SiLU", "ELU"),
)
SCHEMES = (
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)


@dataclass(frozen=True)
class Resampling:
    """Splines of that order, of ``order_z`` across slices where these are taken apart.

    separate: whether they are; None where spacings differ more than threefold, as nnU-Net decides.
    """

    order: int
    order_z: int = 0
    separate: bool | None = None


@dataclass(frozen=True)
class Plans:
    """One configuration of a folder's plans.

    kind: a name of NETWORKS, built with ``settings``, whose operators are names of torch.nn. channels:
    names of the input's. labels: name to number, or to the numbers of a region. heads: channels of the
    output. spacing_mm, patch: (Z, Y, X) or (Y, X). schemes: of normalising, by channel. intensities: by
    channel, of the outlined voxels that were learned from. order: axes as the network wants them, of (Z, Y,
    X).
    """

    configuration: str
    kind: str
    settings: Mapping[str, Any]
    channels: tuple[str, ...]
    labels: Mapping[str, int | tuple[int, ...]]
    heads: int
    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    schemes: tuple[str, ...]
    intensities: tuple[Mapping[str, float], ...]
    order: tuple[int, ...]
    masked: tuple[bool, ...] = ()
    region_order: tuple[int, ...] = ()
    upright: bool = False
    resampling: tuple[Resampling, Resampling] = (Resampling(3), Resampling(1))


def read(folder: Path, configuration: str = "") -> Plans:
    """The plans of a trained folder. configuration: by default that in the folder's own name.

    Raises UserError (UnreadableFile) where a file is missing or tells of something that is not read here.
    """
    plans, data = (_json(folder / name) for name in ("plans.json", "dataset.json"))
    try:
        known = plans["configurations"]
        chosen = _chosen(configuration, folder, known)
        facts = _inherited(known, chosen)
        if facts.get("previous_stage"):
            raise UserError(f"{folder}: {chosen} refines another network's outlines, which is not read here")
        kind, settings = _network(facts, folder)
        channels = data.get("channel_names") or data["modality"]
        names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        labels = {k: tuple(v) if isinstance(v, list) else int(v) for k, v in data["labels"].items()}
        numbers = plans.get("foreground_intensity_properties_per_channel") or {}
        return Plans(
            configuration=chosen,
            kind=kind,
            settings=settings,
            channels=names,
            labels=labels,
            heads=_heads(labels),
            spacing_mm=tuple(float(v) for v in facts["spacing"]),
            patch=tuple(int(v) for v in facts["patch_size"]),
            schemes=tuple(_scheme(v, folder) for v in facts["normalization_schemes"]),
            intensities=tuple(numbers.get(str(i), {}) for i in range(len(names))),
            order=tuple(int(v) for v in plans.get("transpose_forward", (0, 1, 2))),
            masked=tuple(bool(v) for v in facts.get("use_mask_for_norm") or [False] * len(names)),
            region_order=tuple(int(v) for v in data.get("regions_class_order") or ()),
            upright=plans.get("image_reader_writer") == "NibabelIOWithReorient",
            resampling=(
                _resampling(facts, "data", 3, folder),
                _resampling(facts, "probabilities", 1, folder),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UnreadableFile(
            folder, f"its plans.json or dataset.json is not nnU-Net's ({problem!r}); copy the whole folder"
        ) from problem


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        raise UnreadableFile(
            path, "is missing; give the folder that holds plans.json and dataset.json"
        ) from None
    except (OSError, ValueError) as problem:
        raise UnreadableFile(path, f"is no JSON ({problem}); copy the folder again") from problem
    if not isinstance(said, dict):
        raise UnreadableFile(path, "is no table; copy the folder again")
    return said


def _chosen(asked: str, folder: Path, known: Mapping[str, Any]) -> str:
    own = asked or folder.name.rpartition("__")[2]
    if own in known:
        return own
    whole = [name for name, facts in known.items() if not facts.get("previous_stage")]
    if not asked and len(whole) == 1:
        return whole[0]
    raise UserError(f"{folder}: say which configuration it holds: {', '.join(sorted(known))}")


def _inherited(known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits. Raises ValueError where it inherits from itself."""
    line = [name]
    while (parent := known[line[-1]].get("inherits_from")) is not None:
        if parent in line:
            raise ValueError(f"{name} inherits from itself")
        line.append(parent)
    made: dict[str, Any] = {}
    for one in reversed(line):
        made |= known[one]
    return made


def _network(facts: Mapping[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    told = facts.get("architecture")
    if told is None:  # plans of before version 2.4
        kind, settings = str(facts["UNet_class_name"]), _older(facts)
    else:
        kind, settings = str(told["network_class_name"]).rpartition(".")[2], dict(told["arch_kwargs"])
        for name in told.get("_kw_requires_import", ()):
            settings[name] = _operator(settings[name], folder)
    if kind not in NETWORKS:
        raise UserError(f"{folder}: holds a {kind}; networks that are read are {' and '.join(NETWORKS)}")
    return kind, settings


def _operator(said: str | None, folder: Path) -> str | None:
    if said is None:
        return None
    package, _, name = said.rpartition(".")
    if not package.startswith("torch.nn") or name not in OPERATORS:
        raise UnreadableFile(
            folder, f"its plans name {said}, which is no part of a network that is read here"
        )
    return name


def _older(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plans of before version 2.4 imply them."""
    dims = len(facts["patch_size"])
    depths = list(facts["n_conv_per_stage_encoder"])
    first, most = facts["UNet_base_num_features"], facts["unet_max_num_features"]
    each = "n_conv_per_stage" if facts["UNet_class_name"] == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "n_stages": len(depths),
        "features_per_stage": [min(first * 2**i, most) for i in range(len(depths))],
        "conv_op": f"Conv{dims}d",
        "kernel_sizes": facts["conv_kernel_sizes"],
        "strides": facts["pool_op_kernel_sizes"],
        each: depths,
        "n_conv_per_stage_decoder": list(facts["n_conv_per_stage_decoder"]),
        "conv_bias": True,
        "norm_op": f"InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _resampling(facts: Mapping[str, Any], of: str, order: int, folder: Path) -> Resampling:
    name = facts.get(f"resampling_fn_{of}", "resample_data_or_seg_to_shape")
    if name != "resample_data_or_seg_to_shape":
        raise UserError(f"{folder}: resamples by {name}; what is done here is resample_data_or_seg_to_shape")
    told = {"order": order, "order_z": 0, "force_separate_z": None}
    told |= facts.get(f"resampling_fn_{of}_kwargs") or {}
    return Resampling(int(told["order"]), int(told["order_z"]), told["force_separate_z"])


def _heads(labels: Mapping[str, int | tuple[int, ...]]) -> int:
    """Channels of the output: one for each label with the background, or for each region without it."""
    own = {k: v for k, v in labels.items() if k != "ignore"}
    if any(isinstance(v, tuple) and len(v) > 1 for v in own.values()):
        return sum(1 for v in own.values() if v not in (0, (0,)))
    return len({v[0] if isinstance(v, tuple) else v for v in own.values()})


def _scheme(said: str, folder: Path) -> str:
    if said not in SCHEMES:
        raise UnreadableFile(folder, f"normalises by {said}; read are {', '.join(SCHEMES)}")
    return said


def normalised(plans: Plans, volume: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """(channels, ...) as the network learned to see it, float32.

    inside: (...) bool, voxels by which those channels are scaled that were so in training; all where None.
    Raises ValueError for another number of channels.
    """
    if len(volume) != len(plans.schemes):
        raise ValueError(f"the network takes {len(plans.schemes)} channels; got {len(volume)}")
    masked = plans.masked or (True,) * len(volume)
    return np.stack(
        [
            _channel(channel.astype(np.float32), scheme, facts, inside if own else None)
            for channel, scheme, facts, own in zip(
                volume, plans.schemes, plans.intensities, masked, strict=True
            )
        ]
    )


def _channel(
    image: np.ndarray, scheme: str, facts: Mapping[str, float], inside: np.ndarray | None
) -> np.ndarray:
    if scheme == "CTNormalization":
        image = np.clip(image, facts["percentile_00_5"], facts["percentile_99_5"])
        return ((image - facts["mean"]) / max(facts["std"], 1e-8)).astype(np.float32)
    if scheme == "ZScoreNormalization":
        seen = image if inside is None else image[inside]
        made = (image - seen.mean()) / max(float(seen.std()), 1e-8)
        return made if inside is None else np.where(inside, made, image)
    if scheme == "RescaleTo01Normalization":
        image = image - image.min()
        return image / max(float(image.max()), 1e-8)
    return image / np.float32(255) if scheme == "RGBTo01Normalization" else image

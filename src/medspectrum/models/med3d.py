"""Med3D: 3-D ResNets that learned to outline organs and lesions in many public data sets at once.

Chen, Ma and Zheng 2019 (arXiv:1904.00625); published as MedicalNet, in seven depths. Features are the means
of the trunk's last map; the decoders were not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.card import Card
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import _placed
from medspectrum.models._med3d_network import network
from medspectrum.models._published import Published, Tensors

EIGHT = "3DSeg-8: CT and MR of eight public segmentation challenges"
TWENTY_THREE = "CT and MR of 23 public segmentation data sets"
SIZES = {
    # blocks, three convolutions to a block, projected shortcuts, parameters, 10^9 operations, MB of the file
    10: ((1, 1, 1, 1), False, True, 14_355_520, 189.7, 57.5),
    18: ((2, 2, 2, 2), False, False, 32_986_176, 411.1, 132),
    34: ((3, 4, 6, 3), False, False, 63_295_808, 760.7, 253),
    50: ((3, 4, 6, 3), True, True, 46_155_072, 557.1, 185),
    101: ((3, 4, 23, 3), True, True, 85_201_216, 985.1, 341),
    152: ((3, 8, 36, 3), True, True, 117_359_936, 1337.5, 470),
    200: ((3, 24, 36, 3), True, True, 126_559_552, 1438.2, 507),
}
LATER = (10, 18, 34, 50)
"""Depths that were published again, after learning from 23 data sets."""


def volume_input(image: Image, size: tuple[int, ...]) -> np.ndarray:
    """(1, Z, Y, X) float32: less the mean of what is above zero, over its standard deviation.

    As the makers' code prepares a volume for testing, but for three things: it is turned to RAS, it is
    averaged to the size instead of taking the nearest voxels, and the empty voxels, which they fill with
    noise, get the mean. Values below zero (CT) are counted from the smallest. Raises UserError for a single
    picture.
    """
    if not image.is_volume:
        raise UserError("Med3D takes volumes; this is a single picture")
    volume = np.nan_to_num(transforms.oriented(image)[0].astype(np.float32), posinf=0.0, neginf=0.0)
    volume = volume - min(float(volume.min()), 0.0)
    volume = transforms.area_resize(volume, (size[0], size[1], size[2]))
    inside = volume > 0
    if not inside.any():
        return np.zeros((1, *size), np.float32)
    mean, std = float(volume[inside].mean()), float(volume[inside].std())
    return np.where(inside, (volume - mean) / max(std, 1e-6), 0.0).astype(np.float32)[None]


volume_input.shows_all = True  # type: ignore[attr-defined] - see ``_volumes.extent``


def _trunk(state: Tensors) -> Tensors:
    """Without the decoder that a file of one's own, tuned with the makers' code, also holds."""
    return {k: v for k, v in state.items() if not k.startswith("conv_seg.")}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    volume = given["volume"]
    return {"tokens": made.read_level(volume, "tokens")[0], "pooled": made(volume)}


for _depth, (_blocks, _bottleneck, _projected, _parameters, _gflops, _megabytes) in SIZES.items():
    _file = f"resnet_{_depth}_23dataset.pth" if _depth in LATER else f"resnet_{_depth}.pth"
    _hub = f"TencentMedicalNet/MedicalNet-Resnet{_depth}"
    _placed.enter(
        Card(
            name=f"med3d-resnet{_depth}",
            level="modality",
            modality="any",
            organ="any",
            dims=3,
            tasks=("classify", "features"),
            licence="MIT",
            commercial_use=True,
            source=f"https://huggingface.co/{_hub}, file {_file}",
            status="conforms",
            parameters=_parameters,
            width=2048 if _bottleneck else 512,
            input_size=(56, 224, 224),
            mean=(0.0,),
            std=(1.0,),
            stride=8,
            citation="Chen et al. 2019, arXiv:1904.00625",
            notes="CT and MR; its makers' settings show it 56 x 448 x 448 voxels; their repository lists no "
            "sets, the Decathlon is taken to be among them",
            weights=f"hf:{_hub}/{_file}",
            download_mb=_megabytes,
            file_format="pytorch",
            gflops=_gflops,
            code_licence="MIT",
            training_data=TWENTY_THREE if _depth in LATER else EIGHT,
            overlaps=("Medical Segmentation Decathlon",),
        ),
        Published(
            build=network,
            settings={"blocks": _blocks, "bottleneck": _bottleneck, "projected": _projected},
            renamed=_trunk,
            answer=_answer,
            small={"blocks": (1, 1, 1, 1), "width": 4},
        ),
        summary=f"CT and MR volumes, a 3-D ResNet-{_depth} that learned from many outlined data sets.",
        module=__name__,
        reader=lambda made, size: made,  # noqa: ARG005 - convolutions take any size
        small_width=128 if _bottleneck else 32,
        small_size=(32, 32, 32),
        own_input=volume_input,
    )

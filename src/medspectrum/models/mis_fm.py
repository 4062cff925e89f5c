"""MIS-FM: PCT-Net, which learned from CT without labels by telling how two volumes were fused.

Wang et al. 2023 (arXiv:2306.16925). Features are the means of the coarsest scale; ``network().decoded`` gives
what a last convolution makes labels from. The pretext's own last convolutions are left out.
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
from medspectrum.models._pct_network import network
from medspectrum.models._published import Published, Tensors

_FOLDER = "https://drive.google.com/drive/folders/13OQh2eM0QFnwBRwBcKCqhKa46CnDojrD"
CARD = Card(
    name="mis-fm-pctnet",
    level="modality",
    modality="CT",
    organ="any",
    dims=3,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source=f"{_FOLDER}, file pctnet_ct10k_volf.pt (of https://github.com/openmedlab/MIS-FM)",
    status="conforms",
    parameters=45_282_746,
    width=512,
    input_size=(64, 128, 128),
    mean=(0.0,),
    std=(1.0,),
    stride=16,
    citation="Wang et al. 2023, arXiv:2306.16925",
    notes="each volume less its mean, over its standard deviation; its makers cut patches of 64 x 128 x 128",
    weights=f"{_FOLDER}#pctnet_ct10k_volf.pt",
    file_format="pytorch",
    gflops=297.0,
    code_licence="Apache-2.0",
    training_data="CT10k, ten thousand public CT volumes, without labels",
)


def volume_input(image: Image, size: tuple[int, ...]) -> np.ndarray:
    """(1, Z, Y, X) float32: turned to RAS, averaged to the size, less its mean over its standard deviation.

    Raises UserError for a single picture.
    """
    if not image.is_volume:
        raise UserError("mis-fm-pctnet takes volumes; this is a single picture")
    volume = np.nan_to_num(transforms.oriented(image)[0].astype(np.float32), posinf=0.0, neginf=0.0)
    volume = transforms.area_resize(volume, (size[0], size[1], size[2]))
    return ((volume - volume.mean()) / max(float(volume.std()), 1e-6)).astype(np.float32)[None]


volume_input.shows_all = True  # type: ignore[attr-defined] - see ``_volumes.extent``


def _kept(state: Tensors) -> Tensors:
    """Without the pretext's last convolutions, and norms that the makers' code holds and does not use."""
    return {k: v for k, v in state.items() if ".out_conv" not in k and ".norm_layer." not in k}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    scales = made.scales(given["volume"])
    return {"decoded": made.decoded(scales), "scale2": scales[2], "scale4": scales[4]}


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=_kept,
        answer=_answer,
        small={
            "channels": (2, 4, 8, 8, 8),
            "size": (16, 32, 32),
            "heads": (2, 2, 4),
            "windows": (3, 2, 2),
        },
    ),
    summary="CT volumes by convolutions beside attention, learned without labels from fused volumes.",
    module=__name__,
    reader=lambda made, size: made,  # noqa: ARG005 - windows are padded
    small_width=8,
    small_size=(16, 32, 32),
    own_input=volume_input,
)

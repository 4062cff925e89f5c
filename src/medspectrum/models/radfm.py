"""RadFM's eye: features of volumes from the radiology model that Wu et al. trained on 16 million scans.

Wu et al. 2023 (arXiv:2308.02463). The published pytorch_model.bin is taken as it is: of it the 3-D vision
transformer, the perceiver and the map to words are read; the LLaMA of 13 billion behind them is not, nor is
the branch for key words and outlines, which its makers no longer use. The file is mapped, not brought to
memory whole. The vector of a volume is the mean of the perceiver's 32, before the map to words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.card import Card
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import _placed
from medspectrum.models._published import Published, Tensors

CARD = Card(
    name="radfm",
    level="modality",
    modality="any",
    organ="any",
    dims=3,
    tasks=("classify", "features"),
    licence="that of its page",
    commercial_use=False,
    source="Hugging Face chaoyi-wu/RadFM, pytorch_model.bin, out of the zip there",
    status="conforms",
    parameters=107_947_776,
    width=768,
    input_size=(64, 512, 512),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    stride=32,
    citation="Wu et al. 2023, arXiv:2308.02463",
    notes="its eye alone, of volumes, each brought to 0-1; its LLaMA is not followed, so it says nothing; "
    "single pictures, which its makers repeat to four slices, are not taken",
    weights="page:https://huggingface.co/chaoyi-wu/RadFM#pytorch_model.bin",
    file_format="pytorch",
    gflops=996.0,
    code_licence="none stated",
    training_data="MedMD: 16 million radiology pictures and volumes with texts",
    overlaps=("public radiology sets are part of MedMD",),
)
_LAYER = "embedding_layer."
_EYE = tuple(f"{_LAYER}{part}." for part in ("vision_encoder", "perceiver", "fc"))
_MAPS = 4


def volume_input(image: Image, size: tuple[int, ...]) -> np.ndarray:
    """(3, Z, Y, X) float32 in 0-1: turned to RAS, averaged to the size, three times the same.

    Raises UserError for a single picture.
    """
    if not image.is_volume:
        raise UserError("radfm takes volumes; this is a single picture")
    volume = np.nan_to_num(transforms.oriented(image)[0].astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(volume.min()), float(volume.max())
    volume = transforms.area_resize((volume - low) / max(high - low, 1e-6), (size[0], size[1], size[2]))
    return np.repeat(volume[None].astype(np.float32), 3, axis=0)


volume_input.shows_all = True  # type: ignore[attr-defined] - see ``_volumes.extent``


def network(**settings: Any) -> Any:
    """The eye with random weights, eval mode; settings as of ``_radfm_network.network``."""
    from medspectrum.models import _radfm_network

    return _radfm_network.network(**settings)


def _kept(state: Tensors) -> Tensors:
    """What looks at volumes, without the name of the layer that holds it."""
    return {k.removeprefix(_LAYER): v for k, v in state.items() if k.startswith(_EYE)}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, volume in given.items():
        found[f"{name}_patches"] = made.vision_encoder(volume)
        found[f"{name}_vectors"] = made(volume)
        found[f"{name}_words"] = made.words(volume)
    return found


def reader(made: Any, size: tuple[int, ...]) -> Any:  # noqa: ARG001 - its positions follow the volume
    """The eye, shown volumes (n, 3, Z, Y, X) in RAS as its makers show theirs: rows, columns, slices, LPS."""
    import torch

    class Volumes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eye = made

        def forward(self, volume: Any) -> Any:
            return made(self._turned(volume)).mean(dim=1)

        def read_level(self, volume: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(volume),)
            states = made.vision_encoder.states(self._turned(volume))
            if level == "tokens":
                return (self._grid(states[-1]),)
            return tuple(
                self._grid(states[math.ceil(len(states) * (i + 1) / _MAPS) - 1]) for i in range(_MAPS)
            )

        def _turned(self, volume: Any) -> Any:
            return volume.flip((-2, -1)).movedim(2, -1)

        def _grid(self, state: Any) -> Any:
            """(n, rows, columns, slices, width) -> (n, width, slices, rows, columns) in RAS."""
            return state.permute(0, 4, 3, 1, 2).flip((-2, -1))

    return Volumes().eval()


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=_kept,
        answer=_answer,
        small={
            "image_size": 32,
            "frames": 32,
            "patch": 8,
            "frame_patch": 8,
            "width": 24,
            "depth": 4,
            "heads": 2,
            "head_width": 8,
            "inside": 32,
            "perceiver_depth": 1,
            "latents": 4,
            "words": 16,
        },
        read=partial(tensors_of, mapped=True),
    ),
    summary="Volumes of radiology by the eye of a generalist: 108 million parameters, 768 features.",
    module=__name__,
    reader=reader,
    small_width=24,
    small_size=(32, 32, 32),
    own_input=volume_input,
)

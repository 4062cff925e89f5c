"""Endo-FM: short endoscopy videos, read by a transformer that learned from 33 thousand without labels.

Wang et al., MICCAI 2023 (arXiv:2306.16741). A video here is a stack of frames along Z, as the readers of
video files and of endoscopy loops give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.card import Card
from medspectrum.image import Image
from medspectrum.models import _placed
from medspectrum.models._endo_fm_network import network
from medspectrum.models._published import Published, Tensors

_DRIVE = "1H7B91Ewm4QkZRsnUk1Bn0IQch5P8C7Xl"
CARD = Card(
    name="endo-fm",
    level="modality",
    modality="ES",
    organ="gastrointestinal tract",
    dims=3,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source=f"https://drive.google.com/file/d/{_DRIVE}/view (endo_fm.pth, of https://github.com/med-air/Endo-FM)",
    status="conforms",
    parameters=121_258_752,
    width=768,
    input_size=(8, 224, 224),
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    stride=16,
    citation="Wang et al. 2023, arXiv:2306.16741",
    notes="eight frames of a video, evenly spread",
    weights=f"https://drive.usercontent.google.com/download?id={_DRIVE}&export=download&confirm=t#endo_fm.pth",
    file_format="pytorch",
    gflops=391.7,
    code_licence="Apache-2.0",
    training_data="33 thousand clips of endoscopy, six public sets and a private one, after Kinetics-400",
    overlaps=("SUN-SEG", "LDPolypVideo", "HyperKvasir", "Kvasir-Capsule", "CholecTriplet"),
)


def video_input(image: Image, size: tuple[int, ...]) -> np.ndarray:
    """(3, T, side, side) float32: T frames at the middles of equal parts, fitted and normalised.

    A video of fewer frames shows some of them again, a picture its only one.
    """
    unit = np.moveaxis(transforms.to_unit(image), 1, 0)
    chosen = np.floor((np.arange(size[0]) + 0.5) * len(unit) / size[0]).astype(int)
    made = [transforms.finish(unit[i], size[-1], CARD.mean, CARD.std) for i in chosen]
    return np.stack(made, axis=1)


def _backbone(state: Tensors) -> Tensors:
    """Of a teacher its backbone; the heads that it was trained with are left."""
    kept = {k: v for k, v in state.items() if not k.startswith("head.")}
    return {k.removeprefix("backbone."): v for k, v in kept.items()}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    found = {"pooled": made(given["video"])}
    for name, video in (("own_size", given["video"]), ("other_size", given["other"])):
        token, x = made.states(video)[-1]
        found[name] = made.norm(torch.cat([token, x.transpose(1, 2).flatten(1, 2)], dim=1))
    return found


_placed.enter(
    CARD,
    Published(
        build=network,
        settings={"width": 768, "depth": 12, "heads": 12},
        renamed=_backbone,
        answer=_answer,
        small={"width": 32, "depth": 4, "heads": 2},
    ),
    summary="Short endoscopy videos, a transformer along time and over places that learned without labels.",
    module=__name__,
    reader=lambda made, size: made,  # noqa: ARG005 - its positions follow the video
    small_width=32,
    small_size=(4, 32, 32),
    own_input=video_input,
)

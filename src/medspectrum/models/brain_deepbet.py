"""Brain extraction from T1 MRI: which voxels are brain. It cuts out; it serves no features.

Two small 3-D networks, as published with Fisch et al., "deepbet", Computers in Biology and Medicine
2024: one finds the brain's box in a coarse volume, the other outlines the brain inside that box. Both
come as TorchScript, which is code, so a file is opened only if its bytes are those that were reviewed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models._weights import checked, package_folder
from medspectrum.registry import model
from medspectrum.store import digest

COARSE, FINE = (128, 128, 128), (256, 256, 256)
_MARGIN = 0.1
_LEAST_SHARE = 0.02
_CHECKSUMS = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}

CARD = Card(
    name="brain-deepbet",
    level="organ-task",
    modality="MR",
    organ="brain",
    dims=3,
    tasks=("segment",),
    licence="MIT",
    commercial_use=True,
    source="Python package deepbet 1.0.2: pip install --no-deps deepbet==1.0.2",
    status="conforms",
    parameters=2 * 2_126_258,
    width=0,
    input_size=FINE,
    mean=(0.449,),
    std=(0.226,),
    stride=16,
    checksum=_CHECKSUMS["model.pt"],
    extra="brain",
    citation="Fisch et al. 2024, arXiv:2308.07003",
    notes="brain or not brain, on T1; gives no features",
)


def _file(name: str) -> Path | None:
    folder = package_folder("deepbet")
    path = None if folder is None else folder.parent / "data" / "models" / name
    return path if path is not None and path.exists() else None


def lacking() -> str:
    """What is missing to use it, in a sentence; empty where nothing is."""
    if all(_file(n) is not None for n in _CHECKSUMS):
        return ""
    return "brain-deepbet needs its weights: pip install --no-deps deepbet==1.0.2"


def _loaded(name: str) -> Any:
    import torch

    path = checked(Path(str(_file(name))), _CHECKSUMS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()


def build(size: tuple[int, ...], cache: Path, seed: int | None) -> Any:  # noqa: ARG001
    """The network that outlines: (n, 1, X, Y, Z) -> (n, 2, X, Y, Z) probabilities of rest and brain."""
    if seed is not None:
        raise UserError("brain-deepbet serves no features, so it has no control with random weights")
    return _loaded("model.pt")


def _normal(volume: Any, low: float, high: float) -> Any:
    unit = ((volume - low) / max(high - low, 1e-6)).clamp(0, 1)
    return CARD.std[0] * (unit - unit.mean()) / unit.std().clamp(min=1e-6) + CARD.mean[0]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part (faces, edges and corners connect)."""
    from scipy import ndimage

    parts = np.asarray(ndimage.label(mask, structure=np.ones((3, 3, 3)))[0])  # type: ignore[index]
    if not parts.any():
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def _box(coarse: np.ndarray, size: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the coarse mask lies in the full volume, with a tenth of its size around on each side."""
    cuts = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(coarse.mean(axis=others) > _LEAST_SHARE)
        if found.size == 0:
            raise UserError("no brain was found in this volume; brain-deepbet is for T1 MRI of the head")
        scale = size[axis] / coarse.shape[axis]
        middle = scale * (found[-1] + 1 + found[0]) / 2
        reach = scale * (found[-1] + 1 - found[0]) * (0.5 + _MARGIN)
        cuts.append(slice(max(0, round(middle - reach)), min(size[axis], round(middle + reach))))
    return tuple(cuts)


def brain_mask(
    image: Image, *, threshold: float = 0.5, coarse: tuple[int, ...] = COARSE, fine: tuple[int, ...] = FINE
) -> np.ndarray:
    """The brain on the image's own grid: (Z, Y, X) bool, one piece, without holes.

    Raises UserError for a single picture, where the weights are absent, and where no brain is found.
    """
    import torch
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
    from scipy import ndimage
    from torch.nn.functional import interpolate

    if sentence := lacking():
        raise UserError(sentence)
    if not image.is_volume:
        raise UserError("brain-deepbet takes MRI volumes; this is a single picture")
    turned = np.nan_to_num(transforms.oriented(image)[0].astype(np.float32))
    volume = torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 1, 0)))
    with torch.inference_mode():
        small = interpolate(volume[None, None], coarse, mode="nearest-exact")
        low, high = (float(v) for v in np.percentile(small.numpy(), (0.5, 99.5)))
        found = _loaded("bbox_model.pt")(_normal(small, low, high))[0, 1].numpy() > 0.5
        box = _box(_largest(found), tuple(volume.shape))
        cut = interpolate(volume[box][None, None], fine, mode="nearest-exact")
        inside = _loaded("model.pt")(_normal(cut, low, high))[:, 1:]
        inside = interpolate(inside, volume[box].shape, mode="nearest-exact")[0, 0].numpy() > threshold
    whole = np.zeros(tuple(volume.shape), bool)
    whole[box] = ndimage.binary_fill_holes(_largest(inside))
    places = io_orientation(image.affine)
    if not np.isnan(places).any():
        straight = np.array([[0, 1], [1, 1], [2, 1]])
        whole = apply_orientation(whole, ornt_transform(straight, places))
    return np.ascontiguousarray(whole.transpose(2, 1, 0))


@model(
    "brain-deepbet",
    card=CARD,
    available=lacking,
    shown_by="test_brain_extraction_on_a_real_head",
)
def brain_deepbet(*, cache: Path | None = None) -> Encoder:
    """Brain extraction from T1 MRI; gives a mask (``segment``), no features."""
    return Encoder(
        card=CARD,
        build=build,
        identity=digest("brain-deepbet", _CHECKSUMS),
        size=CARD.input_size,
        cache=cache,
        lacking=lacking,
        levels=(),
        segment=brain_mask,
    )

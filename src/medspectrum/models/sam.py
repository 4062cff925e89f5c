"""Segment Anything: an image is embedded once, then outlined from as many prompts as one likes.

Serves what is published in this form: Meta's own ``.pth`` files and MedSAM's, folders of the transformers
library with SAM or SAM 2. Images are prepared as each publication's own code does; an outline comes back on
the image's own pixels. Kirillov et al. 2023 (arXiv:2304.02643), Ravi et al. 2024 (arXiv:2408.00714), Ma et
al. 2024 (MedSAM, doi:10.1038/s41467-024-44824-z).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _sam_file
from medspectrum.models._weights import load_strictly

PREPARATIONS = ("sam", "medsam", "sam2")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MASK_CERTAINTY = 1e-3
"""A mask given as a prompt is taken for probabilities of this and one minus this."""
_PROMPTS_AT_ONCE = 16


@dataclass(frozen=True)
class Promptable:
    """A network that outlines what a prompt points at.

    network: SAM or SAM 2 of transformers, eval mode, float32. preparation: ``sam`` (longer side to ``side``,
    padded), ``medsam`` (stretched to a square, scaled to 0-1 by the picture's own ends) or ``sam2``
    (stretched). low: side of the network's own masks.
    """

    network: Any
    preparation: str
    side: int
    low: int
    source: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


@dataclass(frozen=True)
class Embedded:
    """One picture as the network sees it. size: its own (height, width). shown: its part of the square."""

    features: Any
    size: tuple[int, int]
    shown: tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """What points at one object, in pixels of the picture (x to the right, y down).

    box: (4,) x0, y0, x1, y1. points: (k, 2) with ``positive`` (k,) True inside, False outside.
    logits: (low, low), a mask as ``as_logits`` makes it, or ``Outline.low`` of an earlier answer.
    """

    box: np.ndarray | None = None
    points: np.ndarray | None = None
    positive: np.ndarray | None = None
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class Outline:
    """What one prompt gave. mask: (height, width) bool. score: the network's own estimate of its IoU."""

    place: int
    mask: np.ndarray
    score: float
    low: np.ndarray


def load(path: str | Path, *, preparation: str = "auto") -> Promptable:
    """A network from a ``.pth`` or ``.safetensors`` file, or from a folder of transformers.

    preparation: auto takes ``medsam`` where the file's or folder's name contains that, since its keys do not
    differ from SAM's; else what the network is. Raises UserError (UnreadableFile) where it is none of these,
    or keys are missing.
    """
    path = Path(path).expanduser()
    network, kind = _from_folder(path) if path.is_dir() else _from_file(path)
    if preparation == "auto":
        preparation = "medsam" if kind == "sam" and "medsam" in path.name.lower() else kind
    if preparation not in PREPARATIONS:
        raise UserError(
            f"no preparation is called {preparation!r}; there are: auto, {', '.join(PREPARATIONS)}"
        )
    config = network.config
    side = int(config.prompt_encoder_config.image_size)
    mean, std = _normalising(path) if path.is_dir() else (MEAN, STD)
    low = 4 * side // int(config.prompt_encoder_config.patch_size)
    return Promptable(network, preparation, side, low, str(path), mean, std)


def _from_file(path: Path) -> tuple[Any, str]:
    from transformers import SamModel

    state = tensors_of(path)
    network: Any = SamModel(_sam_file.configuration(state, path))
    return load_strictly(network, _sam_file.renamed(state), path), "sam"


def _from_folder(path: Path) -> tuple[Any, str]:
    import torch
    from transformers import Sam2Model, SamModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        said = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        raise UnreadableFile(path, "holds no config.json; give a SAM folder or a checkpoint file") from None
    except (OSError, ValueError) as error:
        raise UnreadableFile(path / "config.json", f"is no JSON ({error}); copy the model again") from error
    stated = said.get("model_type") if isinstance(said, dict) else None
    kinds: dict[str, tuple[Any, str]] = {
        "sam": (SamModel, "sam"),
        "sam2": (Sam2Model, "sam2"),
        "sam2_video": (Sam2Model, "sam2"),  # published SAM 2 folders hold the video network, this one inside
    }
    if stated not in kinds:
        raise UnreadableFile(
            path, f"holds a model of type {stated!r}, which takes no prompts here; give SAM or SAM 2"
        )
    kind, name = kinds[str(stated)]
    if not list(path.glob("*.safetensors")):
        raise UnreadableFile(path, "holds no .safetensors, the only weights that are read from a folder")
    try:
        network, report = kind.from_pretrained(
            str(path),
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # the library raises whatever its parts do
        words = (str(error).strip() or type(error).__name__).split("\n")[0][:160]
        raise UnreadableFile(path, f"cannot be loaded ({words}); copy the whole model again") from error
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UnreadableFile(
            path, f"its weights lack {', '.join(lacking[:3])}{more}; copy the whole model again"
        )
    return network.eval(), name


def _normalising(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        said = json.loads((folder / "preprocessor_config.json").read_text())
        said = said.get("image_processor", said)
    except (OSError, ValueError, AttributeError):
        said = {}
    return tuple(said.get("image_mean") or MEAN), tuple(said.get("image_std") or STD)


def embed(model: Promptable, picture: np.ndarray) -> Embedded:
    """Show the network a picture, (3, height, width) uint8."""
    import torch

    square = prepared(model, picture)
    with torch.inference_mode():
        features = model.network.get_image_embeddings(torch.from_numpy(square[None]))
    height, width = picture.shape[1:]
    return Embedded(features, (height, width), shown(model, (height, width)))


def shown(model: Promptable, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that a picture of that size takes in the network's square, from its top left."""
    if model.preparation != "sam":
        return model.side, model.side
    scale = model.side / max(size)
    height, width = (int(n * scale + 0.5) for n in size)
    return max(height, 1), max(width, 1)


def prepared(model: Promptable, picture: np.ndarray) -> np.ndarray:
    """The network's input, (3, side, side) float32, made as the publication makes it."""
    import torch.nn.functional as F
    from PIL import Image as Pillow
    from torch import from_numpy

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(f"a picture is (3, height, width) uint8; got {picture.dtype} {picture.shape}")
    if model.preparation == "medsam":
        return _by_splines(picture, model.side)
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (model.mean, model.std))
    height, width = shown(model, picture.shape[1:])  # type: ignore[arg-type]
    if model.preparation == "sam2":
        unit = from_numpy(np.ascontiguousarray(picture)).float()[None] / 255
        fitted = F.interpolate(unit, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return (fitted[0].numpy() - mean) / std
    rows = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))
    pixels = np.asarray(rows.resize((width, height), Pillow.Resampling.BILINEAR), np.float32)
    whole = np.zeros((3, model.side, model.side), np.float32)
    whole[:, :height, :width] = (np.moveaxis(pixels, -1, 0) - 255 * mean) / (255 * std)
    return whole


def _by_splines(picture: np.ndarray, side: int) -> np.ndarray:
    """Stretched by cubic splines after a Gaussian against aliasing, cut to whole grey levels, then 0 to 1."""
    from scipy import ndimage

    made = picture.astype(np.float64)
    zooms = [side / n for n in picture.shape[1:]]
    blur = [max(0.0, (1 / z - 1) / 2) for z in zooms]
    low, high = made.min(), made.max()
    channels = []
    for channel in made:
        soft = ndimage.gaussian_filter(channel, blur, mode="mirror") if any(blur) else channel
        channels.append(ndimage.zoom(soft, zooms, order=3, mode="mirror", grid_mode=True))
    levels = np.clip(np.stack(channels), low, high).astype(np.uint8)
    span = max(float(levels.max()) - float(levels.min()), 1e-8)
    return ((levels - levels.min()) / span).astype(np.float32)


def outline(model: Promptable, seen: Embedded, prompts: Sequence[Prompt]) -> Iterator[Outline]:
    """Outlines from prompts on one picture, a few at a time, ``place`` saying whose they are.

    A single point is ambiguous: of the three masks that the network offers the one it trusts most is taken,
    as its authors advise. Other prompts, and MedSAM, give one mask. Raises ValueError for an empty prompt.
    """
    alike: dict[tuple[int, bool, bool], list[int]] = {}
    for place, prompt in enumerate(prompts):
        count = 0 if prompt.points is None else len(prompt.points)
        if not count and prompt.box is None and prompt.logits is None:
            raise ValueError(f"prompt {place} points at nothing")
        alike.setdefault((count, prompt.box is not None, prompt.logits is not None), []).append(place)
    for places in alike.values():
        for begin in range(0, len(places), _PROMPTS_AT_ONCE):
            some = places[begin : begin + _PROMPTS_AT_ONCE]
            low, scores = _answers(model, seen, [prompts[i] for i in some])
            for place, own, score in zip(some, low, scores, strict=True):
                mask = on_picture(model, seen, own) > 0
                yield Outline(place, mask, float(score), own)


def _answers(model: Promptable, seen: Embedded, prompts: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray]:
    """(n, low, low) logits and (n,) estimated IoUs of prompts of one form."""
    first = prompts[0]
    lone = first.box is None and first.logits is None and first.points is not None and len(first.points) == 1
    low, scores = offered(model, seen, prompts, several=lone and model.preparation != "medsam")
    best = scores.argmax(axis=1)
    rows = np.arange(len(prompts))
    return low[rows, best], scores[rows, best]


def offered(
    model: Promptable, seen: Embedded, prompts: Sequence[Prompt], *, several: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All masks that the network offers for prompts of one form: (n, k, low, low) logits, (n, k) its scores.

    several: k = 3, as for what is ambiguous; else k = 1.
    """
    import torch

    scale = np.array([seen.shown[1] / seen.size[1], seen.shown[0] / seen.size[0]])
    first, count = prompts[0], len(prompts)
    given: dict[str, Any] = {}
    if first.points is not None and len(first.points):
        points = np.stack([np.asarray(p.points, np.float64) * scale for p in prompts])
        inside = np.stack([np.asarray(p.positive, bool) for p in prompts])
        given["input_points"] = torch.from_numpy(points.astype(np.float32))[:, None]
        given["input_labels"] = torch.from_numpy(inside.astype(np.int32))[:, None]
    if first.box is not None:
        boxes = np.stack([np.asarray(p.box, np.float64).reshape(2, 2) * scale for p in prompts])
        given["input_boxes"] = torch.from_numpy(boxes.astype(np.float32)).reshape(count, 1, 4)
    if first.logits is not None:
        given["input_masks"] = torch.from_numpy(
            np.stack([np.asarray(p.logits, np.float32) for p in prompts])
        )[:, None]
    features = seen.features
    many = (
        [f.expand(count, *f.shape[1:]) for f in features]
        if isinstance(features, list | tuple)
        else features.expand(count, *features.shape[1:])
    )
    with torch.inference_mode():
        said = model.network(image_embeddings=many, multimask_output=several, **given)
    return said.pred_masks[:, 0].numpy(), said.iou_scores[:, 0].numpy()


def on_picture(model: Promptable, seen: Embedded, low: np.ndarray) -> np.ndarray:
    """The network's own small masks (..., low, low) at the picture's pixels; inside where above 0."""
    import torch
    import torch.nn.functional as F

    def at(values: Any, size: tuple[int, int]) -> Any:
        return F.interpolate(values, size, mode="bilinear", align_corners=False)

    def given_back(values: Any) -> np.ndarray:
        return at(values, seen.size).numpy().reshape(*low.shape[:-2], *seen.size)

    values = torch.from_numpy(low.reshape(1, -1, *low.shape[-2:]))
    if model.preparation == "medsam":
        return given_back(torch.sigmoid(values)) - 0.5
    if model.preparation == "sam":
        height, width = seen.shown
        values = at(values, (model.side, model.side))[..., :height, :width]
    return given_back(values)


def as_logits(model: Promptable, seen: Embedded, mask: np.ndarray) -> np.ndarray:
    """A mask on the picture's pixels, (height, width) bool, as the small logits that a prompt takes."""
    import torch
    import torch.nn.functional as F

    scale = model.low / model.side
    height, width = (max(1, round(n * scale)) for n in seen.shown)
    given = torch.from_numpy(mask.astype(np.float32))[None, None]
    small = F.interpolate(given, (height, width), mode="bilinear", align_corners=False, antialias=True)
    share = np.zeros((model.low, model.low), np.float32)
    share[:height, :width] = small[0, 0].numpy()
    share = np.clip(share, MASK_CERTAINTY, 1 - MASK_CERTAINTY)
    return np.log(share / (1 - share))

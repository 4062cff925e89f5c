"""The image encoder of a Segment Anything checkpoint as an encoder like any other: ``sam:PATH``.

So a promptable model can be adapted without prompts, as AdaptiveSAM (biases), Medical SAM Adapter (adapters)
and SAMed (low-rank deltas) adapt it: by the methods of those kinds, on its maps. PATH is Meta's own file or
MedSAM's. Smaller inputs than the published 1024 pixels are seen with its places in between.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UserError
from medspectrum.models import _sam_file, sam
from medspectrum.models._weights import load_strictly
from medspectrum.registry import model
from medspectrum.store import digest, file_digest

_PART = "vision_encoder."
_WINDOW = 4  # blocks whose states are maps: evenly spaced

CARD = Card(
    name="sam:PATH",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="that of the file",
    commercial_use=False,
    source="a checkpoint file of Segment Anything or MedSAM (.pth)",
    status="loads",
    parameters=0,
    width=0,
    input_size=(1024, 1024),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    stride=16,
    citation="Kirillov et al. 2023, arXiv:2304.02643",
)


def _lacking(path: Path) -> str:
    return "" if path.is_file() else f"{path}: there is no such file; copy the checkpoint there"


def _fitted(state: dict[str, Any], config: Any, native: int) -> dict[str, Any]:
    """The encoder's tensors with places interpolated for another input size."""
    import torch.nn.functional as F

    grid = config.image_size // config.patch_size
    found = {}
    for name, tensor in state.items():
        if name == "pos_embed" and tensor.shape[1] != grid:
            planes = tensor.permute(0, 3, 1, 2)
            tensor = F.interpolate(planes, (grid, grid), mode="bicubic", align_corners=False).permute(
                0, 2, 3, 1
            )
        if name.endswith(("rel_pos_h", "rel_pos_w")) and tensor.shape[0] == 2 * native - 1:
            lines = tensor.T[None]
            tensor = F.interpolate(lines, 2 * grid - 1, mode="linear", align_corners=False)[0].T
        found[name] = tensor.contiguous()
    return found


def build(size: tuple[int, ...], cache: Path, seed: int | None, *, path: Path) -> Any:  # noqa: ARG001
    """The image encoder at that input side, strictly loaded, or with random weights of the same sizes."""
    import torch
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    state = tensors_of(path)
    config = _sam_file.configuration(state, path).vision_config
    native = config.image_size // config.patch_size
    config.image_size = size[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        inner: Any = SamVisionEncoder(config)
        inner.post_init()
    if seed is None:
        named = {k.removeprefix(_PART): v for k, v in _sam_file.renamed(state).items() if k.startswith(_PART)}
        load_strictly(inner, _fitted(named, config, native), path)
    depth = len(inner.layers)
    places = sorted({max(0, round((i + 1) * depth / _WINDOW) - 1) for i in range(_WINDOW)})

    class Seen(torch.nn.Module):
        """Pooled: the mean of the neck's map. Maps: four evenly spaced blocks, then the neck's."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, batch: Any) -> Any:
            return self.read_level(batch, "pooled")[0]

        def read_level(self, batch: Any, level: str) -> tuple[Any, ...]:
            states = self.inner.patch_embed(batch)
            if self.inner.pos_embed is not None:
                states = states + self.inner.pos_embed
            kept = []
            for place, layer in enumerate(self.inner.layers):
                states = layer(states)
                states = states[0] if isinstance(states, tuple) else states
                if level == "maps" and place in places:
                    kept.append(states.permute(0, 3, 1, 2))
            last = self.inner.neck(states)
            if level == "maps":
                return (*kept, last)
            return (last,) if level == "tokens" else (last.mean(dim=(2, 3)),)

    return Seen().eval()


@model(
    "sam:PATH", card=CARD, prefix="sam:", shown_by="test_the_image_encoder_gives_what_segment_anything_embeds"
)
def sam_encoder(words: str, *, cache: Path | None = None, random: bool = False) -> Encoder:
    """The image encoder of a Segment Anything or MedSAM file, to adapt without prompts."""
    from dataclasses import replace

    path = Path(words).expanduser()
    if sentence := _lacking(path):
        raise UserError(sentence)
    state = tensors_of(path)
    config = _sam_file.configuration(state, path).vision_config
    unit = "medsam" in path.name.lower()  # whose pictures are given from 0 to 1
    own = [v for k, v in state.items() if k.startswith("image_encoder.")]
    card = replace(
        CARD,
        name=f"sam:{words}",
        source=str(path),
        parameters=sum(v.numel() for v in own),
        width=int(config.output_channels),
        input_size=(config.image_size, config.image_size),
        stride=int(config.patch_size),
        mean=(0.0, 0.0, 0.0) if unit else CARD.mean,
        std=(1.0, 1.0, 1.0) if unit else CARD.std,
    )
    return Encoder(
        card=card,
        build=partial(build, path=path),
        identity=digest("sam", config.to_json_string(), "" if random else file_digest(path)),
        size=(int(config.image_size),),
        cache=cache,
        lacking=partial(_lacking, path),
        outline=None if random else partial(outlined, path),
        whole=None if random else partial(whole, path),
    )


def whole(path: Path, size: tuple[int, ...]) -> Any:
    """The network with prompt encoder and mask decoder at that input side, strictly loaded, eval mode."""
    from transformers import SamModel

    state = tensors_of(path)
    config = _sam_file.configuration(state, path)
    vision, prompts = config.vision_config, config.prompt_encoder_config
    native = vision.image_size // vision.patch_size
    vision.image_size = prompts.image_size = size[0]
    prompts.image_embedding_size = size[0] // vision.patch_size
    named = _sam_file.renamed(state)
    own = {k.removeprefix(_PART): v for k, v in named.items() if k.startswith(_PART)}
    fitted = {_PART + k: v for k, v in _fitted(own, vision, native).items()}
    network: Any = SamModel(config)
    return load_strictly(network, {**named, **fitted}, path)


def outlined(path: Path, picture: np.ndarray, boxes: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """What is in each box (n, 4) of a picture (3, height, width) uint8, by the whole promptable network."""
    network = _promptable(str(path))
    seen = sam.embed(network, picture)
    found = sam.outline(network, seen, [sam.Prompt(box=box) for box in boxes])
    by_place = {one.place: (one.mask, one.score) for one in found}
    return [by_place[i] for i in range(len(boxes))]


@lru_cache(maxsize=1)
def _promptable(path: str) -> sam.Promptable:
    return sam.load(path)

"""HIPT: a slide's regions read in two levels, cells in patches of 256 pixels and patches in regions of 4096.

Chen et al., CVPR 2022 (arXiv:2206.02647). Both levels learned by DINO on 10 678 slides of TCGA. Each has its
own checkpoint, taken as it was saved; of both networks in it the teacher is the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.engine.encoder import Encoder
from medspectrum.models import _placed
from medspectrum.models._hipt_network import network, two_levels
from medspectrum.models._published import Published, Tensors
from medspectrum.registry import model
from medspectrum.store import digest, file_digest

REPOSITORY = "https://github.com/mahmoodlab/HIPT"
PATCHES = Card(
    name="hipt-vit256",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0 with Commons Clause; for non-commercial academic purposes",
    commercial_use=False,
    source=f"{REPOSITORY}, HIPT_4K/Checkpoints/vit256_small_dino.pth",
    status="conforms",
    parameters=21_665_664,
    width=384,
    input_size=(256, 256),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stride=16,
    checksum="6960cd5a8657dc8bb214671aa0c6dbd3f5b698e84386884955836487ddc89e24",
    citation="Chen et al. 2022, arXiv:2206.02647",
    notes="patches of 256 pixels at 20x",
    weights=f"{REPOSITORY}/raw/master/HIPT_4K/Checkpoints/vit256_small_dino.pth",
    download_mb=704,
    file_format="pytorch",
    gflops=12.3,
    code_licence="Apache-2.0 with Commons Clause",
    training_data="patches of 10 678 slides of TCGA, 33 cancer types, without labels",
    overlaps=("TCGA",),
)
REGIONS = replace(
    PATCHES,
    name="hipt-4k",
    source=f"{REPOSITORY}, HIPT_4K/Checkpoints/vit4k_xs_dino.pth, beside the file of hipt-vit256",
    parameters=2_781_504,
    width=192,
    input_size=(4096, 4096),
    stride=256,
    checksum="2b0bd9e9a602a35f2bb3f76da39d2b53a91f23fc3f115dc59a63267d95ad2b7b",
    notes="regions of 4096 pixels at 20x; parameters and operations of the second level alone",
    weights=f"{REPOSITORY}/raw/master/HIPT_4K/Checkpoints/vit4k_xs_dino.pth",
    download_mb=396,
    gflops=1.7,
    training_data="regions of 10 678 slides of TCGA as grids of what hipt-vit256 gave, without labels",
)


def _backbone(state: Tensors) -> Tensors:
    """Of a teacher its backbone; the head that DINO trains with is left."""
    kept = {k: v for k, v in state.items() if not k.startswith("head.")}
    return {k.removeprefix("backbone."): v for k, v in kept.items()}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    images = given["images"]
    return {"answer": made(images), "states": made.norm(made.states(images)[-1])}


FIRST = Published(
    build=network,
    settings={"width": 384, "depth": 12, "heads": 6},
    renamed=_backbone,
    answer=_answer,
    small={"width": 32, "depth": 4, "heads": 2},
)
SECOND = Published(
    build=network,
    settings={"width": 192, "depth": 6, "heads": 6, "inside": 384},
    renamed=_backbone,
    answer=_answer,
    small={"width": 16, "depth": 4, "heads": 2, "inside": 32},
)

_placed.enter(
    PATCHES,
    FIRST,
    summary="Histology patches of 256 pixels, a ViT-S that learned by DINO; HIPT's first level.",
    module=__name__,
    reader=lambda made, size: made,  # noqa: ARG005 - its positions follow the picture
    small_width=32,
    small_size=(64, 64),
)


def _lacking(cache: Path | None = None) -> str:
    """What is missing of both files."""
    return weights_place.lacking(PATCHES, cache) or weights_place.lacking(REGIONS, cache)


def build(
    size: tuple[int, ...],  # noqa: ARG001 - any number of patches will do
    cache: Path,
    seed: int | None,
    *,
    small: bool = False,
) -> Any:
    """Both levels joined, with the weights of their files or random ones."""
    import torch

    if seed is None:
        return two_levels(
            FIRST.network(weights_place.needed(PATCHES, cache)),
            SECOND.network(weights_place.needed(REGIONS, cache)),
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        levels = [network(**(p.small if small else p.settings)) for p in (FIRST, SECOND)]
    return two_levels(*levels)


def tiny(cache: Path | None = None) -> Encoder:
    """Two narrow levels on a region of two by two patches, random weights."""
    card = replace(REGIONS, width=16, parameters=0, input_size=(512, 512))
    made = replace(hipt_4k(cache=cache), card=card, size=(512,), build=partial(build, small=True))
    return made.twin(0)


@model("hipt-4k", card=REGIONS, available=_lacking, tiny=tiny, published=SECOND)
def hipt_4k(*, cache: Path | None = None) -> Encoder:
    """Histology regions of 4096 pixels, read in two levels: cells in patches, patches in regions."""
    paths = [weights_place.found(card, cache) for card in (PATCHES, REGIONS)]
    return Encoder(
        card=REGIONS,
        build=build,
        identity=digest("hipt-4k", [file_digest(p) if p is not None else "" for p in paths]),
        size=(4096,),
        cache=cache,
        lacking=partial(_lacking, cache),
    )

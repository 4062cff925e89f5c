"""Any architecture of timm by its name, with weights that are on this machine already.

Nothing is downloaded: a hospital's machine is offline, and a run must not depend on a server.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.models import _timm
from medspectrum.registry import model
from medspectrum.store import digest, file_digest

CARD = Card(
    name="timm:NAME",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="that of the named weights",
    commercial_use=False,
    source="any timm name whose weights lie in the local Hugging Face cache, e.g. timm:resnet50",
    status="loads",
    parameters=0,
    width=0,
    input_size=(224, 224),
    citation="Wightman, PyTorch Image Models, doi:10.5281/zenodo.4414861",
)


def _weights(architecture: str) -> Path | None:
    """The architecture's safetensors in the local cache of hub files, if they were ever fetched."""
    from huggingface_hub import try_to_load_from_cache

    where = _timm.configuration(architecture).hf_hub_id
    found = try_to_load_from_cache(where, "model.safetensors") if where else None
    return Path(found) if isinstance(found, str) else None


def _lacking(architecture: str) -> str:
    if _weights(architecture) is not None:
        return ""
    where = _timm.configuration(architecture).hf_hub_id
    if not where:
        return (
            f"timm publishes no weights for {architecture}; "
            f"name a file of yours: file:PATH?arch={architecture}"
        )
    return (
        f"timm:{architecture} has no weights on this machine; where there is a network run "
        f"`hf download {where} model.safetensors`, copy that file here and name it "
        f"file:PATH?arch={architecture}"
    )


def build(size: tuple[int, ...], cache: Path, seed: int | None, *, architecture: str) -> Any:  # noqa: ARG001
    """The timm network without classifier."""
    import torch
    from safetensors.torch import load_file

    native = int(_timm.configuration(architecture).input_size[-1])
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _timm.at_size(_timm.bare(architecture), size[0], native=native)
    path = _weights(architecture)
    if path is None:
        raise UserError(_lacking(architecture))
    network = _timm.loaded(_timm.bare(architecture), load_file(path), path)
    return _timm.at_size(network, size[0], native=native)


def tiny(cache: Path | None = None) -> Encoder:
    """Timm's own test transformer, random weights."""
    return timm_names("test_vit", cache=cache, random=True).with_size(64).twin(0)


@model("timm:NAME", card=CARD, prefix="timm:", tiny=tiny)
def timm_names(architecture: str, *, cache: Path | None = None, random: bool = False) -> Encoder:
    """Any timm architecture; random: weights will not be asked for."""
    path = None if random else _weights(architecture)
    card = _timm.card_of(f"timm:{architecture}", architecture, source=f"timm {architecture}", status="loads")
    return Encoder(
        card=card,
        build=partial(build, architecture=architecture),
        identity=digest("timm", architecture, file_digest(path) if path else ""),
        size=card.input_size[:1],
        cache=cache,
        lacking=partial(_lacking, architecture),
    )

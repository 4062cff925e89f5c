"""A safetensors file of one's own, for a timm architecture: ``file:PATH?arch=NAME``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _timm
from medspectrum.registry import model
from medspectrum.store import atomic, cache_folder, digest, file_digest

CARD = Card(
    name="file:PATH?arch=NAME",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="that of the file",
    commercial_use=False,
    source="a safetensors file of yours with the weights of a timm architecture",
    status="loads",
    parameters=0,
    width=0,
    input_size=(224, 224),
)


def _parsed(words: str) -> tuple[Path, str]:
    """The path and the architecture of ``PATH?arch=NAME``. Raises UserError where one is missing."""
    place, _, query = words.partition("?")
    named = parse_qs(query).get("arch", [])
    if len(named) != 1:
        raise UserError(f"file:{words} names no architecture; write file:{place}?arch=NAME with a timm name")
    path = Path(place).expanduser()
    if path.suffix != ".safetensors":
        raise UnreadableFile(
            path,
            "weights are read from .safetensors only, since other formats can run code; convert it first",
        )
    return path, named[0]


def _lacking(path: Path) -> str:
    return "" if path.is_file() else f"{path}: there is no such file; copy the weights there"


def _read(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise UnreadableFile(path, f"not a whole safetensors file ({problem}); copy it again") from problem


def build(
    size: tuple[int, ...],
    cache: Path,  # noqa: ARG001
    seed: int | None,
    *,
    architecture: str,
    path: Path,
) -> Any:
    """The timm network without classifier, strictly loaded."""
    import torch

    native = int(_timm.configuration(architecture).input_size[-1])
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _timm.at_size(_timm.bare(architecture), size[0], native=native)
    network = _timm.loaded(_timm.bare(architecture), _read(path), path)
    return _timm.at_size(network, size[0], native=native)


def tiny(cache: Path | None = None) -> Encoder:
    """A file made here of timm's own test network: the real path of loading."""
    import torch
    from safetensors.torch import save_file

    path = cache_folder(cache) / "tiny" / "test_vit.safetensors"
    if not path.exists():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            weights = _timm.bare("test_vit").state_dict()
        with atomic(path) as partial_path:
            save_file({k: v.contiguous() for k, v in weights.items()}, partial_path)
    return local_file(f"{path}?arch=test_vit", cache=cache).with_size(64)


@model("file:PATH?arch=NAME", card=CARD, prefix="file:", tiny=tiny)
def local_file(words: str, *, cache: Path | None = None, random: bool = False) -> Encoder:
    """Weights of one's own for a timm architecture."""
    path, architecture = _parsed(words)
    if not random and (sentence := _lacking(path)):
        raise UserError(sentence)
    card = _timm.card_of(f"file:{words}", architecture, source=str(path), status="loads")
    return Encoder(
        card=card,
        build=partial(build, architecture=architecture, path=path),
        identity=digest("file", architecture, "" if random else file_digest(path)),
        size=card.input_size[:1],
        cache=cache,
        lacking=partial(_lacking, path),
    )

"""Weights that came inside an installed package: found, checked, read without running anything of theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medspectrum.errors import UnreadableFile

_BLOCK = 1 << 22


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it; None where it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def sha256(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one after the other."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as held:
            while block := held.read(_BLOCK):
                whole.update(block)
    return whole.hexdigest()


def checked(path: Path, expected: str) -> Path:
    """The path, once its bytes are those that were reviewed. Raises UnreadableFile otherwise."""
    found = sha256(path)
    if found != expected:
        raise UnreadableFile(
            path, f"its SHA-256 is {found[:12]}..., not {expected[:12]}...; install the package again"
        )
    return path


def differing(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How names and shapes of weights differ from the network's, a few words each."""
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    return [
        *(f"{k} is missing" for k in missing),
        *(f"{k} is unknown to the network" for k in given if k not in own),
        *(f"{k} is {given[k]}, not {own[k]}" for k in own if k in given and given[k] != own[k]),
    ]


def load_strictly(network: Any, weights: Mapping[str, Any], source: object) -> Any:
    """Load weights whose names and shapes are exactly the network's; else name three that differ.

    Raises UnreadableFile.
    """
    own = network.state_dict()
    differ = differing(
        {k: tuple(v.shape) for k, v in own.items()}, {k: tuple(v.shape) for k, v in weights.items()}
    )
    if differ:
        more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UnreadableFile(
            source,
            f"these weights are not of {type(network).__name__}: {'; '.join(differ[:3])}{more}; "
            "name the network they were made for",
        )
    network.load_state_dict({**own, **weights})
    return network.eval()

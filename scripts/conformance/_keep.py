"""Write what an original implementation answered as the fixtures of one row: tests/data/published/ROW/."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

PUBLISHED = Path(__file__).parents[2] / "tests" / "data" / "published"


def rounded(network) -> None:
    """Bring a network's floating tensors to values that half precision holds exactly."""
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half().float())


def stirred(network, seed: int, *, spread: float = 0.1) -> None:
    """Draw again what an implementation sets to ones and zeros, so that every parameter matters."""
    import torch

    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=made)
            if name.endswith("running_var"):
                value.mul_(torch.exp(0.3 * noise))
            else:
                value.add_(spread * noise)
    rounded(network)


def folder(row: str) -> Path:
    """The row's folder, made."""
    made = PUBLISHED / row
    made.mkdir(parents=True, exist_ok=True)
    return made


def answers(row: str, given: dict, found: dict, *, original: str, settings: dict) -> None:
    """io.npz and meta.json: tensors by name, what made them, the settings of the small network."""
    arrays = {f"in_{k}": v.detach().numpy() for k, v in given.items()}
    arrays |= {f"out_{k}": v.detach().numpy() for k, v in found.items()}
    np.savez_compressed(folder(row) / "io.npz", **arrays)
    told = {"original": original, "settings": settings, "tolerance": 1e-5}
    (folder(row) / "meta.json").write_text(json.dumps(told, indent=1) + "\n")


def shapes(row: str, state: dict, *, listed_from: str) -> None:
    """shapes.json.gz: names and shapes of the checkpoint of the published size."""
    said = {"listed_from": listed_from, "shapes": {k: list(v.shape) for k, v in state.items()}}
    packed = gzip.compress(json.dumps(said, separators=(",", ":")).encode(), 9, mtime=0)
    (folder(row) / "shapes.json.gz").write_bytes(packed)

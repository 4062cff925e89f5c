"""Weights from a file that somebody trained: plain tensors, never code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from medspectrum.errors import UnreadableFile

_WRAPPINGS = ("model", "state_dict", "model_state_dict", "network_weights", "teacher")


def _plain() -> list[Any]:
    """Pickled classes of numbers and settings, met in checkpoints beside the weights; none runs code."""
    import argparse

    import numpy as np

    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    array = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        np.dtype,
        np.ndarray,
        *(type(np.dtype(kind)) for kind in kinds),
        argparse.Namespace,
    ]


def tensors_of(path: Path) -> dict[str, Any]:
    """Keys and tensors of a ``.pth``, ``.pt`` or ``.safetensors``, wrappings of a training run taken off.

    No pickled code is run. Raises UnreadableFile where the file is none, or holds no tensors.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_plain()):
                warnings.simplefilter("ignore")  # on the file's pickle protocol
                held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UnreadableFile(path, "does not exist; give a file of weights") from None
    except Exception as error:  # a damaged pickle raises whatever it likes
        words = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise UnreadableFile(
            path, f"cannot be read as plain weights ({words}); code in a file is never run: copy it again"
        ) from error
    for wrapping in _WRAPPINGS:
        if isinstance(held, dict) and isinstance(held.get(wrapping), dict):
            held = held[wrapping]
    if not isinstance(held, dict) or not held or not all(hasattr(v, "shape") for v in held.values()):
        raise UnreadableFile(path, "holds no table of weights; give a checkpoint")
    return {str(k).removeprefix("module."): v for k, v in held.items()}

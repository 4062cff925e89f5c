"""Weights from a file that somebody trained: plain tensors, never code."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from medspectrum.errors import UnreadableFile

_WRAPPINGS = ("model", "state_dict", "model_state_dict", "network_weights", "teacher")
_NAMED = re.compile(r"(?:GLOBAL|it names|Unsupported class:?) ([\w.]+)")
CONVERSION = (
    "code in a file is never run; where it may be trusted, on a machine that may be lost, run "
    "python -c \"import torch, safetensors.torch as s; d = torch.load('{name}', map_location='cpu', "
    "weights_only=False); d = d.get('model', d.get('state_dict', d)); "
    "s.save_file({{k: v.contiguous() for k, v in d.items()}}, '{stem}.safetensors')\" "
    "and give the .safetensors"
)


class UnsafeFile(UnreadableFile):
    """A pickle that names something to be run."""


def tensors_of(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Keys and tensors of a ``.pth``, ``.pt`` or ``.safetensors``, wrappings of a training run taken off.

    No pickled code is run; of a TorchScript archive the tensors alone are read. Raises UnreadableFile where
    the file is none, or holds no tensors, UnsafeFile where it would run something.

    mapped: leave the tensors of a zipped pickle in the file until they are used, for one larger than memory.
    """
    return parts_of(path, mapped=mapped)[0]


def parts_of(path: Path, *, mapped: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors as ``tensors_of`` gives them, and what else its outermost table says. Raises the same."""
    held = _held(path, mapped=mapped)
    beside = {str(k): v for k, v in held.items() if k not in _WRAPPINGS} if isinstance(held, dict) else {}
    for wrapping in _WRAPPINGS:
        if isinstance(held, dict) and isinstance(held.get(wrapping), dict):
            held = held[wrapping]
    if not isinstance(held, dict) or not held or not all(hasattr(v, "shape") for v in held.values()):
        raise UnreadableFile(path, "holds no table of weights; give a checkpoint")
    return {str(k).removeprefix("module."): v for k, v in held.items()}, beside


def _held(path: Path, *, mapped: bool = False) -> Any:
    import torch

    from medspectrum.engine import torchscript_file

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if torchscript_file.is_archive(path):
            return torchscript_file.tensors(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain()):
            warnings.simplefilter("ignore")  # on the file's pickle protocol
            mapped = mapped and zipfile.is_zipfile(path)  # older files cannot be
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise UnreadableFile(path, "does not exist; give a file of weights") from None
    except Exception as error:  # a damaged pickle raises whatever it likes
        named = _NAMED.search(str(error))
        if what := named.group(1) if named else _called(path):
            told = CONVERSION.format(name=path.name, stem=path.stem)
            raise UnsafeFile(path, f"holds more than weights (it would call {what}); {told}") from error
        words = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise UnreadableFile(
            path, f"cannot be read as plain weights ({words}); it is damaged or cut short: copy it again"
        ) from error


def _called(path: Path) -> str:
    """What the first foreign name of a bare pickle is, found by looking at it, not by loading it; else ''."""
    import pickletools

    said: list[str] = []
    with path.open("rb") as stream:
        if stream.read(1) != b"\x80":
            return ""
        stream.seek(0)
        try:
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if code.name == "STACK_GLOBAL":
                    return ".".join(said[-2:])
                if isinstance(argument, str):
                    said.append(argument)
        except ValueError:
            return ""
    return ""


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

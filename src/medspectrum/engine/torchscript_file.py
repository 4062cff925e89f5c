"""Tensors of a TorchScript archive, read without its program: a zip of raw storages and one table.

Some makers publish such archives (CLIP). Loading one the usual way brings its program with it; here only the
table of what belongs to which module is read, and it may name nothing but tensors and plain containers.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

_SCRIPTED = "__torch__"
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_KINDS = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Double": "float64",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}


class _Held:
    """One module or object of the archive: its attributes, no behaviour."""

    def __init__(self, *_: Any) -> None:
        self.parts: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.parts = dict(state) if isinstance(state, dict) else {}


def is_archive(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which differs from other zips of torch by its constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as held:
        return any(name.endswith("/constants.pkl") for name in held.namelist())


def tensors(path: Path) -> dict[str, Any]:
    """Names as in a state dict, and tensors. Raises pickle.UnpicklingError where it names anything else."""
    import torch

    def plain(first: Any, *_: Any) -> Any:
        return first

    def rebuilt(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
        return torch.as_strided(storage, tuple(size), tuple(stride), int(offset)).clone()

    with zipfile.ZipFile(path) as archive:
        (table,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        root = table.removesuffix("data.pkl")
        storages: dict[str, Any] = {}

        class Table(pickle.Unpickler):
            """Resolves the few names that a table of tensors is made of."""

            def find_class(self, module: str, name: str) -> Any:
                if module.split(".")[0] == _SCRIPTED:
                    return _Held
                if (module, name) == ("collections", "OrderedDict"):
                    return OrderedDict
                if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                    return rebuilt
                if module == "torch.jit._pickle" and name in _LISTS:
                    return plain
                if module == "torch" and name.removesuffix("Storage") in _KINDS:
                    return getattr(torch, _KINDS[name.removesuffix("Storage")])
                raise pickle.UnpicklingError(f"it names {module}.{name}")

            def persistent_load(self, pid: Any) -> Any:
                _, kind, key, _, count = pid
                if key not in storages:
                    raw = bytearray(archive.read(f"{root}data/{key}"))
                    storages[key] = (
                        torch.frombuffer(raw, dtype=kind) if raw else torch.empty(int(count), dtype=kind)
                    )
                return storages[key]

        whole = Table(io.BytesIO(archive.read(table))).load()
    return dict(_named(whole, ""))


def _named(held: Any, prefix: str) -> Any:
    if not isinstance(held, _Held):
        return
    for name, value in held.parts.items():
        if hasattr(value, "shape"):
            yield f"{prefix}{name}", value
        else:
            yield from _named(value, f"{prefix}{name}.")

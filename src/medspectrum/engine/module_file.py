"""Tensors of a network that was pickled whole, read without making it: its classes become dead shells.

Some early checkpoints are pickles of a module, which the usual reader would have to import and build. Here
the names that the pickle may use are fixed beforehand; a shell keeps what is put into it and does nothing, so
no line of anybody's program runs.
"""

from __future__ import annotations

import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medspectrum.engine.weights_file import CONVERSION, UnsafeFile
from medspectrum.errors import UnreadableFile


class Shell:
    """What a pickled module held: its attributes."""

    dump_patches = False  # torch asks whether to write down how the class's source has changed

    def __init__(self, *_: Any) -> None:
        self.held: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.held = dict(state) if isinstance(state, dict) else {}


def module_tensors(path: Path, *, packages: Sequence[str]) -> dict[str, Any]:
    """Names as in a state dict, and tensors, of a module pickled whole.

    packages: of whose classes the module may be made (``torch.nn`` always). Raises UnsafeFile where it names
    anything else, UnreadableFile where it is no such pickle.
    """
    import torch
    from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

    allowed = ("torch.nn.modules.", *(f"{p}." for p in packages))
    tensor_makers = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("collections", "OrderedDict"): OrderedDict,
    }

    class Reader(pickle.Unpickler):
        """Resolves what makes tensors, and shells of the allowed classes."""

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in tensor_makers:
                return tensor_makers[module, name]
            if module == "torch" and name.endswith("Storage"):
                return getattr(torch, name)
            if f"{module}.".startswith(allowed):
                return Shell
            if (module, name) in (("__builtin__", "set"), ("builtins", "set")):
                return set
            raise pickle.UnpicklingError(f"it names {module}.{name}")

    reading = types.ModuleType("reading")
    vars(reading).update(Unpickler=Reader, load=lambda held, **how: Reader(held, **how).load())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old storages
            whole = torch.load(path, map_location="cpu", pickle_module=reading, weights_only=False)
    except FileNotFoundError:
        raise UnreadableFile(path, "does not exist; give a file of weights") from None
    except Exception as error:  # a damaged pickle raises whatever it likes
        if "it names " in str(error):
            what = str(error).rpartition("it names ")[2].split()[0]
            told = CONVERSION.format(name=path.name, stem=path.stem)
            raise UnsafeFile(path, f"holds more than weights (it would call {what}); {told}") from error
        raise UnreadableFile(path, "is no network that was saved whole; copy it again") from error
    found = dict(_named(whole, ""))
    if not found:
        raise UnreadableFile(path, "holds no network that was saved whole; give the published file")
    return found


def _named(shell: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(shell, Shell):
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (shell.held.get(kind) or {}).items():
            if tensor is not None:
                yield f"{prefix}{name}", tensor.detach()
    for name, inner in (shell.held.get("_modules") or {}).items():
        yield from _named(inner, f"{prefix}{name}.")

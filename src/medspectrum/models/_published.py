"""A published checkpoint: the network it was made for, and what may be said of a file that claims to be it.

A family gives ``Published`` with the row that it registers (``@model(NAME, card=..., published=...)``). The
file is taken as its makers published it; nothing in it is executed. Where a file is looked for, and how it
gets there, is ``engine/weights_place.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UnreadableFile
from medspectrum.models._weights import differing, load_strictly, sha256

Tensors = dict[str, Any]


def as_it_is(state: Tensors) -> Tensors:
    """The file's names are the network's."""
    return state


def whole(network: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a network answers to tensors by name: called with them in their order."""
    found = network(*given.values())
    return {"answer": found}


def itself(path: Path) -> list[Path]:
    """The one file that a checkpoint is."""
    return [path]


@dataclass(frozen=True)
class Published:
    """How a published checkpoint becomes a network.

    build: ``(**settings) -> module`` with random weights; works under ``torch.device("meta")``.
    settings: those of the published size. renamed: the file's tensors -> the module's, with what inference
    does not use left out. answer: ``(module, inputs by name) -> outputs by name``, what the conformance test
    compares with the original's. fake: for families whose network is a library's: ``(folder) -> path`` of a
    small checkpoint in the published layout, written by that library; ``small`` are its settings.
    library: the package that holds the network, '' for our own. read: how the file's tensors are read.
    files: of a checkpoint that is a folder, the files whose bytes count; else the file itself.
    """

    build: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    renamed: Callable[[Tensors], Tensors] = as_it_is
    answer: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = whole
    fake: Callable[[Path], Path] | None = None
    small: Mapping[str, Any] = field(default_factory=dict)
    library: str = ""
    read: Callable[[Path], Tensors] = tensors_of
    files: Callable[[Path], list[Path]] = itself

    def network(self, path: str | Path, **settings: Any) -> Any:
        """The network with a file's weights, eval mode, float32.

        settings: of a size other than the published one. Raises UnreadableFile with the first three names
        that differ.
        """
        path = Path(path).expanduser()
        network = self.build(**{**self.settings, **settings})
        state = self.renamed(self.read(path))
        return load_strictly(
            network, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, path
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes that the network of the published size asks for, without its memory."""
        import torch

        with torch.device("meta"):
            network = self.build(**self.settings)
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    def differs(self, state: Tensors) -> list[str]:
        """How the file's tensors differ from what the published network asks for; empty where they fit.

        state: tensors, of the meta device too.
        """
        return differing(self.shapes(), {k: tuple(v.shape) for k, v in self.renamed(state).items()})


def verified(published: Published, path: str | Path, checksum: str = "") -> dict[str, Any]:
    """Whether a file is that checkpoint: ``fits``, the first ``differing`` names, ``checksum``.

    checksum: the published SHA-256 or its first digits, '' where none is. Its comparison is one of ``equal``,
    ``other`` and ``none published``. Raises UnreadableFile where the file is no table of tensors.
    """
    path = Path(path).expanduser()
    state = published.read(path)
    try:
        differ = published.differs(state)
    except (KeyError, ValueError, UnreadableFile) as problem:  # names that no renaming was made for
        differ = [str(problem).strip("'\"")]
    found = sha256(*published.files(path))
    return {
        "path": str(path),
        "fits": not differ,
        "keys": len(state),
        "differing": differ[:3],
        "more": max(0, len(differ) - 3),
        "sha256": found,
        "checksum": compared(found, checksum),
    }


def compared(found: str, checksum: str) -> str:
    """``equal``, ``other``, or ``none published`` where there is nothing to compare with."""
    if not checksum:
        return "none published"
    return "equal" if found.startswith(checksum) else "other"

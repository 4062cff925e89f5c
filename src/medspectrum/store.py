"""Files that are whole or absent: atomic writes, digests by content, and the place of the cache."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Where features, converted weights and finished trials are kept between runs.

    The folder given, else ``MEDSPECTRUM_CACHE``, else the user's cache folder.
    """
    if given is not None:
        return Path(given)
    named = os.environ.get("MEDSPECTRUM_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medspectrum"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "medspectrum"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "medspectrum"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes the name in one step.

    A process killed at any moment leaves the old file, or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused, since readers of other languages cannot take it."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def digest(*parts: Any) -> str:
    """Hex digest of bytes and JSON values, each marked by its length, so that joins cannot collide."""
    whole = blake3()
    for part in parts:
        content = (
            bytes(part)
            if isinstance(part, bytes | bytearray | memoryview)
            else json.dumps(part, sort_keys=True, allow_nan=False).encode()
        )
        whole.update(len(content).to_bytes(8, "little"))
        whole.update(content)
    return whole.hexdigest(length=16)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes, read by memory map."""
    whole = blake3()
    if Path(path).stat().st_size:
        whole.update_mmap(path)
    return whole.hexdigest(length=16)

"""JSON documents that describe a data set, and the paths they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medspectrum.errors import UserError

MAX_BYTES = 2 * 2**30


def read(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where there is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: is larger than {MAX_BYTES / 2**30:.0f} GiB; split it")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except PermissionError:
        raise UserError(f"{path}: may not be opened (permission denied); ask for read access") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({str(error)[:160]})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def keys(path: Path) -> set[str]:
    """The keys of a JSON object; empty where the file is none."""
    try:
        return set(read(path))
    except UserError:
        return set()


def inside(folder: Path, name: str) -> Path | None:
    """The path that a document names below its folder; None where it points out of it."""
    target = (folder / name).resolve()
    return folder / name if folder.resolve() in target.parents else None


def mask_names(labels: Any) -> dict[int, str]:
    """Label values and names, from ``{"0": "background"}`` (MSD) or ``{"background": 0}`` (nnU-Net)."""
    found: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        if str(key).isdigit():
            found[int(key)] = str(value)
        elif isinstance(value, int):
            found[value] = str(key)
        elif isinstance(value, list):  # a region made of several values
            for part in value:
                found.setdefault(int(part), f"{key} (part {part})" if len(value) > 1 else str(key))
    return dict(sorted(found.items()))

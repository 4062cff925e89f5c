"""Reading .npz archives without trust: no pickles, no bombs, big members by memory map.

A member is streamed once into a plain .npy file in the cache, in a folder named by the archive's digest,
and memory-mapped from there, so that rows are read without holding the whole array.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats.safety import finite
from medspectrum.image import Image

MAX_MEMBER_BYTES = 256 * 2**30
MAX_RATIO = 1100
"""Deflate packs at most 1032 to 1; more than that, or a size that its header denies, is a bomb."""
MAX_SMALL_BYTES = 2**30
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One array of an archive, by its header alone."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def members(path: Path) -> dict[str, Member]:
    """The arrays of an archive, none of them loaded.

    Raises UserError for archives that are locked, damaged, pickled, or that unpack to more than they say.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir() or not info.filename.endswith(".npy"):
                    continue
                _check(info, path)
                with archive.open(info) as opened:
                    shape, dtype = _header(opened, path, info)
                name = info.filename[: -len(".npy")]
                found[name] = Member(name, shape, dtype)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: is a damaged archive ({error}); copy it again from its source") from error
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, struct.error) as error:
        raise UserError(f"{path}: cannot be read as .npz ({error})") from error
    if not found:
        raise UserError(f"{path}: holds no array; an .npz of images holds e.g. images and labels")
    return found


def _check(info: zipfile.ZipInfo, path: Path) -> None:
    if info.flag_bits & 1:
        raise UserError(f"{path}: is locked by a password ({info.filename}); unlock it first")
    packed = max(info.compress_size, 1)
    if info.file_size > MAX_MEMBER_BYTES or info.file_size > MAX_RATIO * packed:
        raise UserError(
            f"{path}: {info.filename} unpacks from {info.compress_size:,} to {info.file_size:,} bytes, "
            "which looks like an archive bomb; it was not opened"
        )


def _header(opened: Any, path: Path, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(opened)
    if dtype.hasobject:
        raise UserError(
            f"{path}: {info.filename} holds pickled objects, which could run code; they are never opened. "
            "Save it as plain numbers or text"
        )
    promised = dtype.itemsize
    for side in shape:
        promised *= int(side)
    if promised > info.file_size:
        raise UserError(
            f"{path}: {info.filename} promises {promised:,} bytes but holds {info.file_size:,}; "
            "it is damaged or a bomb"
        )
    return shape, dtype


def small(path: Path, member: Member) -> np.ndarray:
    """A whole (small) array: labels, patients. Raises UserError where it is not small."""
    values = int(np.prod(member.shape, dtype=np.int64)) * member.dtype.itemsize
    if values > MAX_SMALL_BYTES:
        raise UserError(f"{path}: {member.name} takes {values / 2**30:.1f} GiB, too much for a column")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[member.name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {member.name} cannot be read ({error})") from error


@lru_cache(maxsize=16)
def mapped(path: str, digest: str, name: str, cache: str) -> np.ndarray:
    """A member as a memory map of its copy in the cache; unpacked there first where it is missing."""
    target = Path(cache) / "arrays" / digest / f"{store.digest(name)}.npy"
    if not target.exists():
        try:
            with store.atomic(target) as partial, zipfile.ZipFile(path) as archive:
                info = archive.getinfo(f"{name}.npy")
                _check(info, Path(path))
                written = 0
                with archive.open(info) as source, partial.open("wb") as copy:
                    while block := source.read(BLOCK):
                        written += len(block)
                        if written > info.file_size:
                            raise UnreadableFile(path, f"{name} unpacks to more than its header says")
                        copy.write(block)
        except (zipfile.BadZipFile, EOFError, KeyError, RuntimeError) as error:
            raise UnreadableFile(path, f"{name} is damaged ({error}); copy it again") from error
    return np.load(target, mmap_mode="r", allow_pickle=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """One array of images; shared by its rows, so that a row stays small."""

    path: str
    digest: str
    name: str
    cache: str
    colour: bool

    def row(self, index: int) -> np.ndarray:
        """The stored values of one row."""
        return mapped(self.path, self.digest, self.name, self.cache)[index]


@dataclass(frozen=True, slots=True)
class RowRead:
    """Call it to read one row as an image."""

    rows: Rows
    index: int

    def __call__(self) -> Image:
        """(Y, X), (Y, X, C), (Z, Y, X) or (Z, Y, X, C) as (C, Z, Y, X)."""
        array = np.array(self.rows.row(self.index))
        if array.size == 0:
            raise UnreadableFile(f"{self.rows.path}#{self.rows.name}/{self.index}", "has no pixels")
        array = np.moveaxis(array, -1, 0) if self.rows.colour else array[None]
        if array.ndim == 3:
            array = array[:, None]
        if array.dtype.kind == "b":
            array = array.astype(np.uint8)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        source = f"{self.rows.path}#{self.rows.name}/{self.index}"
        return Image(finite(np.ascontiguousarray(array), source), spacing_known=False)


@dataclass(frozen=True, slots=True)
class RowKey:
    """Call it for the digest of one row's pixels."""

    rows: Rows
    index: int

    def __call__(self) -> str:
        """Equal pixels of equal type give an equal key, in whatever archive."""
        row = np.ascontiguousarray(self.rows.row(self.index))
        return store.digest("row", list(row.shape), row.dtype.str, self.rows.colour, row.tobytes())

"""The planes of a NIfTI file one after another, from the decompressed stream or the mapped file.

Nothing is transposed and nothing scaled: a plane is what lies in the file, in the file's own type. Of
a gzipped file no more is undone than up to the last plane asked for, a few planes ahead of whoever uses
them, in another thread; a damage after that plane goes unnoticed, as does a wrong check sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats.nifti import HEADER_BYTES, header_of, place_of
from medspectrum.formats.safety import check_bytes

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class NiftiFile:
    """What a header promises. shape: (X, Y, Z, channels) in the file's order, the first fastest.

    scale, shift: stored values times scale plus shift are what they mean. known: whether the affine tells
    a position. plain: whether voxels are single real numbers, with one further axis at most.
    """

    path: Path
    packed: bool
    shape: tuple[int, int, int, int]
    kind: np.dtype[Any]
    offset: int
    scale: float
    shift: float
    affine: np.ndarray
    known: bool
    plain: bool


def opened(path: Path) -> NiftiFile:
    """Read the header. Raises UnreadableFile where there is none, or it promises too much."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        head = _undone(path, HEADER_BYTES) if packed else file.read(HEADER_BYTES)
    if len(head) < 348:
        raise UnreadableFile(path, "is too short for a NIfTI header; copy it again from its source")
    header = header_of(head)
    given = tuple(int(side) for side in header.get_data_shape()) or (0,)
    kind = header.get_data_dtype()
    check_bytes(given, int(kind.itemsize), path)
    shape = (*given, 1, 1, 1)[:3]
    scale, shift = header.get_slope_inter()
    affine, known = place_of(header)
    return NiftiFile(
        path=path,
        packed=packed,
        shape=(shape[0], shape[1], shape[2], int(np.prod(given[3:], dtype=int))),
        kind=kind,
        offset=int(header["vox_offset"]),
        scale=1.0 if scale is None else float(scale),
        shift=0.0 if shift is None else float(shift),
        affine=affine,
        known=known,
        plain=kind.kind in "iuf" and kind.itemsize <= 8 and sum(side > 1 for side in given[3:]) <= 1,
    )


def planes(file: NiftiFile, first: int, end: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(channel, number along Z, plane (Y, X)) of every channel, Z from ``first`` to before ``end``.

    A plane may be overwritten once the next is asked for. Raises UnreadableFile where the file ends early.
    """
    if not file.packed:
        yield from _mapped(file, first, end)
        return
    x, y, z, channels = file.shape
    plane_bytes = x * y * file.kind.itemsize
    together = max(1, CHUNK_BYTES // plane_bytes)
    wanted = [
        (channel, begin, min(end, begin + together))
        for channel in range(channels)
        for begin in range(first, end, together)
    ]
    buffers = [bytearray(together * plane_bytes) for _ in range(2)]
    with _stream(file.path) as source, ThreadPoolExecutor(1) as ahead:
        at = 0

        def fetch(number: int) -> np.ndarray:
            nonlocal at
            channel, begin, stop = wanted[number]
            start = file.offset + (channel * z + begin) * plane_bytes
            space = memoryview(buffers[number % 2])
            _skip(source, start - at, file)
            _fill(source, space[: (stop - begin) * plane_bytes], file)
            at = start + (stop - begin) * plane_bytes
            made = np.frombuffer(space, file.kind, (stop - begin) * x * y)
            return made.reshape(stop - begin, y, x)

        coming = ahead.submit(fetch, 0)
        for number, (channel, begin, _) in enumerate(wanted):
            chunk = coming.result()
            if number + 1 < len(wanted):
                coming = ahead.submit(fetch, number + 1)
            for place, plane in enumerate(chunk):
                yield channel, begin + place, plane


def _mapped(file: NiftiFile, first: int, end: int) -> Iterator[tuple[int, int, np.ndarray]]:
    x, y, z, channels = file.shape
    needed = file.offset + x * y * z * channels * file.kind.itemsize
    there = file.path.stat().st_size
    if there < needed:
        raise truncated(file, there)
    array = np.memmap(file.path, file.kind, "r", file.offset, (channels, z, y, x))
    for channel in range(channels):
        for number in range(first, end):
            yield channel, number, array[channel, number]


def truncated(file: NiftiFile, there: int) -> UnreadableFile:
    """The error for a file that ends before its header's promise."""
    x, y, z, channels = file.shape
    needed = file.offset + x * y * z * channels * file.kind.itemsize
    return UnreadableFile(
        file.path,
        f"is truncated: its header promises {needed:,} bytes and {there:,} are there; "
        "copy it again from its source",
    )


def _stream(path: Path) -> Any:
    from isal import igzip

    return igzip.IGzipFile(path, "rb")


def _undone(path: Path, count: int) -> bytes:
    from isal import igzip

    try:
        with _stream(path) as source:
            return source.read(count)
    except (EOFError, igzip.BadGzipFile) as problem:
        raise UnreadableFile(path, f"is a damaged gzip file ({problem}); copy it again") from problem


def _skip(source: Any, count: int, file: NiftiFile) -> None:
    space = memoryview(bytearray(min(count, CHUNK_BYTES)))
    while count > 0:
        _fill(source, space[: min(count, CHUNK_BYTES)], file)
        count -= min(count, CHUNK_BYTES)


def _fill(source: Any, space: memoryview, file: NiftiFile) -> None:
    """Fill the space from the stream. Raises UnreadableFile where the stream ends or breaks before."""
    from isal import igzip

    filled = 0
    while filled < len(space):
        try:
            got = source.readinto(space[filled:])
        except EOFError:
            raise truncated(file, source.tell()) from None
        except (igzip.BadGzipFile, OSError) as problem:
            raise UnreadableFile(file.path, f"is a damaged gzip file ({problem}); copy it again") from problem
        if not got:
            raise truncated(file, source.tell())
        filled += got

"""Limits that every reader keeps, and remarks a reader makes about a file it could read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from medspectrum.errors import UnreadableFile

MAX_PIXELS = 178_956_970
"""Pixels of one picture: above it a file is refused before it is decoded."""

MAX_BYTES = 4 * 2**30
"""Bytes of one decoded volume, clip or archive member."""

NOT_FINITE = "holds NaN or infinite values, taken as its lowest value"

_remarks: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect what readers remark on while the block runs (in this thread)."""
    found: list[str] = []
    token = _remarks.set(found)
    try:
        yield found
    finally:
        _remarks.reset(token)


def remark(words: str) -> None:
    """Say something about the file being read; kept only where somebody collects it."""
    listener = _remarks.get()
    if listener is not None:
        listener.append(words)


def finite(array: np.ndarray, source: object) -> np.ndarray:
    """The array with NaN and infinities replaced by its lowest finite value (background).

    Many tools write NaN outside the body, so such a file is usable; one without any number is not.
    Raises UnreadableFile where no value is finite.
    """
    if not np.issubdtype(array.dtype, np.floating):
        return array
    good = np.isfinite(array)
    if good.all():
        return array
    if not good.any():
        raise UnreadableFile(source, "holds no finite value (all NaN or infinite); export it again")
    remark(NOT_FINITE)
    return np.where(good, array, array[good].min()).astype(array.dtype)


def check_pixels(width: int, height: int, source: object) -> None:
    """Refuse empty and oversized pictures before they are decoded."""
    if width < 1 or height < 1:
        raise UnreadableFile(source, f"has no pixels ({width} x {height}); export it again")
    if width * height > MAX_PIXELS:
        raise UnreadableFile(
            source,
            f"is {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}; "
            "make a smaller copy, or a tiled pyramid TIFF, which is read in parts",
        )


def check_bytes(shape: tuple[int, ...], bytes_per_value: int, source: object) -> None:
    """Refuse volumes whose header promises nothing, or more than the memory limit."""
    values = 1
    for side in shape:
        values *= int(side)
    if values < 1:
        raise UnreadableFile(source, f"has no voxels (its header says {' x '.join(map(str, shape))})")
    if values * bytes_per_value > MAX_BYTES:
        raise UnreadableFile(
            source,
            f"would take {values * bytes_per_value / 2**30:.1f} GiB in memory "
            f"({' x '.join(map(str, shape))}), more than the limit of {MAX_BYTES / 2**30:.0f} GiB; "
            "crop or resample it first",
        )

"""NIfTI-1 and NIfTI-2 volumes, plain or gzipped, and Analyze pairs.

nibabel reads the header and scales the values; gzip is undone by isal, several times faster. The file
stores X fastest, so the transposed array is (T, Z, Y, X) in C order without a copy: further axes
(time, channels) become C. The affine is already RAS millimetres.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import MAX_BYTES, check_bytes, finite, remark
from medspectrum.image import Image
from medspectrum.store import write_bytes

HEADER_BYTES = 544


def read(path: Path) -> Image:
    """Read a volume. Raises UnreadableFile for truncated, empty or oversized ones."""
    import nibabel

    with path.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    if not packed and path.suffix.lower() in (".hdr", ".img"):
        loaded = nibabel.load(path)
        check_bytes(loaded.shape, 8, path)  # type: ignore[attr-defined]
        return _image(loaded, path)
    if not packed and path.stat().st_size > MAX_BYTES:
        raise UnreadableFile(path, f"is {path.stat().st_size / 2**30:.1f} GiB, more than the limit")
    content = _unpacked(path) if packed else path.read_bytes()
    kind: Any = nibabel.Nifti2Image if _is_second(content) else nibabel.Nifti1Image
    header = header_of(content)
    shape = tuple(int(side) for side in header.get_data_shape())
    check_bytes(shape or (0,), int(header.get_data_dtype().itemsize), path)
    needed = _offset(header) + int(np.prod(shape)) * int(header.get_data_dtype().itemsize)
    if len(content) < needed:
        raise UnreadableFile(
            path,
            f"is truncated: its header promises {needed:,} bytes and {len(content):,} are there; "
            "copy it again from its source",
        )
    return _image(kind.from_bytes(content), path)


def write(image: Image, path: Path) -> None:
    """Write an image as NIfTI-1, gzipped where the name ends in ``.gz``; atomic.

    Channels become the fourth axis. Truth values are kept as 8-bit; integers of 64 bits, which many
    readers refuse, as 32-bit. Raises ValueError where they do not fit.
    """
    array = image.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype in (np.int64, np.uint64):
        if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
            raise ValueError(f"{path}: integers beyond 32 bits cannot be kept in NIfTI")
        array = array.astype(np.int32)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    array = array.T  # (X, Y, Z, C)
    write_array(array[..., 0] if array.shape[3] == 1 else array, image.affine, path)


def write_array(array: np.ndarray, affine: np.ndarray, path: Path, *, intent: str = "none") -> None:
    """Write an array in NIfTI's own order of axes (X, Y, Z, ...), with its intent; atomic."""
    import nibabel
    from isal import igzip

    made = nibabel.Nifti1Image(array, affine)
    made.header.set_intent(intent)
    made.header.set_xyzt_units("mm")
    made.set_sform(affine, code="scanner")
    with np.errstate(all="ignore"):
        made.set_qform(affine, code="scanner", strip_shears=True)
    content = made.to_bytes()
    write_bytes(path, igzip.compress(content, 2) if path.name.lower().endswith(".gz") else content)


def _image(loaded: object, path: Path) -> Image:
    """The loaded nibabel image as ours."""
    proxy = loaded.dataobj  # type: ignore[attr-defined]
    slope, shift = getattr(proxy, "slope", 1.0), getattr(proxy, "inter", 0.0)
    if slope == 1.0 and shift == 0.0:
        array: Any = np.asarray(proxy)
    else:
        array = np.asarray(proxy, dtype=np.float32)
    if array.dtype.names:  # RGB and RGBA voxels
        array = np.stack([array[name] for name in array.dtype.names[:3]], axis=-1)
    if array.dtype.kind == "c":
        raise UnreadableFile(path, "holds complex values; save its magnitude instead")
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        array = array.astype(np.float32)
    array = array.reshape(array.shape + (1,) * (3 - array.ndim)) if array.ndim < 3 else array
    array = array.reshape(*array.shape[:3], -1).T  # (C, Z, Y, X)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.shape[0] > 4 or array.shape[0] == 2:
        remark(
            f"holds {array.shape[0]} volumes along further axes (times or channels), which are taken for "
            "channels of one image; where they are times, save the one to look at as a file of its own"
        )
    header = getattr(loaded, "header", None)
    affine, known = place_of(header) if hasattr(header, "get_best_affine") else affine_of(loaded.affine)  # type: ignore[attr-defined]
    if not known:
        remark(
            "has an affine that places nothing (it is singular or not finite), so its voxel size and "
            "directions are not known; export it again with a right one"
        )
    return Image(finite(array, path), affine, spacing_known=known)


def place_of(header: Any) -> tuple[np.ndarray, bool]:
    """The affine of a header of NIfTI or Analyze: its sform or qform, the first that places anything."""
    best = header.get_best_affine()
    found, known = affine_of(best)
    if known or not hasattr(header, "get_qform"):
        return found, known
    try:
        other = header.get_qform(coded=True)[0]
    except ValueError:  # a quaternion that is none
        other = None
    return (found, known) if other is None else affine_of(other)


def affine_of(given: Any) -> tuple[np.ndarray, bool]:
    """(4, 4) to RAS mm and True; or the identity and False where the file's own places nothing."""
    affine = np.asarray(given, dtype=np.float64)
    known = bool(np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12)
    return (affine if known else np.eye(4)), known


def header_of(content: bytes) -> Any:
    """The nibabel header (NIfTI-1 or 2, either byte order) that these first bytes hold, unchecked."""
    import nibabel

    kind: Any = nibabel.Nifti2Image if _is_second(content) else nibabel.Nifti1Image
    return kind.header_class.from_fileobj(_stream(content), check=False)


def _unpacked(path: Path) -> bytes:
    """Undo gzip, at most as far as the header's own promise (so that a bomb ends early)."""
    from isal import igzip

    with igzip.IGzipFile(path, "rb") as opened:
        head = opened.read(HEADER_BYTES)
        if len(head) < 348:
            raise UnreadableFile(path, "is too short for a NIfTI header; copy it again from its source")
        header = header_of(head)
        shape = tuple(int(side) for side in header.get_data_shape())
        item = int(header.get_data_dtype().itemsize)
        check_bytes(shape or (0,), item, path)
        rest = _offset(header) + int(np.prod(shape)) * item - len(head)
        if rest > MAX_BYTES:
            raise UnreadableFile(path, "has a NIfTI header that promises more than the memory limit")
        return head + opened.read(max(rest, 0))


def _offset(header: Any) -> int:
    """Where the values begin, in bytes."""
    return int(header["vox_offset"])


def _is_second(head: bytes) -> bool:
    return head[4:7] == b"n+2"


def _stream(content: bytes) -> io.BytesIO:
    return io.BytesIO(content[:HEADER_BYTES])

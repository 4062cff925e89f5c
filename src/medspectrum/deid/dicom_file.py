"""DICOM objects as files: read without telling their content, written with nothing old around it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medspectrum.deid.pictures import segments
from medspectrum.errors import UnreadableFile

_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
"""Transfer syntaxes whose frames are JPEG or JPEG-LS streams (PS3.5 A.4)."""


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that pydicom says about a value reaches a log."""
    from pydicom import config

    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read(path: Path, shown: str, *, pixels: bool = True) -> Any:
    """The parsed object. Raises UnreadableFile in words that hold nothing of the file; ``shown`` names it."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    again = "send it again from its source"
    try:
        data = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except InvalidDicomError:
        try:
            data = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
        except Exception as error:  # noqa: BLE001 - its words may quote the file
            raise UnreadableFile(shown, f"is no DICOM object ({type(error).__name__})") from None
        if not data.get("SOPClassUID") or not str(data.get("SOPInstanceUID", "")):
            raise UnreadableFile(shown, f"is not DICOM, or its header is damaged; {again}") from None
    except OSError as error:
        raise UnreadableFile(shown, f"cannot be opened ({error.strerror or 'read error'}); {again}") from None
    except Exception as error:  # noqa: BLE001 - as above
        raise UnreadableFile(shown, f"has a damaged header ({type(error).__name__}); {again}") from None
    return data


def patient_of(data: Any) -> str:
    """What tells patients apart: the ID, else the name, else the study."""
    for word in ("PatientID", "PatientName", "StudyInstanceUID"):
        if value := str(data.get(word) or "").strip():
            return value
    return ""


def encoded(data: Any) -> bytes:
    """The object as a file, with an empty preamble."""
    import pydicom

    buffer = io.BytesIO()
    with quiet():
        data.preamble = b"\0" * 128
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def syntax_of(data: Any) -> str:
    """The transfer syntax, as told by the file or by how it was read."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(data, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        return str(meta.TransferSyntaxUID)
    implicit, little = data.original_encoding
    explicit = ExplicitVRLittleEndian if little is not False else ExplicitVRBigEndian
    return str(ImplicitVRLittleEndian if implicit else explicit)


def renew_meta(data: Any, syntax: str) -> None:
    """File meta information with nothing of the old but the transfer syntax."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "")
    data.file_meta = meta


def whole(data: Any, shown: str) -> None:
    """Cut what lies behind the pixels. Raises UnreadableFile where they are fewer than the header says."""
    from pydicom.uid import UID

    is_image = "Image Storage" in UID(str(data.get("SOPClassUID", ""))).name
    if is_image and not any(word in data for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableFile(shown, "is cut off: an image without pixels; send it again from its source")
    if "PixelData" not in data or data.file_meta.TransferSyntaxUID.is_compressed:
        return
    per_frame = (
        int(data.get("Rows") or 0) * int(data.get("Columns") or 0) * int(data.get("SamplesPerPixel") or 1)
    )
    bits = per_frame * int(data.get("NumberOfFrames") or 1) * int(data.get("BitsAllocated") or 0)
    if str(data.get("PhotometricInterpretation") or "") == "YBR_FULL_422":
        bits = bits * 2 // 3
    wanted = (bits + 7) // 8
    if not wanted:
        raise UnreadableFile(
            shown, "has pixels whose size its header does not tell; send it again from its source"
        )
    if len(data.PixelData) < wanted:
        raise UnreadableFile(
            shown, "is cut off: it has fewer pixels than its header says; send it again from its source"
        )
    if len(data.PixelData) > wanted + wanted % 2:
        data["PixelData"].value = data.PixelData[: wanted + wanted % 2]


def without_words(data: Any, shown: str) -> int:
    """Take comments and application data out of frames coded as JPEG or JPEG-LS; how many went.

    Frames are coded as before. Raises UnreadableFile for a damaged frame.
    """
    from pydicom.encaps import encapsulate, generate_frames

    coded = data.file_meta.TransferSyntaxUID
    if "PixelData" not in data or coded not in _JPEG:
        return 0
    frames, removed = [], 0
    for frame in generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)):
        content, count = segments(frame, shown)
        frames.append(content + b"\0" * (len(content) % 2))
        removed += count
    if removed:
        data["PixelData"].value = encapsulate(frames)
        for word in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if word in data:
                del data[word]
    return removed


def without_high_bits(data: Any) -> int:
    """Set bits above the stored ones to zero where they are no sign: overlays lay there once. How many
    values.
    """
    import numpy as np

    allocated, stored = int(data.get("BitsAllocated") or 0), int(data.get("BitsStored") or 0)
    if "PixelData" not in data or data.file_meta.TransferSyntaxUID.is_compressed:
        return 0
    if allocated not in (16, 32) or not 0 < stored < allocated or int(data.get("HighBit") or 0) != stored - 1:
        return 0
    order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
    values = np.frombuffer(data.PixelData, f"{order}u{allocated // 8}")
    mask = (1 << stored) - 1
    if int(data.get("PixelRepresentation") or 0):  # signed: what lies above is the sign again
        kept = values & mask
        new = np.where(kept >> (stored - 1), kept | ((1 << allocated) - 1 - mask), kept).astype(values.dtype)
    else:
        new = values & values.dtype.type(mask)
    changed = int(np.count_nonzero(new != values))
    if changed:
        data["PixelData"].value = new.tobytes()
    return changed

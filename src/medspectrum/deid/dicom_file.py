"""DICOM objects as files: read without telling their content, written with nothing old around it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medspectrum.errors import UnreadableFile


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

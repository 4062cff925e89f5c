"""DICOM files and series. No DICOM object leaves this file.

Stored values become what they mean: rescale or modality LUT (CT in Hounsfield units), MONOCHROME1 turned
so that larger is brighter, padding set to the lowest value, palettes looked up, YBR turned to RGB.
Compressed files are decoded by pydicom's plugins (GDCM, Pillow). Geometry is turned from DICOM's LPS to
RAS (PS3.3 C.7.6.2.1.1); a tilted gantry gives a sheared affine, as it should.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.errors import UnreadableFile
from medspectrum.formats.dicom_geometry import Grid, grid_of, numbers, plane_affine
from medspectrum.formats.safety import check_bytes, check_pixels, finite, remark
from medspectrum.image import SHEARED_DEGREES, Image, shear_degrees

PICTURELESS = (
    "SR",
    "RTSTRUCT",
    "RTPLAN",
    "RTRECORD",
    "PR",
    "KO",
    "RWV",
    "REG",
    "SEG",
    "RTDOSE",
    "DOC",
    "FID",
)
HEADER_TAGS = [
    "SOPInstanceUID",
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "InstitutionName",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "EchoNumbers",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "SamplesPerPixel",
    "ImageType",
    "BodyPartExamined",
    "ViewPosition",
    "StationName",
]


@dataclass(frozen=True, slots=True)
class Header:
    """What grouping needs of one file. ``patient`` is the raw identifier: never log it."""

    path: str
    patient: str
    study: str
    series: str
    number: int
    description: str
    centre: str
    modality: str
    view: str
    has_pixels: bool
    instance: int
    geometry: tuple[Any, ...]
    position: float | None
    multiframe: bool
    uid: str


def header(path: str | Path) -> Header:
    """Read the header facts of one file, without its pixels. Raises UnreadableFile."""
    data = dataset(Path(path), pixels=False)
    direction = numbers(data, "ImageOrientationPatient", 6)
    place = numbers(data, "ImagePositionPatient", 3)
    position = None
    if direction is not None and place is not None:
        position = float(np.dot(np.cross(direction[:3], direction[3:]), place))
    frames = int(data.get("NumberOfFrames") or 1)
    geometry = (
        int(data.get("Rows") or 0),
        int(data.get("Columns") or 0),
        None if direction is None else tuple(np.round(direction, 3).tolist()),
        str(data.get("EchoNumbers") or ""),
        str(data.get("TemporalPositionIdentifier") or ""),
        int(data.get("SamplesPerPixel") or 1),
    )
    modality = str(data.get("Modality") or "")
    return Header(
        path=str(path),
        patient=str(data.get("PatientID") or data.get("PatientName") or "").strip(),
        study=str(data.get("StudyInstanceUID") or ""),
        series=str(data.get("SeriesInstanceUID") or ""),
        number=int(data.get("SeriesNumber") or 0),
        description=str(data.get("SeriesDescription") or "").strip(),
        centre=str(data.get("InstitutionName") or "").strip(),
        modality=modality,
        view=str(data.get("ViewPosition") or "").strip(),
        has_pixels=bool(data.get("Rows")) and modality not in PICTURELESS,
        instance=int(data.get("InstanceNumber") or 0),
        geometry=geometry,
        position=position,
        multiframe=frames > 1,
        uid=str(data.get("SOPInstanceUID") or ""),
    )


def volumes(headers: Iterable[Header]) -> list[list[Header]]:
    """Group the files of one series into volumes, each in order along its normal.

    Files of another size, orientation, echo or time point are volumes of their own, as is a multi-frame
    file, and as is each file of a series that tells no position (plain radiographs). Positions that come
    again (phases without a time point) are dealt out in order of instance. A file that is there twice
    (same SOP instance) is taken once.
    """
    groups: dict[tuple[Any, ...], list[Header]] = defaultdict(list)
    seen: set[str] = set()
    for one in sorted(headers, key=lambda h: (h.instance, h.path)):
        if one.uid and one.uid in seen:
            continue
        seen.add(one.uid)
        alone = one.multiframe or one.position is None or one.geometry[5] > 1
        groups[(one.path,) if alone else one.geometry].append(one)
    found = []
    for members in groups.values():
        stacks: dict[float, list[Header]] = defaultdict(list)
        for one in members:
            stacks[round(one.position or 0.0, 2)].append(one)
        for turn in range(max(len(stack) for stack in stacks.values())):
            volume = [stacks[place][turn] for place in sorted(stacks) if turn < len(stacks[place])]
            found.append(volume)
    return found


def read(path: Path, *, window: tuple[float, float] | str | None = None) -> Image:
    """Read one file: a slice, or all frames along Z.

    window: clip values to (centre, width) or to the header's first window (``"header"``); units stay.
    """
    data = dataset(path, pixels=True)
    if str(data.get("Modality") or "") == "SEG":
        from medspectrum.formats import dicom_seg

        return dicom_seg.read(path)
    array = _pixels(data, path, window)
    affine, known = plane_affine(data, array.shape[1])
    return Image(finite(array, path), affine, str(data.get("Modality") or ""), known)


def read_series(paths: Sequence[str | Path], *, window: tuple[float, float] | str | None = None) -> Image:
    """Read the files of one volume (as grouped and ordered by ``volumes``) into one image."""
    if not paths:
        raise ValueError("a series has at least one file")
    if len(paths) == 1:
        return read(Path(paths[0]), window=window)
    slices, headers = [], []
    for name in paths:
        path = Path(name)
        data = dataset(path, pixels=True)
        if not headers:
            check_bytes(
                (len(paths), int(data.get("Rows") or 0), int(data.get("Columns") or 0)), 4, path.parent
            )
        array = _pixels(data, path, window)
        if slices and array.shape != slices[0].shape:
            raise UnreadableFile(path, "has another size than the other slices of its series")
        for heavy in ("PixelData", "FloatPixelData"):
            if heavy in data:
                del data[heavy]
        headers.append(data)
        slices.append(array)
    grid = grid_of(headers, [str(p) for p in paths])
    _remark_on(grid)
    whole = finite(np.concatenate(slices, axis=1), Path(paths[0]).parent)
    return Image(whole, grid.affine, str(headers[0].get("Modality") or ""))


def grid(paths: Sequence[str | Path]) -> Grid:
    """Where the voxels of one volume's files lie, from their headers alone. Raises UnreadableFile."""
    return grid_of([dataset(Path(p), pixels=False, whole=True) for p in paths], [str(p) for p in paths])


def _off_mm(grid: Grid) -> float:
    """How far a plane lies from where the mean distance puts it, at most."""
    even = np.linspace(grid.corners[0], grid.corners[-1], len(grid.corners))
    return float(np.linalg.norm(grid.corners - even, axis=1).max())


def _remark_on(grid: Grid) -> None:
    """Say where planes are unevenly spaced or the gantry was tilted."""
    lengths = np.linalg.norm(np.diff(grid.corners, axis=0), axis=1)
    if lengths.max() - lengths.min() > 0.1 * np.median(lengths):
        remark(
            f"has uneven gaps between slices ({lengths.min():.2f} to {lengths.max():.2f} mm): slices may be "
            f"missing; their mean distance was taken, which is up to {_off_mm(grid):.1f} mm off: send the "
            "series again if it should be whole"
        )
    tilt = shear_degrees(grid.affine)
    if tilt > SHEARED_DEGREES:
        remark(
            f"was taken with a gantry tilted by {tilt:.0f} degrees: its planes are pushed sideways against "
            "each other, and stay so in what is written for it"
        )


@dataclass(frozen=True, slots=True)
class SeriesRead:
    """Call it to read one volume of a series."""

    paths: tuple[str, ...]

    def __call__(self) -> Image:
        """Read it; whatever a decoder raises becomes one sentence."""
        from medspectrum import formats

        if len(self.paths) == 1:
            return formats.read(self.paths[0])
        try:
            return read_series(self.paths)
        except UnreadableFile:
            raise
        except Exception as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise UnreadableFile(Path(self.paths[0]).parent, f"cannot be read as DICOM ({words})") from error


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Call it for the digest of all files of one volume, in order."""

    paths: tuple[str, ...]

    def __call__(self) -> str:
        """The digest; that of the file itself where there is only one."""
        from medspectrum import formats

        digests = [formats.key(path) for path in self.paths]
        return digests[0] if len(digests) == 1 else store.digest("series", digests)


def dataset(path: Path, *, pixels: bool, whole: bool = False) -> Any:
    """The parsed file, without pixels only what grouping needs unless ``whole``. Raises UnreadableFile."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    wanted = None if pixels or whole else list(HEADER_TAGS)
    try:
        data = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted)
    except InvalidDicomError:
        data = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=wanted)
        if not data.get("Rows") and not data.get("SOPInstanceUID"):
            raise UnreadableFile(path, "is not DICOM, or its header is damaged; send it again") from None
    except PermissionError:
        raise UnreadableFile(path, "may not be opened (permission denied); ask for read access") from None
    except OSError as error:
        raise UnreadableFile(path, f"cannot be opened ({error})") from error
    except Exception as error:
        raise UnreadableFile(
            path, f"has a damaged DICOM header ({type(error).__name__}); send it again"
        ) from error
    return data


def _pixels(data: Any, path: Path, window: tuple[float, float] | str | None) -> np.ndarray:
    """Decoded values as (C, Z, Y, X), in the units of the header's rescale."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
    from pydicom.pixels.utils import pixel_array

    modality = str(data.get("Modality") or "")
    if not data.get("Rows") or ("PixelData" not in data and "FloatPixelData" not in data):
        raise UnreadableFile(path, f"is a DICOM object without a picture ({modality or 'no modality'})")
    rows, columns, frames = int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames") or 1)
    check_pixels(columns, rows, path)
    check_bytes((frames, rows, columns, int(data.get("SamplesPerPixel") or 1)), 4, path)
    if not getattr(data, "file_meta", None) or not data.file_meta.get("TransferSyntaxUID"):
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

        implicit, little = data.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        data.file_meta = getattr(data, "file_meta", None) or FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax if little is not False else ExplicitVRBigEndian
    stored = pixel_array(data)
    photometric = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric == "PALETTE COLOR":
        colour = apply_color_lut(stored, data)
        stored = (colour >> 8).astype(np.uint8) if colour.dtype == np.uint16 else colour
    if int(data.get("SamplesPerPixel") or 1) >= 3 or photometric == "PALETTE COLOR":
        stored = stored.reshape(-1, rows, columns, stored.shape[-1])[..., :3]
        return np.ascontiguousarray(np.moveaxis(stored, -1, 0))
    stored = stored.reshape(-1, rows, columns)
    padded = _padding(data, stored)
    inverted = photometric == "MONOCHROME1"
    if inverted and window != "header":
        stored = _inverted(data, stored)
    values = apply_modality_lut(stored, data)
    if window == "header":
        values = np.asarray(apply_voi_lut(values, data), dtype=np.float32)
        values = values.max() + values.min() - values if inverted else values
    elif window is not None:
        centre, width = float(window[0]), float(window[1])
        values = np.clip(values, centre - width / 2, centre + width / 2)
    values = _narrow(values)
    if padded is not None and padded.any() and not padded.all():
        values = np.where(padded, values[~padded].min(), values)
    return values[None]


def _padding(data: Any, stored: np.ndarray) -> np.ndarray | None:
    """Where the scanner wrote padding instead of a measured value."""
    low = data.get("PixelPaddingValue")
    if low is None:
        return None
    high = data.get("PixelPaddingRangeLimit", low)
    low, high = sorted((int(low), int(high)))
    if int(data.get("PixelRepresentation") or 0) == 1 and low >= 1 << 15:
        low, high = low - (1 << 16), high - (1 << 16)  # written as unsigned by some scanners
    return (stored >= low) & (stored <= high)


def _inverted(data: Any, stored: np.ndarray) -> np.ndarray:
    """MONOCHROME1 turned within the range that the stored bits can hold."""
    bits = int(data.get("BitsStored") or 8)
    if int(data.get("PixelRepresentation") or 0) == 1:
        return (-1 - stored.astype(np.int32)).astype(stored.dtype)
    return ((1 << bits) - 1 - stored.astype(np.int64)).clip(0).astype(stored.dtype)


def _narrow(values: np.ndarray) -> np.ndarray:
    """float64 from a rescale as int16 or int32 where nothing is lost, else float32."""
    if values.dtype.kind != "f":
        return values
    if (
        np.isfinite(values).all()
        and (values == np.rint(values)).all()
        and np.abs(values).max(initial=0) < 2**31
    ):
        small = np.abs(values).max(initial=0) < 2**15
        return values.astype(np.int16 if small else np.int32)
    return values.astype(np.float32)

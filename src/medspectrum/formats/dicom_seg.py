"""DICOM segmentation objects (PS3.3 A.51) read as label maps, on the series they refer to or alone.

They may be BINARY, LABELMAP or FRACTIONAL (what reaches half counts). A label map holds one value a voxel,
so where segments overlap the later one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats import dicom
from medspectrum.formats.dicom_geometry import TO_RAS, Grid, functional, numbers, plane_affine
from medspectrum.formats.safety import check_bytes, remark
from medspectrum.image import Image

OFF_GRID_VOXELS = 0.3
"""How far a frame's pixel may lie from the voxel of the image that it marks."""


@dataclass(frozen=True, slots=True)
class SegHeader:
    """What grouping needs of one object. series, images: UIDs it refers to. segments: number to name."""

    path: str
    series: frozenset[str]
    images: frozenset[str]
    segments: Mapping[int, str]
    overlap: bool


def header(path: str | Path) -> SegHeader:
    """What a segmentation object refers to and names. Raises UnreadableFile."""
    data = dicom.dataset(Path(path), pixels=False, whole=True)
    referenced = data.get("ReferencedSeriesSequence") or []
    images = {
        str(one.get("ReferencedSOPInstanceUID"))
        for series in referenced
        for one in series.get("ReferencedInstanceSequence") or []
    }
    for frame in range(_frames(data)):
        images.update(uid for uid, _ in _drawn_on(data, frame))
    names = _names(data, path)
    overlap = len(names) > 1 and str(data.get("SegmentsOverlap") or "UNDEFINED") == "YES"
    series = frozenset(str(s.get("SeriesInstanceUID")) for s in referenced)
    return SegHeader(str(path), series, frozenset(images), names, overlap)


def read(path: Path) -> Image:
    """Read one object on the smallest grid that holds its frames: segment numbers, modality ``SEG``.

    Planes that were left out because they are empty are filled in. Raises UnreadableFile.
    """
    data = dicom.dataset(path, pixels=True)
    placed = [_frame_affine(data, frame) for frame in range(_frames(data))]
    known = [affine for affine in placed if affine is not None]
    if not known:
        size = (1, int(data.Rows), int(data.Columns))
        grid = Grid(size, np.zeros((1, 3)), *np.eye(3), uids=tuple(_all_drawn_on(data))[:1])
        if len(_all_drawn_on(data)) > 1:
            raise UnreadableFile(path, "has frames without a place; give it beside the series it refers to")
    else:
        grid = _own_grid(known, data, path)
    labels = np.zeros(grid.size, np.uint16)
    _mark(labels, grid, data, path, {number: number for number in _names(data, path)})
    return Image(labels[None], grid.affine, "SEG", spacing_known=bool(known))


def _own_grid(frames: Sequence[np.ndarray], data: Any, path: Path) -> Grid:
    """Planes at even distance, as many as the frames reach over."""
    first = frames[0]
    normal = np.cross(first[:3, 0], first[:3, 1])
    normal /= np.linalg.norm(normal)
    depths = np.array([float(normal @ affine[:3, 3]) for affine in frames])
    begin, end = frames[int(depths.argmin())][:3, 3], frames[int(depths.argmax())][:3, 3]
    gaps = np.diff(np.unique(np.round(depths, 3)))
    stated = _depth_mm(data)
    smallest = float(gaps.min()) if len(gaps) else stated or 1.0
    step = stated if stated and abs(smallest / stated - round(smallest / stated)) < 0.1 else smallest
    count = round(float(np.ptp(depths)) / step) + 1
    size = (count, int(data.Rows), int(data.Columns))
    check_bytes(size, 2, path)
    onward = (end - begin) / (count - 1) if count > 1 else normal * step
    corners = begin + np.arange(count)[:, None] * onward
    return Grid(size, corners, first[:3, 0], first[:3, 1], onward)


def on_series(segmentations: Sequence[str], images: Sequence[str], values: Mapping[str, int]) -> Image:
    """Label map of objects on the grid of an image, modality ``SEG``.

    images: the DICOM files of one volume, in order. values: the label value of each segment's name; other
    segments are left out. Raises UnreadableFile or UserError where an object does not lie on that grid.
    """
    grid = dicom.grid(images)
    labels = np.zeros(grid.size, np.uint16)
    for path in segmentations:
        data = dicom.dataset(Path(path), pixels=True)
        given = {number: values.get(name, 0) for number, name in _names(data, path).items()}
        _mark(labels, grid, data, Path(path), given)
    known = plane_affine(dicom.dataset(Path(images[0]), pixels=False, whole=True), 1)[1]
    return Image(labels[None], grid.affine, "SEG", known)


@dataclass(frozen=True, slots=True)
class SegRead:
    """Call it for the label map of segmentation objects on the grid of a series."""

    segmentations: tuple[str, ...]
    images: tuple[str, ...]
    values: tuple[tuple[str, int], ...]

    def __call__(self) -> Image:
        """Read it; whatever a decoder raises becomes one sentence."""
        try:
            return on_series(self.segmentations, self.images, dict(self.values))
        except UserError:
            raise
        except Exception as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise UnreadableFile(
                self.segmentations[0], f"cannot be read as a DICOM segmentation ({words})"
            ) from error


@dataclass(frozen=True, slots=True)
class SegKey:
    """Call it for the digest of segmentation objects and of the values that are given to their segments."""

    segmentations: tuple[str, ...]
    values: tuple[tuple[str, int], ...]

    def __call__(self) -> str:
        """The digest."""
        from medspectrum import formats

        return store.digest("seg", [formats.key(path) for path in self.segmentations], list(self.values))


def _frames(data: Any) -> int:
    return int(data.get("NumberOfFrames") or 1)


def _names(data: Any, path: str | Path) -> dict[int, str]:
    """Segment numbers and names: the label, or what is coded where there is none. Raises UnreadableFile."""
    found: dict[int, str] = {}
    for one in data.get("SegmentSequence") or ():
        number = int(one.get("SegmentNumber") or 0)
        name = str(one.get("SegmentLabel") or "").strip()
        if not name:
            coded = one.get("SegmentedPropertyTypeCodeSequence")
            name = str(coded[0].get("CodeMeaning") or "") if coded else ""
        if number > 0:
            found[number] = name or str(number)
    if not found:
        raise UnreadableFile(path, "is a DICOM segmentation that names no segment; export it again")
    return found


def _segment(data: Any, frame: int) -> int:
    """The segment that a frame shows; 0 in a LABELMAP, whose values are the segments."""
    one = functional(data, frame, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
    return int(one.get("ReferencedSegmentNumber") or 0) if one else 0


def _frame_affine(data: Any, frame: int) -> np.ndarray | None:
    """Pixel (x, y) of a frame to RAS mm, in the first two columns and the last; None where it tells none."""
    measures = functional(data, frame, "PixelMeasuresSequence", "PixelSpacing")
    turned = functional(data, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    placed = functional(data, frame, "PlanePositionSequence", "ImagePositionPatient")
    spacing = numbers(measures, "PixelSpacing", 2) if measures else None
    direction = numbers(turned, "ImageOrientationPatient", 6) if turned else None
    corner = numbers(placed, "ImagePositionPatient", 3) if placed else None
    if spacing is None or direction is None or corner is None or not (spacing > 0).all():
        return None
    affine = np.eye(4)
    affine[:3, 0] = TO_RAS @ direction[:3] * spacing[1]
    affine[:3, 1] = TO_RAS @ direction[3:] * spacing[0]
    affine[:3, 3] = TO_RAS @ corner
    return affine


def _depth_mm(data: Any) -> float | None:
    measures = functional(data, 0, "PixelMeasuresSequence", "SpacingBetweenSlices")
    found = abs(float(measures.get("SpacingBetweenSlices"))) if measures else 0.0
    return found or None


def _drawn_on(data: Any, frame: int) -> list[tuple[str, int]]:
    """(SOP instance UID, frame number from 1) of the images that a frame was drawn on."""
    found = []
    one = functional(data, frame, "DerivationImageSequence", "SourceImageSequence")
    for image in (one.get("SourceImageSequence") or ()) if one else ():
        number = image.get("ReferencedFrameNumber") or 1
        first = number if isinstance(number, int | str) else next(iter(number), 1)
        found.append((str(image.get("ReferencedSOPInstanceUID")), int(first)))
    return found


def _all_drawn_on(data: Any) -> list[str]:
    return list(dict.fromkeys(uid for f in range(_frames(data)) for uid, _ in _drawn_on(data, f)))


def _mark(labels: np.ndarray, grid: Grid, data: Any, path: Path, values: Mapping[int, int]) -> None:
    """Write the value of each segment where its frames mark the voxels of a (Z, Y, X) grid."""
    from pydicom.pixels.utils import pixel_array

    kind = str(data.get("SegmentationType") or "BINARY")
    frames, rows, columns = _frames(data), int(data.Rows), int(data.Columns)
    check_bytes((frames, rows, columns), 2, path)
    stored = pixel_array(data).reshape(frames, rows, columns)
    half = (int(data.get("MaximumFractionalValue") or 255) + 1) // 2 if kind == "FRACTIONAL" else 1
    overlapped = 0
    for frame in range(frames):
        marked = np.argwhere(stored[frame] >= half)
        if not len(marked):
            continue
        if kind == "LABELMAP":
            table = np.zeros(int(stored[frame].max()) + 1, labels.dtype)
            for number, value in values.items():
                if number < len(table):
                    table[number] = value
            given = table[stored[frame][tuple(marked.T)]]
        else:
            given = np.full(len(marked), values.get(_segment(data, frame), 0), labels.dtype)
        marked, given = marked[given > 0], given[given > 0]
        if not len(marked):
            continue
        where = tuple(_voxels(marked, grid, data, frame, path).T)
        before = labels[where]
        overlapped += int(((before > 0) & (before != given)).sum())
        labels[where] = given
    if overlapped:
        remark(f"has segments that overlap in {overlapped:,} voxels, where the later one counts")


def _voxels(marked: np.ndarray, grid: Grid, data: Any, frame: int, path: Path) -> np.ndarray:
    """(n, 3) voxels z, y, x of the grid that (n, 2) pixels (row, column) of a frame lie in."""
    affine = _frame_affine(data, frame)
    if affine is None:
        rows, columns = grid.size[1:]
        z = _plane_of(grid, data, frame)
        if z is None or (int(data.Rows), int(data.Columns)) != (rows, columns):
            raise UserError(
                f"{path}: has a frame without a place, and it is not known which plane of its image it was "
                "drawn on; export it again"
            )
        return np.concatenate([np.full((len(marked), 1), z), marked], axis=1)
    points = marked[:, ::-1] @ affine[:3, :2].T + affine[:3, 3]
    places = grid.places(points)
    whole = np.rint(places).astype(np.int64)
    away = float(np.abs(places - whole).max())
    if away > OFF_GRID_VOXELS:
        raise UserError(
            f"{path}: lies {away:.2f} voxels beside the voxels of its image; resample it to its image's grid"
        )
    if (whole < 0).any() or (whole >= np.array(grid.size)).any():
        raise UserError(
            f"{path}: marks voxels outside of its image; check that they belong together, and that no slice "
            "of the image is missing"
        )
    return whole


def _plane_of(grid: Grid, data: Any, frame: int) -> int | None:
    """The plane that a frame says it was drawn on."""
    for uid, number in _drawn_on(data, frame):
        if uid in grid.uids:
            place = grid.uids.index(uid) if len(grid.uids) == grid.size[0] else number - 1
            return place if 0 <= place < grid.size[0] else None
    return 0 if grid.size[0] == 1 else None

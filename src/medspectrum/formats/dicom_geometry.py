"""Where the pixels of DICOM images lie: headers to affines, in RAS millimetres (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile

TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie, plane by plane, however the planes are spaced.

    size: (Z, Y, X). corners: (Z, 3), the first voxel of each plane, RAS mm. across, down: (3,), one voxel
    along X and Y. step: (3,), one plane, where there is only one. uids: of the files, in order.
    """

    size: tuple[int, int, int]
    corners: np.ndarray
    across: np.ndarray
    down: np.ndarray
    step: np.ndarray
    uids: tuple[str, ...] = ()

    @property
    def affine(self) -> np.ndarray:
        """Voxel (x, y, z) to RAS mm; planes at their mean distance."""
        made = np.eye(4)
        made[:3, 0], made[:3, 1], made[:3, 2] = self.across, self.down, self.step
        if len(self.corners) > 1:
            made[:3, 2] = (self.corners[-1] - self.corners[0]) / (len(self.corners) - 1)
        made[:3, 3] = self.corners[0]
        return made

    def places(self, points_mm: np.ndarray) -> np.ndarray:
        """(n, 3) RAS mm to (n, 3) places z, y, x in voxels; between planes by their true distances."""
        normal = np.cross(self.across, self.down)
        normal /= np.linalg.norm(normal)
        depths = self.corners @ normal
        steps = np.append(depths[1:] - depths[:-1], 0.0)
        if len(depths) == 1:
            steps[-1] = float(self.step @ normal)
        else:
            steps[-1] = steps[-2]
        turned = -1.0 if steps[0] < 0 else 1.0
        below = np.searchsorted(turned * depths, turned * (points_mm @ normal), side="right") - 1
        below = np.clip(below, 0, len(depths) - 1)
        z = below + (points_mm @ normal - depths[below]) / steps[below]
        onward = np.vstack([np.diff(self.corners, axis=0), np.zeros(3)])
        onward[-1] = onward[-2] if len(onward) > 1 else self.step
        rest = points_mm - self.corners[below] - (z - below)[:, None] * onward[below]
        flat = np.linalg.lstsq(np.stack([self.across, self.down], axis=1), rest.T, rcond=None)[0]
        return np.stack([z, flat[1], flat[0]], axis=1)


def grid_of(headers: Sequence[Any], sources: Sequence[str]) -> Grid:
    """The grid of one volume from its parsed files, a plane each, or one file with frames.

    Raises UnreadableFile where a plane tells no position, or the planes do not fit together.
    """
    first = headers[0]
    rows, columns = int(first.get("Rows") or 0), int(first.get("Columns") or 0)
    uids = tuple(str(h.get("SOPInstanceUID") or "") for h in headers)
    frames = int(first.get("NumberOfFrames") or 1)
    if len(headers) == 1:
        affine, _ = plane_affine(first, frames)
        corners = [affine[:3, 3] + z * affine[:3, 2] for z in range(frames)]
        for z in range(frames) if frames > 1 else ():
            placed = functional(first, z, "PlanePositionSequence", "ImagePositionPatient")
            own = numbers(placed, "ImagePositionPatient", 3) if placed else None
            if own is not None:
                corners[z] = TO_RAS @ own
        size = (frames, rows, columns)
        return Grid(size, np.array(corners), affine[:3, 0], affine[:3, 1], affine[:3, 2], uids)
    affines = []
    for header, source in zip(headers, sources, strict=True):
        if (int(header.get("Rows") or 0), int(header.get("Columns") or 0)) != (rows, columns):
            raise UnreadableFile(source, "has another size than the other slices of its series")
        affine, known = plane_affine(header, 1)
        if not known:
            raise UnreadableFile(source, "tells no position; its series cannot be assembled")
        affines.append(affine)
    corners = np.array([a[:3, 3] for a in affines])
    one = affines[0]
    return Grid((len(headers), rows, columns), corners, one[:3, 0], one[:3, 1], one[:3, 2], uids)


def numbers(data: Any, name: str, count: int) -> np.ndarray | None:
    """A header entry as that many finite numbers, or None."""
    value = data.get(name)
    if value is None:
        return None
    try:
        array = np.array([float(x) for x in value])
    except (TypeError, ValueError):
        return None
    return array if array.shape == (count,) and np.isfinite(array).all() else None


def functional(data: Any, frame: int, group: str, name: str) -> Any:
    """An item of the shared or per-frame functional groups of an enhanced object."""
    for sequence in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        items = data.get(sequence)
        if not items:
            continue
        item = items[min(frame, len(items) - 1)]
        inner = item.get(group)
        if inner and inner[0].get(name) is not None:
            return inner[0]
    return {}


def plane_affine(data: Any, frames: int) -> tuple[np.ndarray, bool]:
    """Voxel (x, y, z) to RAS millimetres, and whether the header tells the size of a pixel."""
    measures = functional(data, 0, "PixelMeasuresSequence", "PixelSpacing") or data
    spacing = numbers(measures, "PixelSpacing", 2)
    if spacing is None:
        spacing = numbers(data, "ImagerPixelSpacing", 2)
    if spacing is None:
        spacing = _ultrasound_spacing(data)
    known = spacing is not None and bool((spacing > 0).all())
    down, across = (spacing if known and spacing is not None else np.ones(2)).tolist()
    turned = functional(data, 0, "PlaneOrientationSequence", "ImageOrientationPatient") or data
    direction = numbers(turned, "ImageOrientationPatient", 6)
    placed = functional(data, 0, "PlanePositionSequence", "ImagePositionPatient") or data
    corner = numbers(placed, "ImagePositionPatient", 3)
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    try:
        thick = abs(float(thickness)) if thickness else 1.0
    except (TypeError, ValueError):
        thick = 1.0
    affine = np.eye(4)
    if direction is None or corner is None:
        affine[0, 0], affine[1, 1], affine[2, 2] = across, down, thick or 1.0
        return affine, known
    normal = np.cross(direction[:3], direction[3:])
    step = normal * (thick or 1.0)
    if frames > 1:
        end = functional(data, frames - 1, "PlanePositionSequence", "ImagePositionPatient")
        last = numbers(end, "ImagePositionPatient", 3) if end else None
        if last is not None and np.linalg.norm(last - corner) > 1e-3:
            step = (last - corner) / (frames - 1)
    affine[:3, 0] = TO_RAS @ direction[:3] * across
    affine[:3, 1] = TO_RAS @ direction[3:] * down
    affine[:3, 2] = TO_RAS @ step
    affine[:3, 3] = TO_RAS @ corner
    return affine, known


def _ultrasound_spacing(data: Any) -> np.ndarray | None:
    """Millimetres per pixel (down, across) of the first region in centimetres (PS3.3 C.8.5.5)."""
    for region in data.get("SequenceOfUltrasoundRegions") or ():
        if (
            int(region.get("PhysicalUnitsXDirection") or 0)
            == 3
            == int(region.get("PhysicalUnitsYDirection") or 0)
        ):
            return np.abs([float(region.PhysicalDeltaY), float(region.PhysicalDeltaX)]) * 10
    return None

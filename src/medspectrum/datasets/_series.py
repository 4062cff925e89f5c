"""Folders that hold DICOM series, as lazy images."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from medspectrum import formats
from medspectrum.case import LazyImage, LeftOut
from medspectrum.datasets import _files
from medspectrum.errors import UnreadableFile
from medspectrum.formats import dicom, dicom_seg


def is_series_folder(folder: str) -> bool:
    """Whether the first file of a folder is DICOM."""
    try:
        with os.scandir(folder) as opened:
            for entry in opened:
                if entry.is_file() and not entry.name.startswith("."):
                    return formats.kind(entry.path) == "dicom"
    except (OSError, UnreadableFile):
        return False
    return False


def lazy_volume(headers: list[dicom.Header]) -> LazyImage:
    """One volume of a series as an image that is read when needed."""
    paths = tuple(header.path for header in headers)
    if len(paths) == 1:
        return formats.lazy(paths[0])
    source = f"{os.path.dirname(paths[0])}/ ({len(paths)} files from {os.path.basename(paths[0])})"  # noqa: PTH119, PTH120
    return LazyImage(source, dicom.SeriesRead(paths), dicom.SeriesKey(paths))


def headers(
    folder: str,
    left_out: list[LeftOut],
    skipped: dict[str, int],
    segmentations: list[dicom_seg.SegHeader] | None = None,
) -> list[dicom.Header]:
    """Header facts of all DICOM files below; unreadable ones are listed, pictureless ones counted.

    segmentations: where given, gets those of segmentation objects, which else count as pictureless.
    """
    found = []
    for path in _files.walk(folder, left_out):
        named = formats.suffix_of(path) in formats.SUFFIXES["dicom"]
        if not named and _files.has_suffix(path) and not _dicom_inside(path):
            continue
        try:
            if formats.kind(path) != "dicom":
                if named:
                    left_out.append(LeftOut(path, "is named like DICOM but holds something else"))
                continue
            header = dicom.header(path)
            if header.modality == "SEG" and segmentations is not None:
                segmentations.append(dicom_seg.header(path))
                continue
        except UnreadableFile as error:
            if named:
                left_out.append(LeftOut(path, error.reason))
            continue
        if header.has_pixels:
            found.append(header)
        else:
            skipped[header.modality or "none"] = skipped.get(header.modality or "none", 0) + 1
    return found


def _dicom_inside(path: str) -> bool:
    """Whether a file with a foreign suffix holds DICOM all the same (UIDs often end in odd ones)."""
    if os.path.splitext(path)[1].lower() in (".txt", ".csv", ".json", ".xml", ".md", ".pdf"):  # noqa: PTH122
        return False
    try:
        with open(path, "rb") as opened:  # noqa: PTH123
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class FolderVolume:
    """The largest volume of a folder; its files are looked up at the first use."""

    folder: str
    digest: bool

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of that volume, in order."""
        left_out: list[LeftOut] = []
        found = headers(self.folder, left_out, {})
        if not found:
            why = f" ({left_out[0].reason})" if left_out else ""
            raise UnreadableFile(self.folder, f"holds no DICOM picture{why}")
        by_series: dict[str, list[dicom.Header]] = defaultdict(list)
        for header in found:
            by_series[header.series].append(header)
        volumes = [v for series in by_series.values() for v in dicom.volumes(series)]
        return tuple(header.path for header in max(volumes, key=len))

    def __call__(self) -> Any:
        """The image, or its digest."""
        return dicom.SeriesKey(self.paths)() if self.digest else dicom.SeriesRead(self.paths)()


def lazy_folder(folder: str) -> LazyImage:
    """The largest volume of a folder of DICOM files."""
    return LazyImage(folder, FolderVolume(folder, digest=False), FolderVolume(folder, digest=True))

"""Small made DICOM series, oblique, tilted or with slices missing, for tests of geometry and of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medspectrum.datasets.dicom import write_slice
from medspectrum.image import Image

LPS = np.diag([-1.0, -1.0, 1.0])


def write_series(
    folder: Path, image: Image, *, patient: str = "P1", number: int = 1, skip: Sequence[int] = (), **tags
) -> list[Path]:
    """One file a plane of (1, Z, Y, X) int16 with the image's affine; plane numbers in ``skip`` are left out.

    A series can be stored in any order and direction of axes whose planes follow each other along the third
    axis; a left-handed affine comes back with its planes in the other order.
    """
    import pydicom

    written = []
    size = np.linalg.norm(image.affine[:3, :3], axis=0)
    for z, plane in enumerate(image.array[0]):
        if z in skip:
            continue
        path = folder / f"s{number}_{z:03d}.dcm"
        write_slice(path, plane.astype(np.int16), patient=patient, place=z, centre="made")
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = (
            f"{data.StudyInstanceUID}.{number}.{z + 1}"
        )
        data.SeriesInstanceUID, data.SeriesNumber = f"{data.StudyInstanceUID}.{number}", number
        data.FrameOfReferenceUID = f"{data.StudyInstanceUID}.9"
        data.PixelSpacing = [float(size[1]), float(size[0])]
        data.SliceThickness = float(size[2])
        directions = LPS @ (image.affine[:3, :2] / size[:2])
        data.ImageOrientationPatient = [round(float(v), 8) for v in directions.T.reshape(-1)]
        corner = LPS @ (image.affine[:3, 3] + z * image.affine[:3, 2])
        data.ImagePositionPatient = [round(float(v), 6) for v in corner]
        data.RescaleIntercept = 0
        data.Modality = image.modality or "CT"
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(path, enforce_file_format=True)
        written.append(path)
    return written

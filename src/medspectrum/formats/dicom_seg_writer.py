"""Label maps as DICOM segmentation objects (PS3.3 A.51), beside the images they were drawn on.

They are BINARY, made by highdicom, plane for plane on the images: patient, study and frame of reference are
theirs. What is written holds the patient's name and number, as the images do.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, store
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats import dicom

NEEDED = 'DICOM SEG is written by highdicom: pip install "medspectrum[dicom-seg]", or use the format nifti'
_TAKEN_OVER = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_STRUCTURES = ("CID4", "CID4031", "CID7140", "CID7166")
"""Lists of coded body parts (PS3.16) in which the name of a label is looked up."""


def write(labels: np.ndarray, path: Path, *, sources: Sequence[str], names: Mapping[int, str]) -> None:
    """Write (Z, Y, X) label values as one BINARY object; its segments are the labels in order of value.

    sources: the DICOM files drawn on: one a plane, or one with as many frames. names: of label values; all
    of them become segments, also those without a voxel here.
    Raises UserError where highdicom is lacking, or the sources are no DICOM or of another number.
    """
    try:
        from highdicom.seg import Segmentation
    except ImportError:
        raise UserError(NEEDED) from None
    from pydicom.uid import generate_uid

    images = [_source(name, path) for name in sources]
    frames = int(images[0].get("NumberOfFrames") or 1) if len(images) == 1 else len(images)
    if not images or frames != len(labels):
        raise UserError(
            f"{path.name}: a DICOM SEG refers to the {len(labels)} DICOM images it was drawn on, and "
            f"{frames if images else 'none'} are known; use the format nifti"
        )
    values = sorted({int(v) for v in np.unique(labels)} | {int(v) for v in names} - {0})
    values = [v for v in values if v]
    if not values:
        raise UserError(
            f"{path.name}: a DICOM SEG needs at least one label; this mask is empty and names none"
        )
    numbers = np.zeros(int(max(values)) + 1, np.uint8 if len(values) < 256 else np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    try:
        made: Any = Segmentation(
            source_images=images,
            pixel_array=numbers[labels],
            segmentation_type="BINARY",
            segment_descriptions=[
                _description(number, str(names.get(value, value))) for number, value in enumerate(values, 1)
            ],
            series_instance_uid=generate_uid(prefix=None),
            series_number=_free_number(images[0]),
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="medspectrum",
            manufacturer_model_name="medspectrum",
            software_versions=__version__,
            device_serial_number="none",
            series_description="Segmentation by medspectrum",
            content_label="SEGMENTATION",
            omit_empty_frames=True,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path.name}: no DICOM SEG can be made for {sources[0]} ({error}); use the format nifti"
        ) from error
    written = io.BytesIO()
    made.save_as(written, enforce_file_format=True)
    store.write_bytes(path, written.getvalue())


def _source(name: str, path: Path) -> Any:
    """The header of an image drawn on, with what a SEG must take over from it."""
    from pydicom.uid import generate_uid

    from medspectrum import formats

    try:
        if formats.kind(name) != "dicom":
            raise UnreadableFile(name, "is no DICOM")
        data = dicom.dataset(Path(name), pixels=False, whole=True)
    except UnreadableFile as error:
        raise UserError(
            f"{path.name}: a DICOM SEG refers to the DICOM images it was drawn on, and {name} is none "
            f"({error.reason}); use the format nifti"
        ) from None
    for required in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not data.get(required):
            raise UserError(f"{name}: has no {required}, which a DICOM SEG refers to; use the format nifti")
    if "SpecificCharacterSet" in data and not data.SpecificCharacterSet:
        del data.SpecificCharacterSet  # empty is as good as absent, but is refused where it is taken over
    for empty in _TAKEN_OVER:
        if empty not in data:
            setattr(data, empty, None)
    if "ImagePositionPatient" in data and not data.get("FrameOfReferenceUID"):
        # equal for all images of a series, as it has to be
        data.FrameOfReferenceUID = generate_uid(prefix=None, entropy_srcs=[str(data.SeriesInstanceUID)])
    return data


def _free_number(data: Any) -> int:
    """A series number beside those of the study."""
    return 1000 + min(max(int(data.get("SeriesNumber") or 0), 0), 1 << 20)


def _description(number: int, name: str) -> Any:
    """What a segment is: coded where its name is that of a body part, else in words."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import Collection, codes

    word = "".join(part[:1].upper() + part[1:] for part in name.replace("_", " ").split())
    lists = [Collection(name) for name in _STRUCTURES]
    code = next((getattr(listed, word) for listed in lists if word in dir(listed)), None)
    if code is None:
        code = CodedConcept(str(number), "99MEDSPECTRUM", name[:64])
    return SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=code,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="medspectrum", family=codes.DCM.ArtificialIntelligence, version=__version__
        ),
    )

"""DICOM objects full of made-up identifiers, each in a place of its own, for tests of de-identification."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAME, ID, BIRTH = "Zwetschkenbaum^Ottokar", "QX-4471930", "19370214"
DOCTOR, WARD, CITY = "Hollerwöger^Kunigunde", "Sankt Pölten Süd", "Kirschgasse 17"
UID = "1.3.6.1.4.1.99999.3.141.5926"
SECRETS = (
    *("Zwetschkenbaum", "Ottokar", "4471930", "19370214", "Hollerw", "Kunigunde", "lten S", "Kirschgasse"),
    *(
        "99999.3.141",
        "ACC778812",
        "555-0147",
        "ottokar@",
        "PRIV-8812",
        "Comment-5521",
        "Overlay-9914",
        "Deep-3310",
    ),
)
"""Pieces of which none may be found anywhere afterwards."""


def made_ct(path: Path, *, number: int = 1, patient: str = ID, name: str = NAME, **tags) -> Path:
    """A small CT slice, 12 x 20, whose pixels differ in every place."""
    import pydicom.uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"{UID}.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{UID}.100", f"{UID}.200"
    data.FrameOfReferenceUID = f"{UID}.300"
    data.PatientName, data.PatientID, data.PatientBirthDate = name, patient, BIRTH
    data.PatientSex, data.PatientAge, data.PatientSize = "M", "097Y", "1.8"
    data.StudyDate, data.SeriesDate, data.ContentDate = "20210305", "20210306", "20210307"
    data.StudyTime = "112233"
    data.AcquisitionDateTime = "20210305112233.5+0100"
    data.AccessionNumber, data.StudyID = "ACC778812", "S5"
    data.ReferringPhysicianName = data.OperatorsName = DOCTOR
    data.InstitutionName, data.InstitutionAddress = WARD, CITY
    data.StudyDescription = "Thorax, Herr Zwetschkenbaum, Tel 555-0147, ottokar@example.org"
    data.SeriesDescription = "axial 5 mm"
    data.ImageComments = "Comment-5521"
    data.Modality, data.Manufacturer, data.StationName = "CT", "Maker", "CT-ROOM-4"
    data.ConvolutionKernel = "B30 QX-4471930"
    data.SeriesNumber, data.InstanceNumber = 3, number
    data.ImagePositionPatient, data.ImageOrientationPatient = [1, 2, number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.75], "1.5"
    data.Rows, data.Columns, data.SamplesPerPixel = 12, 20, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PhotometricInterpretation, data.RescaleIntercept, data.RescaleSlope = "MONOCHROME2", -1024, 1
    data.PixelData = (np.arange(240, dtype="<i2") * 7 - 100).tobytes()
    data.private_block(0x0029, "MAKER", create=True).add_new(0x10, "LO", "PRIV-8812")
    data.add_new(0x60000010, "US", 12)
    data.add_new(0x60004000, "LT", "Overlay-9914")
    data.add_new(0x60003000, "OW", b"\xff\x0f" * 15)
    deep, deeper = Dataset(), Dataset()
    deeper.PersonName, deeper.TextValue = DOCTOR, "Deep-3310"
    deep.ReferencedSOPInstanceUID, deep.ReferencedSOPClassUID = f"{UID}.1", CTImageStorage
    deep.PurposeOfReferenceCodeSequence = Sequence([deeper])
    data.SourceImageSequence = Sequence([deep])
    for word, value in tags.items():
        setattr(data, word, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{UID}.{number}")
    data.file_meta.SourceApplicationEntityTitle = "ZWETSCHKENBAUM"
    data.preamble = b"Zwetschkenbaum, Ottokar".ljust(128)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def survivors(folder: Path, secrets: tuple[str, ...] = SECRETS) -> list[tuple[str, str]]:
    """(secret, file) for every secret found in a file's bytes or in its path, without regard to case."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes().lower() if path.is_file() else b""
        place = str(path.relative_to(folder)).lower()
        for secret in secrets:
            forms = {secret.lower().encode(code, "replace") for code in ("utf-8", "latin-1", "utf-16-le")}
            if any(form in content for form in forms) or secret.lower() in place:
                found.append((secret, place))
    return found

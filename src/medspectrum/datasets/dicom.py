"""A folder of DICOM files, grouped by study and series, whatever the files are called."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from medspectrum import formats, registry, store
from medspectrum.case import Case, CaseSet, ClassTarget, LeftOut
from medspectrum.datasets import _columns, _dicom_masks, _fake, _files, _series
from medspectrum.datasets.table import read_table
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats import dicom as files
from medspectrum.formats.dicom_seg import SegHeader

KEYS = {
    "series": ("series", "seriesuid", "seriesinstanceuid"),
    "study": ("study", "studyuid", "studyinstanceuid"),
    "patient": ("patient", "patientid", "pid", "mrn", "subject", "subjectid"),
    "path": ("path", "folder", "file", "filename", "image", "case", "id"),
}


def recognise(path: Path) -> float:
    """Sure where DICOM is among the first files."""
    if path.is_file():
        return 0.0
    for file in islice(_files.walk(path), 400):
        if _files.has_suffix(file) and formats.suffix_of(file) not in formats.SUFFIXES["dicom"]:
            continue
        try:
            if formats.kind(file) == "dicom":
                return 0.8
        except UnreadableFile:
            continue
    return 0.0


def fake(folder: Path, seed: int) -> Path:
    """Four made-up patients of two hospitals with a CT series of three slices each, and a labels.csv."""
    rng = np.random.default_rng(seed)
    lines = ["patient,label"]
    for number in range(4):
        label = _fake.CLASSES[number % 2]
        lines.append(f"ID{number},{label}")
        for place in range(3):
            values = rng.normal(70 if label == "dark" else 180, 20, (16, 16)).clip(0, 255).astype(np.int16)
            target = folder / f"ID{number}" / "series" / f"{place}.dcm"
            write_slice(
                target, values, patient=f"ID{number}", place=place, centre="north" if number < 2 else "south"
            )
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_slice(path: Path, values: np.ndarray, *, patient: str, place: int, centre: str) -> None:
    """Write a made-up CT slice: (Y, X) int16 stored values, HU = value - 1000, 2.5 mm apart."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

    path.parent.mkdir(parents=True, exist_ok=True)
    root = "1.2.826.0.1.3680043.8.498"
    branch = int(store.digest(patient)[:8], 16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{root}.{branch}.{place + 1}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.InstitutionName, data.Modality = patient, centre, "CT"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{root}.{branch}.100", f"{root}.{branch}.200"
    data.SeriesNumber, data.InstanceNumber = 1, place + 1
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1000
    data.PixelSpacing, data.SliceThickness = [0.7, 0.8], 2.5
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2.5 * place]
    data.PixelData = values.astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)


@registry.dataset("dicom", recognise=recognise, fake=fake)
def dicom(path: Path, *, labels: str | None = None, identifiers: bool = False) -> CaseSet:
    """DICOM files: one case per volume (series), plain radiographs one per file.

    Segmentation objects (DICOM SEG) become the masks of the series they refer to, their segments' names the
    labels.

    labels: a table whose column patient, study, series or path says which case a row is of and whose
    column label the class (``labels.csv`` in the folder is taken by itself); ``folder`` takes the first
    folder below DATA as the class. identifiers: keep patient IDs as they are in the headers; by default
    they are replaced by a digest of them (a pseudonym, not an anonymisation).
    """
    if not path.is_dir():
        raise UserError(f"{path}: dicom is a folder of DICOM files")
    left_out: list[LeftOut] = []
    skipped: dict[str, int] = {}
    segmentations: list[SegHeader] = []
    headers = _series.headers(str(path), left_out, skipped, segmentations)
    by_series: dict[tuple[str, str], list[files.Header]] = defaultdict(list)
    for header in headers:
        by_series[header.study, header.series or header.path].append(header)
    volumes = [volume for key in by_series for volume in files.volumes(by_series[key])]
    names = _names(volumes, path)
    label_of, notes = _labels(volumes, names, path, labels)
    masks, told = _dicom_masks.masks(segmentations, volumes, left_out)
    notes += told
    cases = []
    for place, (volume, name) in enumerate(zip(volumes, names, strict=True)):
        first = volume[0]
        patient = first.patient or name
        if first.patient and not identifiers:
            patient = "p-" + store.digest("patient", first.patient)[:12]
        record = {"modality": first.modality, "series": first.description, "view": first.view}
        label = label_of.get(name)
        targets = [ClassTarget(label)] if label is not None else []
        targets += [masks[place]] if place in masks else []
        cases.append(
            Case(
                name,
                patient,
                {"image": _series.lazy_volume(volume)},
                targets[0] if targets else None,
                first.centre or None,
                {word: value for word, value in record.items() if value},
                also=tuple(targets[1:]),
            )
        )
    if skipped:
        words = ", ".join(f"{kind} {count}" for kind, count in sorted(skipped.items()))
        notes.append(f"{sum(skipped.values())} DICOM objects are no pictures and were passed over ({words})")
    others = Counter(
        formats.suffix_of(f)
        for f in _files.walk(path)
        if formats.named_like_image(f) and formats.suffix_of(f) not in formats.SUFFIXES["dicom"]
    )
    if others:
        words = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items()))
        notes.append(f"pictures that are not DICOM were passed over ({words})")
    if any(not volume[0].patient for volume in volumes):
        notes.append("some files name no patient; each such series counts as a patient of its own")
    return CaseSet(path.name, "dicom", tuple(cases), tuple(left_out), tuple(notes))


def _names(volumes: Sequence[Sequence[files.Header]], path: Path) -> list[str]:
    """A name for each volume: its file, or its folder, with a number where a folder has several."""
    raw = []
    for volume in volumes:
        name = _files.relative(volume[0].path, path)
        raw.append(name if len(volume) == 1 else os.path.dirname(name) or path.name)  # noqa: PTH120
    counts = Counter(raw)
    seen: Counter[str] = Counter()
    named = []
    for name, volume in zip(raw, volumes, strict=True):
        seen[name] += 1
        named.append(name if counts[name] == 1 else f"{name}#{volume[0].number}.{seen[name]}")
    return named


def _labels(
    volumes: Sequence[Sequence[files.Header]], names: Sequence[str], path: Path, given: str | None
) -> tuple[dict[str, str], list[str]]:
    """The class of each volume by its name, and what had to be assumed."""
    if given == "folder":
        return {name: name.split("/")[0] for name in names if "/" in name}, []
    table = Path(given) if given else path / "labels.csv"
    if given and not table.is_absolute() and not table.exists():
        table = path / given
    if given or table.is_file():
        return _from_table(volumes, names, table)
    top: dict[str, set[str]] = defaultdict(set)
    for volume, name in zip(volumes, names, strict=True):
        if "/" in name and volume[0].patient:
            top[name.split("/")[0]].add(volume[0].patient)
    if len(top) > 1 and sum(len(p) > 1 for p in top.values()) > len(top) / 2:
        return {}, [
            "folders with several patients each may be classes; to take them as labels give --labels folder"
        ]
    return {}, []


def _from_table(
    volumes: Sequence[Sequence[files.Header]], names: Sequence[str], table: Path
) -> tuple[dict[str, str], list[str]]:
    rows = read_table(table)
    plain = {_columns.plain(column): column for column in rows.columns}
    by = next(((kind, plain[w]) for kind, words in KEYS.items() for w in words if w in plain), None)
    label = _columns.guess("label", rows.columns)
    if by is None or label is None:
        raise UserError(
            f"{table}: needs a column patient, study, series or path, and a column label; "
            f"it has {', '.join(rows.columns)}"
        )
    kind, column = by
    wanted: dict[str, str | None] = {}
    for key, value in zip(rows[column].to_list(), rows[label].to_list(), strict=True):
        text, key = _files.label_of(value), (key or "").strip()
        if key in wanted and wanted[key] != text:
            raise UserError(f"{table}: gives two different labels for one {kind} (column {column!r})")
        wanted[key] = text
    found: dict[str, str] = {}
    used: set[str] = set()
    for volume, name in zip(volumes, names, strict=True):
        for key in _keys(kind, volume[0], name):
            if key in wanted:
                used.add(key)
                text = wanted[key]
                if text is not None:
                    found[name] = text
                break
    notes = [f"labels were read from {table.name}, by {kind}"]
    if len(wanted) > len(used):
        notes.append(f"{len(wanted) - len(used)} rows of {table.name} match no DICOM series")
    return found, notes


def _keys(kind: str, header: files.Header, name: str) -> Sequence[str]:
    """What may stand in the table for this volume."""
    plain: Mapping[str, str] = {"series": header.series, "study": header.study, "patient": header.patient}
    if kind in plain:
        return [plain[kind]]
    bare = name.split("#")[0]
    parents = [bare]
    while "/" in parents[-1]:
        parents.append(parents[-1].rsplit("/", 1)[0])
    return [name, *parents, *(_files.stem(part) for part in parents)]

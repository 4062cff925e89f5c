"""A folder per class; above them there may be folders train, val and test."""

from __future__ import annotations

from pathlib import Path

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, ClassTarget, LeftOut
from medspectrum.datasets import _fake, _files
from medspectrum.errors import UserError


def recognise(path: Path) -> float:
    """Sure where there are several folders of pictures and none is known to mean something else."""
    if not path.is_dir():
        return 0.0
    splits = _split_folders(path)
    if splits:
        classes = [c for s in splits for c in _files.subfolders(s) if _files.first_image(c)]
        return 0.7 if classes else 0.0
    folders = [f for f in _files.subfolders(path) if _class_like(f)]
    with_images = [(f, image) for f in folders[:50] if (image := _files.first_image(f))]
    if not with_images or any(_files.holds_image(str(f)) for f in path.iterdir() if f.is_file()):
        return 0.0
    if formats.suffix_of(with_images[0][1]) in formats.SUFFIXES["dicom"] or not _files.has_suffix(
        with_images[0][1]
    ):
        return 0.2  # DICOM tells its own grouping
    return 0.6 if len(with_images) > 1 else 0.3


def _class_like(folder: Path) -> bool:
    return folder.name.lower() not in (*_files.IMAGE_FOLDERS, *_files.MASK_FOLDERS)


def _split_folders(path: Path) -> list[Path]:
    """The folders train, val, test where all folders are such."""
    folders = _files.subfolders(path)
    if folders and all(f.name.lower() in _files.SPLIT_OF for f in folders):
        return folders
    return []


def fake(folder: Path, seed: int) -> Path:
    """Six made-up patients with two pictures each, in two classes."""
    for number, (patient, label, array) in enumerate(_fake.pictures(seed)):
        _fake.write_png(folder / label / f"{patient}_{number}.png", array)
    return folder


@registry.dataset("folder_per_class", recognise=recognise, fake=fake)
def folder_per_class(path: Path, *, patient_pattern: str | None = None) -> CaseSet:
    """A folder per class, the folder's name being the label; train/val/test may stand above.

    patient_pattern: regular expression on the path below DATA; its first group is the patient.
    """
    if not path.is_dir():
        raise UserError(f"{path}: folder_per_class is a folder that holds one folder per class")
    left_out: list[LeftOut] = []
    splits = [(s, _files.SPLIT_OF[s.name.lower()]) for s in _split_folders(path)] or [(path, None)]
    rows = []
    warnings = []
    for top, split in splits:
        for folder in _files.subfolders(top):
            found = list(_files.images(folder, left_out))
            if not found:
                warnings.append(f"folder {_files.relative(str(folder), path)} holds no picture")
            rows.extend((name, folder.name, split) for name in found)
    names = [_files.relative(name, path) for name, _, _ in rows]
    patients, assumed = _files.patients(names, patient_pattern)
    targets = {label: ClassTarget(label) for _, label, _ in rows}
    cases = tuple(
        Case(rel, patient, {"image": formats.lazy(name)}, targets[label], split=split)
        for rel, patient, (name, label, split) in zip(names, patients, rows, strict=True)
    )
    return CaseSet(path.name, "folder_per_class", cases, tuple(left_out), (*warnings, *assumed))

"""Images and masks in pairs: folders ``images`` and ``labels``, or ``x_image`` beside ``x_mask``."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, LeftOut, MaskTarget
from medspectrum.datasets import _fake, _files
from medspectrum.errors import UserError

IMAGE_ENDS = ("_image", "_img", "_scan", "_ct", "_mr", "")
MASK_ENDS = ("_mask", "_label", "_labels", "_seg", "_segmentation")


def recognise(path: Path) -> float:
    """Sure where pictures and masks have the same names."""
    if not path.is_dir():
        return 0.0
    folders = _two_folders(path)
    if folders is not None:
        masks = {_base(f) for f in islice(_files.images(folders[1]), 2000)}
        return 0.68 if any(_base(f) in masks for f in islice(_files.images(folders[0]), 200)) else 0.0
    found, masks = _side_by_side(list(islice(_files.images(path), 500)))
    return 0.66 if masks and len(masks) >= len(found) / 2 and any(key in masks for key in found) else 0.0


def _two_folders(path: Path) -> tuple[Path, Path] | None:
    by_name = {f.name.lower(): f for f in _files.subfolders(path)}
    image = next((by_name[n] for n in (*_files.IMAGE_FOLDERS, "imagestr") if n in by_name), None)
    mask = next((by_name[n] for n in (*_files.MASK_FOLDERS, "labelstr") if n in by_name), None)
    return (image, mask) if image is not None and mask is not None else None


def _base(path: str) -> str:
    """The name that an image and its mask share."""
    stem = _files.stem(path)
    for end in (*MASK_ENDS, *IMAGE_ENDS[:-1]):
        if stem.lower().endswith(end):
            return stem[: -len(end)]
    return stem


def _side_by_side(files: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks that lie in the same folder, by folder and shared name."""
    found: dict[str, str] = {}
    masks: dict[str, str] = {}
    for file in files:
        stem = _files.stem(file).lower()
        key = f"{Path(file).parent}/{_base(file)}"
        (masks if stem.endswith(MASK_ENDS) else found).setdefault(key, file)
    return found, masks


def fake(folder: Path, seed: int) -> Path:
    """Four made-up volumes with masks of the same names."""
    rng = np.random.default_rng(seed)
    for number in range(4):
        image, mask = _fake.volume(rng, _fake.CLASSES[number % 2])
        _fake.write_nifti(folder / "images" / f"made_{number}.nii.gz", image)
        _fake.write_nifti(folder / "masks" / f"made_{number}.nii.gz", mask)
    return folder


@registry.dataset("pairs", recognise=recognise, fake=fake)
def pairs(path: Path, *, patient_pattern: str | None = None) -> CaseSet:
    """Images and label maps with the same names, without any list. Label values have no names.

    patient_pattern: regular expression on the path below DATA; its first group is the patient.
    """
    if not path.is_dir():
        raise UserError(f"{path}: pairs is a folder with images and masks")
    left_out: list[LeftOut] = []
    folders = _two_folders(path)
    if folders is not None:
        found = {_base(f): f for f in _files.images(folders[0], left_out)}
        masks = {_base(f): f for f in _files.images(folders[1], left_out)}
        lacking = f"the folders are read as pairs: {folders[0].name} and {folders[1].name}"
    else:
        found, masks = _side_by_side(list(_files.images(path, left_out)))
        lacking = "files named _mask, _label or _seg are read as the masks of the others"
    if not masks:
        raise UserError(
            f"{path}: has no masks; pairs are folders images/ and labels/, or x_image beside x_mask"
        )
    keys = sorted(found)
    names = [_files.relative(found[key], path) for key in keys]
    patients, assumed = _files.patients(names, patient_pattern)
    cases = tuple(
        Case(
            name,
            patient,
            {"image": formats.lazy(found[key])},
            MaskTarget(formats.lazy(masks[key]), {}) if key in masks else None,
        )
        for key, name, patient in zip(keys, names, patients, strict=True)
    )
    left_out += [LeftOut(masks[key], "is a mask without an image") for key in sorted(set(masks) - set(found))]
    warnings = [lacking + "; there is no dataset.json, so label values have no names", *assumed]
    warnings += _tables(path)
    return CaseSet(path.name, "pairs", cases, tuple(left_out), tuple(warnings))


def _tables(path: Path) -> list[str]:
    """A word on tables that lie beside the pictures and were not read."""
    suffixes = Counter(f.name for f in path.iterdir() if f.suffix.lower() in (".csv", ".tsv", ".parquet"))
    return [
        f"{name} was not read, as no column of it names images; to read it: DATA/{name} with "
        "--image and a pattern over its columns, such as '{site}/{id:0>3}_image.png'"
        for name in sorted(suffixes)
    ]

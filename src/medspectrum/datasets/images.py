"""Pictures without labels: one file, or a folder of files. What ``predict`` is given on new data."""

from __future__ import annotations

from pathlib import Path

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, LeftOut
from medspectrum.datasets import _fake, _files
from medspectrum.errors import UserError


def recognise(path: Path) -> float:
    """The last resort: anything that holds a picture."""
    if path.is_file():
        return 0.5 if formats.named_like_image(path) or _files.holds_image(str(path)) else 0.0
    return 0.1 if _files.first_image(path) else 0.0


def fake(folder: Path, seed: int) -> Path:
    """Six made-up patients with two pictures each, side by side in one folder."""
    for number, (patient, _, array) in enumerate(_fake.pictures(seed)):
        _fake.write_png(folder / f"{patient}_{number}.png", array)
    return folder


@registry.dataset("images", recognise=recognise, fake=fake)
def images(path: Path, *, patient_pattern: str | None = None) -> CaseSet:
    """Pictures without labels, one case per file.

    patient_pattern: regular expression on the path below DATA; its first group is the patient.
    """
    if path.is_file():
        formats.kind(path)
        found, top = [str(path)], path.parent
    elif path.is_dir():
        left_out: list[LeftOut] = []
        found, top = list(_files.images(path, left_out)), path
        return _case_set(path, found, top, patient_pattern, left_out)
    else:
        raise UserError(f"{path}: is neither a file nor a folder")
    return _case_set(path, found, top, patient_pattern, [])


def _case_set(
    path: Path, found: list[str], top: Path, pattern: str | None, left_out: list[LeftOut]
) -> CaseSet:
    names = [_files.relative(name, top) for name in found]
    patients, assumed = _files.patients(names, pattern)
    cases = tuple(
        Case(rel, patient, {"image": formats.lazy(name)})
        for rel, patient, name in zip(names, patients, found, strict=True)
    )
    return CaseSet(path.name, "images", cases, tuple(left_out), tuple(assumed))

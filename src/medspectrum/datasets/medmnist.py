"""MedMNIST archives (``train_images``, ``train_labels``...) and plain ones (``images``, ``labels``...)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry, store
from medspectrum.case import Case, CaseSet, ClassTarget, LazyImage
from medspectrum.datasets import _fake, _files, _npz
from medspectrum.errors import UserError

IMAGES = ("images", "image", "x", "data", "imgs", "pixels")
LABELS = ("labels", "label", "y", "targets", "target", "class", "classes")
PATIENTS = ("patient", "patients", "patientid", "patientids", "subject", "subjects")
CENTRES = ("centre", "centres", "center", "centers", "site", "hospital")
SPLIT_COLUMNS = ("split", "splits", "set")
PREFIXES = {"train": "train_", "val": "val_", "test": "test_"}


def recognise(path: Path) -> float:
    """Sure of anything named .npz, and of a folder whose only content is one."""
    return 0.95 if path.is_file() and path.suffix.lower() == ".npz" else 0.7 if _only_archive(path) else 0.0


def _only_archive(path: Path) -> Path | None:
    """The one .npz of a folder, if it has exactly one and no pictures."""
    if not path.is_dir():
        return None
    found = [f for f in sorted(path.iterdir()) if f.is_file() and f.suffix.lower() == ".npz"]
    return found[0] if len(found) == 1 and not _files.first_image(path, most=50) else None


def fake(folder: Path, seed: int) -> Path:
    """Three splits of six made-up pictures each."""
    arrays: dict[str, np.ndarray] = {}
    for number, split in enumerate(PREFIXES):
        made = list(_fake.pictures(seed * 3 + number, each=1))
        arrays[f"{split}_images"] = np.stack([array for _, _, array in made])
        arrays[f"{split}_labels"] = np.array([[_fake.CLASSES.index(label)] for _, label, _ in made], np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "fakemnist.npz", **arrays)  # type: ignore[arg-type]
    return folder / "fakemnist.npz"


@registry.dataset("medmnist", recognise=recognise, fake=fake)
def medmnist(
    path: Path,
    *,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    cache: str | Path | None = None,
) -> CaseSet:
    """A MedMNIST .npz, or any .npz with arrays of images, labels, patients...

    image, label, patient, centre, split: names of the arrays, where they are not the usual ones. For labels
    with several columns, ``label`` is the number of the column (0 is the first).
    """
    archive = _only_archive(path) if path.is_dir() else path
    if archive is None or not archive.is_file():
        raise UserError(f"{path}: medmnist is one .npz file")
    known = _npz.members(archive)
    digest = store.file_digest(archive)
    place = str(store.cache_folder(cache).resolve())
    official = [s for s, prefix in PREFIXES.items() if f"{prefix}images" in known]
    cases: list[Case] = []
    if official and image is None:
        for name in official:
            prefix = PREFIXES[name]
            columns = {"label": f"{prefix}labels" if f"{prefix}labels" in known else None}
            number = label
            cases += _rows(archive, digest, place, known, f"{prefix}images", columns, name, number)
    else:
        chosen = {
            "label": _column(known, None if _is_number(label, known) else label, LABELS, archive, "label"),
            "patient": _column(known, patient, PATIENTS, archive, "patient"),
            "centre": _column(known, centre, CENTRES, archive, "centre"),
            "split": _column(known, split, SPLIT_COLUMNS, archive, "split"),
        }
        pictures = _column(known, image, IMAGES, archive, "image")
        if pictures is None:
            raise UserError(
                f"{archive}: has arrays {', '.join(known)}, none of which is called images; "
                "name it with --image"
            )
        cases = _rows(archive, digest, place, known, pictures, chosen, None, label)
    warnings = ()
    if not any(c.patient != c.id for c in cases):
        warnings = ("patients are not known: each image counts as a patient of its own",)
    return CaseSet(archive.stem, "medmnist", tuple(cases), (), warnings)


def _is_number(label: str | None, known: Mapping[str, _npz.Member]) -> bool:
    """Whether ``label`` is the number of a column rather than the name of an array."""
    return label is not None and label.isdigit() and label not in known


def _column(
    known: Mapping[str, _npz.Member], given: str | None, usual: tuple[str, ...], path: Path, setting: str
) -> str | None:
    """The array that was named, or the one with a usual name, or None."""
    if given is not None:
        if given not in known:
            raise UserError(f"{path}: has no array {given!r} for {setting}; it has {', '.join(known)}")
        return given
    plain = {name.lower().replace("_", ""): name for name in known}
    return next((plain[word] for word in usual if word in plain), None)


def _rows(
    path: Path,
    digest: str,
    cache: str,
    known: Mapping[str, _npz.Member],
    pictures: str,
    columns: Mapping[str, str | None],
    split: str | None,
    number: str | None,
) -> list[Case]:
    """The cases of one array of images."""
    member = known[pictures]
    if len(member.shape) < 3 or member.dtype.kind not in "buif":
        raise UserError(
            f"{path}: {pictures} is {member.dtype} of shape {member.shape}; "
            "images are numbers of shape (n, y, x, ...)"
        )
    count = member.shape[0]
    colour = len(member.shape) in (4, 5) and member.shape[-1] in (3, 4) and member.shape[-2] > 4
    rows = _npz.Rows(str(path), digest, pictures, cache, colour)
    values: dict[str, np.ndarray] = {}
    for role, name in columns.items():
        if name is None:
            continue
        column = _npz.small(path, known[name])
        if len(column) != count:
            raise UserError(
                f"{path}: {pictures} has {count} rows but {name} has {len(column)}; they must agree"
            )
        values[role] = _one_column(column, path, name, number if role == "label" else None)
    others = [
        name
        for name, m in known.items()
        if split is None and name not in columns.values() and len(m.shape) == 1 and m.shape[0] == count
    ]
    record = {name: _npz.small(path, known[name]) for name in others if name != pictures}
    targets: dict[str, ClassTarget] = {}
    cases = []
    for index in range(count):
        name = f"{split or 'image'}/{index}"
        text = _files.label_of(_text(values["label"][index])) if "label" in values else None
        target = None if text is None else targets.setdefault(text, ClassTarget(text))
        lazy = LazyImage(f"{path}#{pictures}/{index}", _npz.RowRead(rows, index), _npz.RowKey(rows, index))
        given = _files.split_of(_text(values["split"][index]), str(path)) if "split" in values else split
        patient = _files.label_of(_text(values["patient"][index])) if "patient" in values else None
        centre = _files.label_of(_text(values["centre"][index])) if "centre" in values else None
        extra = {key: sys.intern(_text(column[index])) for key, column in record.items()}
        cases.append(
            Case(
                name,
                sys.intern(patient) if patient else name,
                {"image": lazy},
                target,
                sys.intern(centre) if centre else None,
                extra,
                given,
            )
        )
    return cases


def _one_column(column: np.ndarray, path: Path, name: str, number: str | None) -> np.ndarray:
    """(n,) of an (n,), (n, 1) or (n, k) array; of several columns one must be chosen."""
    if column.ndim == 1:
        return column
    flat = column.reshape(len(column), -1)
    if flat.shape[1] == 1:
        return flat[:, 0]
    if number is None or not number.isdigit() or int(number) >= flat.shape[1]:
        raise UserError(
            f"{path}: {name} has {flat.shape[1]} labels per image (several may be true at once); "
            f"choose one with --label 0 ... --label {flat.shape[1] - 1}"
        )
    return flat[:, int(number)]


def _text(value: Any) -> str:
    """A NumPy value as text; whole floats without their point."""
    if isinstance(value, bytes | np.bytes_):
        return value.decode(errors="replace")
    if isinstance(value, np.floating | float):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return str(value)

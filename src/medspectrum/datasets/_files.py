"""Walking folders safely, and the words that data sets use for missing labels and for splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medspectrum import formats
from medspectrum.case import LeftOut
from medspectrum.errors import UnreadableFile, UserError

MISSING = frozenset(
    {"", "nan", "na", "n/a", "<na>", "null", "nat", "todo", "missing", "?", "unlabelled", "unlabeled"}
)
"""What counts as no label, in lower case. ``none`` and ``unknown`` may be classes and are kept."""

SPLITS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "tune", "tuning"),
    "test": ("test", "testing", "tst", "ts", "holdout"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
IMAGE_FOLDERS = (
    "images",
    "image",
    "imgs",
    "img",
    "scans",
    "data",
    "files",
    "jpegimages",
    "pictures",
    "imagestr",
)
MASK_FOLDERS = ("labels", "label", "masks", "mask", "segmentations", "annotations")
SKIPPED = ("__MACOSX",)


def walk(folder: str | os.PathLike[str], left_out: list[LeftOut] | None = None) -> Iterator[str]:
    """Paths of all files below, sorted within each folder, hidden ones skipped.

    A folder that was entered already (a link that leads back up) is not entered again, so that loops end.
    Folders that may not be opened go to ``left_out``.
    """
    entered: set[tuple[int, int]] = set()
    pending = [os.fspath(folder)]
    while pending:
        here = pending.pop()
        try:
            facts = os.stat(here)  # noqa: PTH116
            if (facts.st_dev, facts.st_ino) in entered:
                continue
            entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(here) as opened:
                found = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            if left_out is not None:
                left_out.append(LeftOut(here, f"folder cannot be opened ({error.strerror or error})"))
            continue
        below = []
        for entry in found:
            if entry.name.startswith(".") or entry.name in SKIPPED:
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if is_folder:
                below.append(entry.path)
            else:
                yield entry.path
        pending.extend(reversed(below))


def images(folder: str | os.PathLike[str], left_out: list[LeftOut] | None = None) -> Iterator[str]:
    """Files below that are named like pictures, or that have no suffix and hold one (DICOM often)."""
    for path in walk(folder, left_out):
        if formats.named_like_image(path) or (not has_suffix(path) and holds_image(path)):
            yield path


def has_suffix(path: str) -> bool:
    """Whether the name ends like a file's (``.7`` or a UID's last part does not count)."""
    suffix = os.path.splitext(path)[1]  # noqa: PTH122
    return bool(suffix) and not suffix[1:].isdigit()


def holds_image(path: str) -> bool:
    """Whether the first bytes are a picture's."""
    try:
        formats.kind(path)
    except UnreadableFile:
        return False
    return True


def first_image(folder: str | os.PathLike[str], most: int = 500) -> str | None:
    """Some picture below, after looking at so many files at most."""
    for count, path in enumerate(walk(folder)):
        if formats.named_like_image(path) or (not has_suffix(path) and holds_image(path)):
            return path
        if count >= most:
            break
    return None


def subfolders(folder: Path) -> list[Path]:
    """Visible folders right below, sorted; empty where it may not be opened."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [f for f in found if f.is_dir() and not f.name.startswith(".") and f.name not in SKIPPED]


def stem(path: str | os.PathLike[str]) -> str:
    """The file name without its suffix; ``.nii.gz`` counts as one."""
    name = os.path.basename(os.fspath(path))  # noqa: PTH119
    suffix = formats.suffix_of(name)
    return name[: -len(suffix)] if suffix and has_suffix(name) else name


def relative(path: str, folder: str | os.PathLike[str]) -> str:
    """The path below the folder, with forward slashes."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def label_of(value: object) -> str | None:
    """A label as text, or None where it means that there is none."""
    text = str(value).strip() if value is not None else ""
    return None if text.lower() in MISSING else text


def split_of(value: object, where: str) -> str | None:
    """``train``, ``val`` or ``test`` for the usual words. Raises UserError for others."""
    text = label_of(value)
    if text is None:
        return None
    split = SPLIT_OF.get(text.lower())
    if split is None:
        raise UserError(f"{where}: {text!r} is no split; use train, val or test, or name another column")
    return split


def patients(names: Sequence[str], pattern: str | None) -> tuple[list[str], list[str]]:
    """The patient of each relative path, and what had to be assumed.

    pattern: a regular expression whose group ``patient`` (or first group) is the patient. Without one
    each file is a patient of its own. Raises UserError where the pattern is wrong or does not match.
    """
    if pattern is None:
        stems = [stem(name) for name in names]
        own = stems if len(set(stems)) == len(stems) else [name.rsplit(".", 1)[0] for name in names]
        own = own if len(set(own)) == len(own) else list(names)
        words = "patients are not known: each file counts as a patient of its own; if a patient has several, "
        return own, [words + "give --patient-pattern (a regular expression with one group, on the path)"]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"patient pattern {pattern!r} is no regular expression ({error})") from error
    if compiled.groups < 1:
        raise UserError(f"patient pattern {pattern!r} has no group; put the patient's part into ( )")
    group = "patient" if "patient" in compiled.groupindex else 1
    found = []
    for name in names:
        match = compiled.search(name)
        if match is None or not match.group(group):
            raise UserError(f"patient pattern {pattern!r} does not match {name!r}")
        found.append(match.group(group))
    return found, []

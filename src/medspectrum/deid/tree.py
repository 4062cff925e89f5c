"""The files of a folder: what each is by its content, and where it goes under a name without identifiers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medspectrum.deid.known import Known, clean_name
from medspectrum.deid.options import Options
from medspectrum.deid.secret import Secret

_SUFFIXES = """
.dcm .dicom .ima .dic .nii .nii.gz .hdr .img .png .jpg .jpeg .tif .tiff .svs .txt .csv .tsv .json .md
.html .xml .pdf .zip .tar .gz .tar.gz .tgz .7z .rar .nrrd .nhdr .mha .mhd .npy .npz .mp4 .avi .docx .xlsx
.bmp .gif
.ndpi .bvec .bval .webp .jp2
"""
SUFFIXES = frozenset(_SUFFIXES.split())
"""Endings that stay as they are; any other is part of the name, and is searched like it."""
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"Rar!": "rar",
    b"7z\xbc\xaf": "7z",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was found: its place in the tree, and what it is."""

    parts: tuple[str, ...]
    kind: str
    size: int
    changed: int


def entries(folder: Path) -> list[Entry]:
    """Everything in the folder that is no folder, in order; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=False):
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links)
        for name in sorted((*files, *links)):
            path = Path(place, name)
            about = path.lstat()
            kind = (
                "link"
                if stat.S_ISLNK(about.st_mode)
                else kind_of(path)
                if stat.S_ISREG(about.st_mode)
                else "special"
            )
            found.append(Entry(path.relative_to(folder).parts, kind, about.st_size, about.st_mtime_ns))
    return sorted(found, key=lambda entry: entry.parts)


def kind_of(path: Path) -> str:
    """What a file is by its first bytes; by its ending only where bytes say nothing (text, DICOM without a
    preamble).
    """
    try:
        with path.open("rb") as file:
            head = file.read(352)
    except OSError:
        return "unreadable"
    name, ending = path.name.lower(), ending_of(path.name)
    if head[128:132] == b"DICM":
        return "dicomdir" if name == "dicomdir" else "dicom"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0" or ending in (".nii", ".nii.gz"):
        return "nifti"
    if head[:4] == b"NRRD":
        return "nrrd"
    for start, word in _ARCHIVES.items():
        if head.startswith(start):
            return f"{word} archive"
    if ending in (".txt", ".md", ".csv", ".tsv", ".json", ".bval", ".bvec") and b"\0" not in head:
        return {".csv": "table", ".tsv": "table", ".json": "json"}.get(ending, "text")
    if ending in (".dcm", ".dicom", ".ima", ".dic") or head[:4] in (
        b"\x08\0\x05\0",
        b"\x08\0\x08\0",
        b"\x08\0\x16\0",
        b"\x02\0\0\0",
    ):
        return "dicom"
    return "unknown"


def ending_of(name: str) -> str:
    """The ending that stays, in lower case; '' where it is not one of those known."""
    lower = name.lower()
    for double in (".nii.gz", ".tar.gz"):
        if lower.endswith(double):
            return double
    ending = os.path.splitext(lower)[1]  # noqa: PTH122 - a name, no path
    return ending if ending in SUFFIXES else ""


def new_places(found: Iterable[Entry], known: Known, secret: Secret, options: Options) -> list[str]:
    """Where each file goes: the same tree, its names cleaned or replaced; no two files meet."""
    folders: dict[str, str] = {}
    places: list[str] = []
    taken: dict[str, int] = {}
    for entry in found:
        parts = [folders.setdefault(p, _renamed(p, known, secret, options)) for p in entry.parts[:-1]]
        name = entry.parts[-1]
        ending = name[len(name) - len(ending_of(name)) :]
        stem = _renamed(name[: len(name) - len(ending)], known, secret, options)
        place = "/".join([*parts, stem + ending])
        number = taken[place.casefold()] = taken.get(place.casefold(), 0) + 1
        while number > 1:
            place = "/".join([*parts, f"{stem}-{number}{ending}"])
            if place.casefold() not in taken:
                taken[place.casefold()] = 1
                break
            number += 1
        places.append(place)
    return places


def _renamed(name: str, known: Known, secret: Secret, options: Options) -> str:
    if not name:
        return name
    if options.names == "replace":
        return "N" + secret.code("path", name)
    shown = name.encode("utf-8", "replace").decode(
        "utf-8", "replace"
    )  # names in other encodings hold surrogates
    return clean_name(shown, known, secret)

"""One patient or one picture under two names: read from identifiers, DICOM headers and file names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from medspectrum import formats
from medspectrum.case import Case
from medspectrum.errors import UnreadableFile
from medspectrum.formats.dicom import header

MOST_OF_ONE = 12
"""Cases of one group whose pairs are all told; of larger groups, each case with the first one."""
TELLING = 6
"""Digits (or hexadecimal letters) in a file name from which two equal ones are no accident of counting."""

Pair = tuple[int, int, str]


def same_patient(cases: Sequence[Case]) -> Iterator[Pair]:
    """Cases of one patient in different parts of a given split: the first two of each pair of parts."""
    first: dict[str, dict[str, int]] = defaultdict(dict)
    for index, case in enumerate(cases):
        if case.split is not None:
            first[case.patient].setdefault(case.split, index)
    for parts in first.values():
        for one, two in combinations(parts.values(), 2):
            yield one, two, "same patient"


def alike_patients(cases: Sequence[Case]) -> Iterator[Pair]:
    """Patients whose identifiers differ in writing alone (``P-007``, ``p7``): one person, most likely."""
    spelt: dict[str, dict[str, int]] = defaultdict(dict)
    for index, case in enumerate(cases):
        plain = plain_id(case.patient)
        if plain and not _named_after_file(case):
            spelt[plain].setdefault(case.patient, index)
    for names in spelt.values():
        for one, two in combinations(names.values(), 2):
            yield one, two, "same patient, spelt differently"


def plain_id(name: str) -> str:
    """Lower case, letters and digits alone, numbers without leading zeros, signs between numbers kept."""
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    return ".".join(str(int(p)) if p.isdigit() else p for p in parts)


def _named_after_file(case: Case) -> bool:
    """Whether the patient is only the file's own name, since nothing else is known."""
    return any(_stem(image.source) == _stem(case.patient) for image in case.images.values()) or (
        case.patient == case.id
    )


def _stem(path: str) -> str:
    name = os.path.basename(path.replace("\\", "/"))  # noqa: PTH119
    suffix = formats.suffix_of(name)
    return name[: -len(suffix)] if suffix in formats.KIND_OF else name


def same_dicom(cases: Sequence[Case]) -> Iterator[Pair]:
    """Files with one SOP instance UID, series of one study: the same picture, or the same patient."""
    by_uid: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        for image in case.images.values():
            path = _dicom_file(image.source, formats.paths_of(image))
            if path is None:
                continue
            try:
                found = header(path)
            except UnreadableFile:
                continue
            if found.uid:
                by_uid["same SOP instance", found.uid].append(index)
            if found.study:
                by_uid["same study", found.study].append(index)
    for (kind, _), group in by_uid.items():
        yield from _pairs(group, kind, lambda a, b: cases[a].patient != cases[b].patient)


def _dicom_file(source: str, paths: Sequence[str]) -> str | None:
    path = paths[0] if paths else source
    if formats.suffix_of(path) in formats.SUFFIXES["dicom"]:
        return path if Path(path).is_file() else None
    if formats.suffix_of(path) in formats.KIND_OF or not Path(path).is_file():
        return None
    with Path(path).open("rb") as opened:
        return path if opened.read(132)[128:] == b"DICM" else None


def same_name(cases: Sequence[Case]) -> Iterator[Pair]:
    """One telling file name (a date, an accession number) in two folders, of different patients or parts.

    Names that merely count (``0012.png`` in every folder) say nothing and are passed over, as are sets in
    which most names are there twice: they name roles or classes, not pictures.
    """
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        if len(case.images) == 1:
            name = _stem(next(iter(case.images.values())).source.partition("#")[0])
            if _telling(name):
                by_name[name.lower()].append(index)
    twice = [group for group in by_name.values() if len(set(group)) > 1]
    if len(twice) * 4 > max(len(by_name), 1):
        return
    for group in twice:
        yield from _pairs(group, "same file name", lambda a, b: a != b)


def _telling(name: str) -> bool:
    digits = re.findall(r"[1-9]\d*", name)
    return sum(map(len, digits)) >= TELLING or bool(re.search(r"[0-9a-f]{12,}", name.lower()))


def _pairs(group: Iterable[int], kind: str, differ: Callable[[int, int], bool]) -> Iterator[Pair]:
    members = sorted(set(group))
    chosen = (
        combinations(members, 2) if len(members) <= MOST_OF_ONE else ((members[0], b) for b in members[1:])
    )
    for one, two in chosen:
        if differ(one, two):
            yield one, two, kind


def patients_in_names(cases: Sequence[Case]) -> dict[str, list[int]]:
    """Groups of cases that file names give to one patient where the data set names none; {} where unclear.

    Names of the form PATIENT_NUMBER whose first field comes back in most names, in at least three groups
    of which none holds a third of all.
    """
    if not cases or not all(_named_after_file(case) for case in cases):
        return {}
    groups: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        source = next(iter(case.images.values())).source if case.images else ""
        found = re.fullmatch(r"(.*?\d.*?)[_\-. ]+[a-z]{0,6}\d{0,4}[a-z]?", _stem(source), re.IGNORECASE)
        if "#" in source or found is None:
            return {}
        groups[found.group(1).lower()].append(index)
    several = {name: own for name, own in groups.items() if len(own) > 1}
    shared = sum(map(len, several.values()))
    if len(several) < 3 or shared * 2 < len(cases) or max(map(len, several.values())) * 3 > len(cases):
        return {}
    return several

"""What the headers and columns of all files say about persons: gathered first, looked for afterwards
everywhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medspectrum.deid import dicom_file
from medspectrum.deid.secret import folded
from medspectrum.errors import UnreadableFile

Fact = tuple[str, str, str]
"""kind (name, id, place), value, and the patient whose it is ('' for others)."""

_PATIENT_NAMES = (0x00100010, 0x00101001, 0x00101005)
_PATIENT_IDS = (0x00100020, 0x00101000, 0x00101002)
_IDS = (0x00080050, 0x00180050, 0x00400031, 0x00321032, 0x00380010, 0x00181000, 0x00102154, 0x00200010)
_IDS = tuple(t for t in _IDS if t not in (0x00180050, 0x00321032))
_PLACES = (0x00080080, 0x00080081, 0x00101040, 0x00080092, 0x00081010)
_LISTED = frozenset((*_IDS, *_PLACES))
_NAME_KEY = re.compile(
    r"(?i)(?:patient|pat|subject|first|last|family|given|middle|maiden|birth|mother|sur)?[ _-]?name$|"
    r"(?:physician|radiologist|operator|technologist|referrer|reader)(?:s|[ _-]?name)?$|"
    r"(?:nameofphysicians\w*|operatorsname|vorname|nachname)$"
)
_ID_KEY = re.compile(
    r"(?i)(?:patient|pat|case|record|accession|insurance|admission|account|hospital)[ _-]?"
    r"(?:id|no|nr|num|number)$|(?:mrn|pid|ssn|nhs|otherpatientids)$"
)
_PLACE_KEY = re.compile(r"(?i)(?:patient)?[ _-]?(?:address|street|city)$|institution\w*$|hospital$")
_MOST_BYTES = 64 * 2**20


def of_dicom(path: Path) -> list[Fact]:
    """Every person's name in an object, the patient's IDs, numbers that lead to a person, and places."""
    try:
        with dicom_file.quiet():
            data = dicom_file.read(path, "", pixels=False)
            patient = dicom_file.patient_of(data)
            return list(_elements(data, patient))
    except UnreadableFile:
        return []
    except Exception:  # noqa: BLE001 - a damaged header is told when the file itself has its turn
        return []


def _elements(data: Any, patient: str) -> Iterator[Fact]:
    from pydicom.datadict import dictionary_VR

    for tag in list(data.keys()):
        number = int(tag)
        raw = data.get_item(tag)
        kind = raw.VR
        if kind is None:
            try:
                kind = dictionary_VR(number)
            except KeyError:
                continue
        if kind == "SQ":
            items = data[tag].value
            for item in items if hasattr(items, "__iter__") else ():
                yield from _elements(item, patient)
        elif number in _PATIENT_IDS:
            yield from (("id", value, patient) for value in _values(data[tag].value))
        elif kind == "PN" or number in _PATIENT_NAMES:
            whose = patient if number in _PATIENT_NAMES else ""
            yield from (("name", value, whose) for value in _values(data[tag].value))
        elif number in _LISTED:
            sort = "id" if number in _IDS else "place"
            yield from ((sort, value, "") for value in _values(data[tag].value))


def _values(value: Any) -> list[str]:
    if not value:
        return []
    several = (
        not isinstance(value, str | bytes)
        and hasattr(value, "__iter__")
        and not hasattr(value, "family_name")
    )
    found = []
    for one in value if several else [value]:
        text = one.decode("latin-1") if isinstance(one, bytes) else str(one)
        found += [part.strip(" \0") for part in text.split("=") if part.strip(" \0^")]
    return found


def of_json(text: str) -> list[Fact]:
    """Values of keys that are named like a person, a number of one, or a place."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found: list[Fact] = []

    def look(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                look(inner, str(name))
        elif isinstance(value, list):
            for inner in value:
                look(inner, key)
        elif isinstance(value, str | int) and not isinstance(value, bool) and (sort := sort_of(key)):
            found.append((sort, str(value), ""))

    look(content, "")
    return found


def of_table(text: str) -> list[Fact]:
    """Values of columns that are named like a person, a number of one, or a place."""
    rows = rows_of(text)
    if not rows:
        return []
    found = []
    for at, title in enumerate(rows[0][0]):
        if sort := sort_of(title):
            found += [(sort, row[at], "") for row in rows[0][1:] if at < len(row)]
    return found


def rows_of(text: str) -> tuple[list[list[str]], str] | None:
    """The rows of a table and what separates its columns; None where it is no table."""
    head = text.partition("\n")[0]
    mark = max(",;\t", key=head.count)
    if not head.count(mark):
        return None
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    except csv.Error:
        return None
    return (rows, mark) if rows and all(len(row) <= len(rows[0]) for row in rows) else None


def sort_of(title: str) -> str:
    """name, id or place for a key or column that is named so; else ''."""
    plain = title.strip().strip("'\"")
    for sort, rule in (("name", _NAME_KEY), ("id", _ID_KEY), ("place", _PLACE_KEY)):
        if rule.fullmatch(plain) or rule.fullmatch(folded(plain)):
            return sort
    return ""


def of_text_file(path: Path) -> list[Fact]:
    """Of a JSON file or a table; nothing of others."""
    if path.stat().st_size > _MOST_BYTES:
        return []
    text = path.read_bytes().decode("utf-8", "replace").lstrip("\ufeff")
    if path.suffix.lower() == ".json":
        return of_json(text)
    return of_table(text) if path.suffix.lower() in (".csv", ".tsv") else []

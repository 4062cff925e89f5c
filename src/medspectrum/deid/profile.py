"""What the standard says to do with each DICOM attribute: PS3.15 Table E.1-1, as data beside this file.

``ps3_15_e1_1.csv`` is the table of DICOM PS3.15 2024b (unchanged to 2024e in its source), taken from the
machine-readable edition github.com/innolitics/dicom-standard, commit 7f4749d (MIT). Where the table leaves
the choice to what an object needs (X/Z, X/Z/D...), the last letter is taken, so that required attributes stay
there.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from medspectrum.deid.options import Options

TABLE = Path(__file__).with_name("ps3_15_e1_1.csv")
EDITION = "DICOM PS3.15 2024b, Table E.1-1"
_COLUMNS = {
    "uids": "retain_uids",
    "device": "retain_device",
    "institution": "retain_institution",
    "patient": "retain_patient",
    "descriptors": "clean_descriptors",
    "structured": "clean_structured",
    "graphics": "clean_graphics",
}
CODES = {
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "pixels": ("113101", "Clean Pixel Data Option"),
    "graphics": ("113103", "Clean Graphics Option"),
    "structured": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "keep": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "shift": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
"""Codes of PS3.16 CID 7050, by the words of our options."""


@cache
def rows() -> tuple[dict[str, str], ...]:
    """The table's rows: tag (hexadecimal), name, letter of the basic profile and of each option."""
    with TABLE.open(newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def actions(options: Options) -> dict[int, str]:
    """Tag -> X remove, Z empty, D dummy, U map, K keep, C clean. Overlays and curves go by their group."""
    found = {}
    for row in rows():
        if "x" not in row["tag"]:
            found[int(row["tag"], 16)] = _action(row, options)
    return found


def _action(row: dict[str, str], options: Options) -> str:
    """Options come in this order: what is kept, then dates, then what is cleaned, then the basic profile."""
    by_column = {column: row[column] for column in _COLUMNS.values()}
    asked = [by_column[_COLUMNS[word]] for word in sorted(options.retain)]
    if options.dates == "keep":
        asked.append(row["keep_dates"])
    asked += [row["shift_dates"]] if options.dates == "shift" else []
    asked += [by_column[_COLUMNS[word]] for word in sorted(options.clean)]
    chosen = [letter for letter in asked if letter]
    if "K" in chosen:
        return "K"
    return chosen[0] if chosen else row["basic"].rpartition("/")[2]


def codes(options: Options, *, pixels: bool) -> list[tuple[str, str]]:
    """Code and meaning of the profile and of every option that holds for an object."""
    words = ["basic", *sorted(options.clean), *sorted(options.retain)]
    words += [options.dates] if options.dates != "remove" else []
    words += ["pixels"] * pixels
    return [CODES[word] for word in words]

"""Labels of several readers in a table: a column for each of them, or a row for each case and reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medspectrum.case import Case, ClassTarget, LeftOut, majority
from medspectrum.datasets import _columns, _files
from medspectrum.errors import UserError

if TYPE_CHECKING:
    import polars

Given = tuple[tuple[str, str], ...]
"""Who called a case what: pairs of reader and label."""


@dataclass(frozen=True)
class Readings:
    """What readers said, by the line of the table that stands for the case.

    columns: those that hold it. joined: how many rows were joined to others of the same image.
    """

    given: Mapping[int, Given]
    columns: Sequence[str]
    left_out: Sequence[LeftOut] = ()
    reader: str | None = None
    joined: int = 0

    def notes(self, cases: Sequence[Case]) -> list[str]:
        """What had to be assumed: which rows belong together, and what ties count as."""
        told = []
        if self.joined:
            told.append(
                f"rows of the same image were joined: column {self.reader!r} says who of several readers "
                "labelled it"
            )
        targets = [(case, own) for case in cases if (own := case.asked(ClassTarget)) and own.readers]
        ties = [case.id for case, own in targets if majority(word for _, word in own.readers)[1]]
        if ties:
            told.append(
                f"readers tie on {len(ties)} of {len(targets)} cases (such as {ties[0]}): of the classes "
                "that tie, the first in order counts"
            )
        return told


def columns_of(label: str | None, columns: Sequence[str], source: object) -> list[str]:
    """The readers' columns where several are named, else none. Raises UserError where one is missing."""
    if label is None or label in columns or "," not in label:
        return []
    names = list(dict.fromkeys(name.strip() for name in label.split(",") if name.strip()))
    for name in names:
        _columns.chosen("label", name, columns, source)
    return names


def readings(
    rows: polars.DataFrame,
    several: Sequence[str],
    reader: str | None,
    roles: Mapping[str, str | None],
    images: Callable[[Mapping[str, str | None]], tuple[str | None, ...]],
    source: object,
) -> Readings | None:
    """Who said what of which case; None where the table has one label a case.

    several: the readers' columns, where there is one for each. reader: the column with the reader, where
    there is a row for each. It is guessed where images stand in several rows. images: the paths that a row
    names. Raises UserError where both are given, a reader gives one image two labels, or an image has two
    patients.
    """
    if several:
        if reader:
            raise UserError(
                f"{source}: give --label a column for each reader, or --reader the column that names them, "
                "not both"
            )
        given = {}
        for line, row in enumerate(rows.iter_rows(named=True), start=2):
            told = ((name, _files.label_of(row[name])) for name in several)
            given[line] = tuple((name, word) for name, word in told if word is not None)
        return Readings(given, several)
    column = _columns.chosen("reader", reader, rows.columns, source)
    if column is None or roles["label"] is None or column in roles.values():
        return None
    found = _by_rows(rows, column, roles["label"], roles["patient"], images, source, sure=reader is not None)
    return found if reader is not None or (found is not None and found.joined) else None


def _by_rows(
    rows: polars.DataFrame,
    column: str,
    label: str,
    patient: str | None,
    images: Callable[[Mapping[str, str | None]], tuple[str | None, ...]],
    source: object,
    *,
    sure: bool,
) -> Readings | None:
    """Rows of the same images are one case, which the first of them stands for; None where none repeat."""
    first: dict[tuple[str | None, ...], int] = {}
    people: dict[int, str | None] = {}
    said: dict[int, dict[str, str]] = {}
    left_out: list[LeftOut] = []
    joined = 0
    keys = [images(row) for row in rows.iter_rows(named=True)]
    if not sure and len(set(keys)) == len(keys):
        return None
    for line, (row, key) in enumerate(zip(rows.iter_rows(named=True), keys, strict=True), start=2):
        who, word = _files.label_of(row[column]), _files.label_of(row[label])
        if who is None and word is not None:
            left_out.append(LeftOut(f"line {line}", f"has a label but no reader in column {column!r}"))
            continue
        start = first.setdefault(key, line) if any(key) else line
        joined += start != line
        own = said.setdefault(start, {})
        if patient is not None and people.setdefault(start, row[patient]) != row[patient]:
            raise UserError(
                f"{source}: line {line} gives the image of line {start} another patient ({row[patient]} and "
                f"{people[start]}); correct column {patient!r}"
            )
        if who is not None and word is not None and own.setdefault(who, word) != word:
            raise UserError(
                f"{source}: line {line}: reader {who} gives an image two labels ({own[who]} and {word}); "
                "keep one"
            )
    given = {line: tuple(own.items()) for line, own in said.items()}
    return Readings(given, (column,), left_out, column, joined)

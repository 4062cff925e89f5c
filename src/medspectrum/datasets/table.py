"""A CSV or Parquet table: one row per case, with columns for image path(s), label, patient, centre, split."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, ClassTarget, LazyImage, LeftOut, MaskTarget, majority
from medspectrum.datasets import _columns, _fake, _files, _mask_words, _readers, _series
from medspectrum.errors import UserError

if TYPE_CHECKING:
    import polars

SUFFIXES = (".csv", ".tsv", ".parquet")
USUAL = ("metadata", "cases", "labels", "index", "table", "data", "train", "images")
TRIED = 40
"""Rows that are looked at to find out which column holds paths, and below which folder."""


def recognise(path: Path) -> float:
    """Sure of a table; of a folder where one of its tables names pictures that are there."""
    if path.is_file():
        return 0.95 if path.suffix.lower() in SUFFIXES else 0.0
    return 0.75 if _table_of(path) else 0.0


def _tables(folder: Path) -> list[Path]:
    found = [f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES]
    rank = {name: place for place, name in enumerate(USUAL)}
    return sorted(found, key=lambda f: (rank.get(f.stem.lower(), len(USUAL)), f.name))


def _table_of(folder: Path) -> Path | None:
    """The first table of a folder whose image column names files that are there."""
    for table in _tables(folder)[:10]:
        try:
            head = read_table(table, rows=TRIED)
        except UserError:
            continue
        if head.height and image_places(head, table.parent, None):
            return table
    return None


def fake(folder: Path, seed: int) -> Path:
    """Six made-up patients of two centres with two pictures each; two rows have no label."""
    lines = ["image,diagnosis,patient_id,hospital,age"]
    for number, (patient, label, array) in enumerate(_fake.pictures(seed)):
        name = f"scans/{number:03d}.png"
        _fake.write_png(folder / name, array)
        word = "todo" if number in (3, 8) else label
        lines.append(f"{name},{word},{patient},{'north' if int(patient[1:]) < 3 else 'south'},{40 + number}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


@registry.dataset("table", recognise=recognise, fake=fake)
def table(
    path: Path,
    *,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    id: str | None = None,
    mask: str | None = None,
    reader: str | None = None,
    root: str | None = None,
) -> CaseSet:
    """A CSV, TSV or Parquet table whose rows are cases.

    image: column of paths, several joined by commas (each is a role), or a pattern over columns such as
    ``{site}/{id:0>3}_image.png``. mask: column of paths, or such a pattern. label, patient, centre, split,
    id: columns; guessed by their usual names where not given, ``""`` takes none. root: folder that the paths
    start from. Several readers: label names a column for each of them, joined by commas; or rows that name
    the same image become one case where a column says whose label it is (reader). Columns mask_labels
    (``1=liver;2=tumour``) and mask_unseen (``spleen=;tumour=liver``: what the mask does not show by itself)
    say what values stand for. All other columns are kept as the case's record.
    """
    notes: list[str] = []
    source = _table_of(path) if path.is_dir() else path
    if source is None and path.is_dir():
        source = next(iter(_tables(path)), None)
    if source is None:
        raise UserError(f"{path}: holds no .csv, .tsv or .parquet table")
    if path.is_dir() and len(_tables(path)) > 1:
        notes.append(
            f"of {len(_tables(path))} tables, {source.name} was taken; give another one as DATA itself"
        )
    rows = read_table(source)
    if rows.height == 0:
        raise UserError(f"{source}: has a header but no rows")
    base = Path(root) if root else source.parent
    if not base.is_absolute():
        base = source.parent / base
    columns = rows.columns
    masked = None if mask and "{" in mask else _columns.chosen("mask", mask, columns, source)
    places = image_places(rows, base, image, source, apart={masked} if masked else ())
    if not places:
        raise UserError(
            f"{source}: no column holds paths of images below {base} (columns: {', '.join(columns)}); "
            "name it with --image, or give a pattern such as --image 'images/{id}.png', or --root FOLDER"
        )
    several = _readers.columns_of(label, columns, source)
    role_columns = {
        "label": None if several else _columns.chosen("label", label, columns, source),
        "patient": _columns.chosen("patient", patient, columns, source),
        "centre": _columns.chosen("centre", centre, columns, source),
        "split": _columns.chosen("split", split, columns, source),
        "mask": masked,
        "id": _columns.chosen("id", id, columns, source),
    }
    readings = _readers.readings(
        rows, several, reader, role_columns, lambda row: tuple(place.path(row) for place in places), source
    )
    named = {"label": label, "patient": patient, "centre": centre, "split": split, "mask": mask, "id": id}
    notes += [
        f"{role} was read from column {column!r}"
        for role, column in role_columns.items()
        if column and not named[role]
    ]
    if role_columns["split"] and split is None and not _says_split(rows, role_columns["split"]):
        notes = [words for words in notes if not words.startswith("split ")]
        notes.append(
            f"column {role_columns['split']!r} holds other words than train, val, test; it was kept as it is"
        )
        role_columns["split"] = None
    if role_columns["label"] is None and label is None:
        notes.append(_no_label(rows, {p.column for p in places}))
    masks = _mask_place(rows, base, mask, role_columns["mask"], source)
    cases, left_out = _cases(rows, places, masks, role_columns, source, readings)
    if readings is not None:
        left_out += readings.left_out
        notes += readings.notes(cases)
    if role_columns["patient"] is None:
        notes.append(
            "patients are not known: each row counts as a patient of its own; name a column with --patient"
        )
    return CaseSet(source.stem, "table", tuple(cases), tuple(left_out), tuple(notes))


def _mask_place(
    rows: polars.DataFrame, base: Path, mask: str | None, column: str | None, source: Path
) -> Place | None:
    """Where the label map of a row is: by a pattern, by a column, or nowhere."""
    pattern = mask if mask and "{" in mask else None
    if pattern:
        _columns.template_fields(pattern, rows.columns, source)
    named = pattern or column
    if not named:
        return None
    head = rows.head(TRIED)
    first = [dict(zip(head.columns, row, strict=True)) for row in head.rows()]
    return _best_place("mask", named, pattern is not None, base, first)[0]


def _no_label(rows: polars.DataFrame, taken: set[str]) -> str:
    """A sentence that names the columns which could be labels: few different values, each several times."""
    few = [
        f"{column} ({count} values)"
        for column in rows.columns
        if column not in taken and 2 <= (count := rows[column].n_unique()) <= min(30, rows.height // 2)
    ]
    hint = f"; it may be {', '.join(few[:8])}" if few else ""
    return f"no column is called label or the like, so no case has a label; name one with --label{hint}"


def _says_split(rows: polars.DataFrame, column: str) -> bool:
    """Whether all values of a column are words for train, val and test."""
    texts = (_files.label_of(value) for value in rows[column].unique().to_list())
    return all(text is None or text.lower() in _files.SPLIT_OF for text in texts)


def read_table(path: Path, rows: int | None = None) -> polars.DataFrame:
    """The table, all columns as text. Raises UserError where it cannot be read."""
    import polars

    if not path.exists():
        raise UserError(f"{path}: does not exist")
    try:
        if path.suffix.lower() == ".parquet":
            found = polars.read_parquet(path, n_rows=rows)
            kept = [
                name for name, kind in found.schema.items() if not kind.is_nested() and kind != polars.Binary
            ]
            return found.select(polars.col(kept).cast(polars.String, strict=False))
        content = path.read_bytes()
        if not content.strip():
            raise UserError(f"{path}: is empty; a table has a header line and one row per case")
        if b"\0" in content[:4096]:
            raise UserError(f"{path}: is not text (a spreadsheet?); save it as CSV in UTF-8, or as Parquet")
        text = _text(content)
        header = text.split("\n", 1)[0]
        separator = max("\t;,", key=header.count) if any(s in header for s in "\t;,") else ","
        found = polars.read_csv(
            io.StringIO(text),
            separator=separator,
            infer_schema=False,
            n_rows=rows,
            truncate_ragged_lines=False,
        )
        return found.rename({name: name.strip() for name in found.columns})
    except PermissionError:
        raise UserError(f"{path}: may not be opened (permission denied); ask for read access") from None
    except (polars.exceptions.PolarsError, OSError, ValueError) as error:
        words = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{path}: cannot be read as a table ({words}); check its lines and separators"
        ) from error


def _text(content: bytes) -> str:
    """UTF-8 with or without mark, else the Windows code page of Western Europe."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


@dataclass(frozen=True, slots=True)
class Place:
    """How a row gives the path of one image: a column or pattern, below a folder, with a suffix to add."""

    role: str
    column: str
    pattern: bool
    base: str
    suffix: str

    def path(self, row: Mapping[str, str | None]) -> str | None:
        """The path, or None where the row is blank there."""
        if self.pattern:
            value: str | None = self.column.format(**{k: v or "" for k, v in row.items()})
        else:
            value = row[self.column]
        if value is None or _files.label_of(value) is None:
            return None
        value = value.strip().replace("\\", "/") if os.sep == "/" else value.strip()
        return os.path.normpath(os.path.join(self.base, value + self.suffix))  # noqa: PTH118


def image_places(
    rows: polars.DataFrame,
    base: Path,
    image: str | None,
    source: object = "table",
    *,
    apart: Collection[str] = (),
) -> list[Place]:
    """Where the images of a row are. Raises UserError where a named column is missing.

    apart: columns that hold something else, such as the masks: they would show the answer.
    """
    head = rows.head(TRIED)
    first = [dict(zip(head.columns, row, strict=True)) for row in head.rows()]
    if image is not None:
        wanted = [image] if "{" in image else [name.strip() for name in image.split(",") if name.strip()]
        found = []
        for name in wanted:
            pattern = "{" in name
            if pattern:
                _columns.template_fields(name, rows.columns, source)
            else:
                _columns.chosen("image", name, rows.columns, source)
            role = "image" if len(wanted) == 1 else name
            place, _ = _best_place(role, name, pattern, base, first)
            found.append(place)
        return found
    scored = []
    masks = {_columns.plain(word) for word in _columns.NAMES["mask"]}
    for column in rows.columns:
        if _columns.plain(column) in masks or column in apart:
            continue
        place, hits = _best_place("image", column, False, base, first)
        if hits:
            scored.append((place, hits))
    # a bare number that happens to be a file's stem says less than a name with a suffix
    with_suffix = [(place, hits) for place, hits in scored if not place.suffix]
    scored = with_suffix or scored[:1]
    if len(scored) == 1:
        return [scored[0][0]]
    return [Place(p.column, p.column, False, p.base, p.suffix) for p, _ in _distinct(scored, first)]


def _distinct(
    scored: Sequence[tuple[Place, int]], first: Sequence[Mapping[str, str | None]]
) -> list[tuple[Place, int]]:
    """Columns that name different files; the second of two that name the same is dropped."""
    kept: list[tuple[Place, int]] = []
    seen: list[list[str | None]] = []
    for place, hits in scored:
        paths = [place.path(row) for row in first]
        if paths not in seen:
            seen.append(paths)
            kept.append((place, hits))
    return kept


def _best_place(
    role: str, column: str, pattern: bool, base: Path, first: Sequence[Mapping[str, str | None]]
) -> tuple[Place, int]:
    """The folder and suffix under which most of the first rows name a file that is there."""
    folders = ["", *(f.name for f in _files.subfolders(base) if f.name.lower() in _files.IMAGE_FOLDERS)]
    values = [row.get(column) for row in first] if not pattern else ["x"]
    dotted = any("." in (value or "") for value in values)
    bare = _columns.plain(column) in (*_columns.IMAGE_NAMES, *_columns.NAMES["id"], *_columns.NAMES["mask"])
    suffixes = ["", *(s for s in formats.KIND_OF if bare and not pattern and not dotted)]
    best, most = Place(role, column, pattern, str(base), ""), 0
    for folder in folders:
        for suffix in suffixes:
            place = Place(role, column, pattern, str(base / folder) if folder else str(base), suffix)
            paths = [p for p in (place.path(row) for row in first) if p and p != str(base)]
            if not any(_usable(p) for p in paths[:5]):
                continue
            hits = sum(_usable(p) for p in paths)
            if hits > most:
                best, most = place, hits
    return best, most


def _usable(path: str) -> bool:
    """Whether a path is a picture, or a folder that holds a DICOM series."""
    if os.path.isfile(path):  # noqa: PTH113
        return formats.named_like_image(path) or (not _files.has_suffix(path) and _files.holds_image(path))
    return os.path.isdir(path) and _series.is_series_folder(path)  # noqa: PTH112


def _cases(
    rows: polars.DataFrame,
    places: Sequence[Place],
    masks: Place | None,
    roles: Mapping[str, str | None],
    source: Path,
    readings: _readers.Readings | None,
) -> tuple[list[Case], list[LeftOut]]:
    columns = rows.columns
    used = {p.column for p in places if not p.pattern} | {c for r, c in roles.items() if c and r != "id"}
    used |= {_mask_words.LABELS, _mask_words.UNSEEN} if masks is not None else set()
    used |= set(readings.columns) if readings is not None else set()
    extra = [c for c in columns if c not in used]
    targets: dict[tuple[str | None, _readers.Given], ClassTarget] = {}
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    by_id: Counter[str | None] = Counter()
    for number, values in enumerate(rows.iter_rows(), start=2):  # line 1 is the header
        if readings is not None and number not in readings.given:
            continue
        row = dict(zip(columns, values, strict=True))
        if roles["id"]:
            by_id[row[roles["id"]]] += 1
        images, why = _images(places, row, number)
        if why is not None:
            left_out.append(why)
            continue
        # a row with a moving and a fixed image is a pair to register: either may stand in other rows too
        named = [images[role] for role in ("moving", "fixed")] if {"moving", "fixed"} <= set(images) else None
        files = named or [next(iter(images.values()))]
        name = row[roles["id"]] if roles["id"] else None
        whole = " onto ".join(_files.relative(image.source, source.parent) for image in files)
        name = name.strip() if name and _files.label_of(name) else whole
        text = _files.label_of(row[roles["label"]]) if roles["label"] else None
        given_by = readings.given[number] if readings is not None else ()
        text = majority(word for _, word in given_by)[0] if given_by else text
        answers: list[ClassTarget | MaskTarget]
        answers = [] if text is None else [targets.setdefault((text, given_by), ClassTarget(text, given_by))]
        if masks is not None and (masked := masks.path(row)) is not None:
            if os.path.lexists(masked):
                where = f"{source}, line {number}"
                labels = _mask_words.read_labels(row.get(_mask_words.LABELS), where)
                unseen = _mask_words.read_unseen(row.get(_mask_words.UNSEEN), where)
                answers.append(MaskTarget(formats.lazy(masked), labels, unseen))
            else:
                left_out.append(LeftOut(masked, f"mask named in line {number} of the table is not there"))
        patient = _files.label_of(row[roles["patient"]]) if roles["patient"] else None
        centre = _files.label_of(row[roles["centre"]]) if roles["centre"] else None
        given = row[roles["split"]] if roles["split"] else None
        cases.append(
            Case(
                sys.intern(name),
                sys.intern(patient) if patient else name,
                images,
                answers[0] if answers else None,
                sys.intern(centre) if centre else None,
                {sys.intern(c): sys.intern(v) for c in extra if (v := row[c]) is not None and v != ""},
                _files.split_of(given, f"{source}, line {number}") if given is not None else None,
                tuple(answers[1:]),
            )
        )
    _no_duplicates(cases, by_id, roles["id"], source)
    return cases, left_out


def _images(
    places: Sequence[Place], row: Mapping[str, str | None], line: int
) -> tuple[dict[str, LazyImage], LeftOut | None]:
    """The images of a row by role; a row without any, or with a missing file, is left out."""
    images = {}
    for place in places:
        path = place.path(row)
        if path is None:
            continue
        if os.path.isdir(path):  # noqa: PTH112
            images[place.role] = _series.lazy_folder(path)
        elif os.path.lexists(path):
            images[place.role] = formats.lazy(path)
        else:
            return {}, LeftOut(path, f"file named in line {line} of the table is not there")
    if not images:
        return {}, LeftOut(f"line {line}", "names no image")
    return images, None


def _no_duplicates(
    cases: Sequence[Case], by_id: Counter[str | None], column: str | None, source: Path
) -> None:
    """Raise UserError where an id or an image stands in two rows."""
    twice = [name for name, count in by_id.items() if count > 1 and name]
    if twice and column:
        raise UserError(
            f"{source}: column {column!r} has {len(twice)} ids more than once (such as {twice[0]!r}); "
            "give each row its own, or name another column with --id (--id '' takes the image's path)"
        )
    seen = Counter(case.id for case in cases)
    again = [name for name, count in seen.items() if count > 1]
    if again:
        raise UserError(
            f"{source}: {len(again)} images stand in more than one row (such as {again[0]!r}); "
            "a case is one row, so join those rows first"
        )

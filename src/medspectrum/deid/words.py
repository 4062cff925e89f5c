"""Text, tables and JSON: names, numbers and places in columns and keys named so, and whatever free text
holds.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from medspectrum.deid.dicom import shifted
from medspectrum.deid.facts import rows_of, sort_of
from medspectrum.deid.known import Known, clean_text
from medspectrum.deid.options import Options
from medspectrum.deid.secret import Secret
from medspectrum.errors import UnreadableFile

_BIRTH = re.compile(r"(?i).*(?:birth|dob\b|born|geburt).*")
_DATE_NAME = re.compile(r"(?i).*(?:date|datum|datetime|timestamp).*|dob")
_PATIENT = re.compile(r"(?i)(?:patient|pat|subject|case)?[ _-]?(?:id|nr|no|number)$|mrn$|pid$|patient$")
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(.*)")
_MOST_BYTES = 256 * 2**20


def decoded(path: Path, shown: str) -> str:
    """The text of a file. Raises UnreadableFile where it is none, or larger than 256 MB."""
    if path.stat().st_size > _MOST_BYTES:
        raise UnreadableFile(shown, "is text of more than 256 MB; split it first")
    whole = path.read_bytes()
    for coding in ("utf-8-sig", "cp1252"):
        try:
            text = whole.decode("utf-16" if whole[:2] in (b"\xff\xfe", b"\xfe\xff") else coding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise UnreadableFile(shown, "is no text in UTF-8, UTF-16 or Windows-1252; save it in one of them")


def text(path: Path, shown: str, known: Known, options: Options) -> tuple[bytes, Counter[str]]:
    """Free text, searched."""
    new, count = clean_text(decoded(path, shown), known, keep_dates=options.dates == "keep")
    return new.encode(), +Counter({"cleaned": count})


def replaced(value: str, sort: str, known: Known, secret: Secret) -> str:
    """What stands for a value of a column or key that is named so: the pseudonym of a patient."""
    if not value.strip():
        return value
    found = known.find(value)
    if found and found[0][3].startswith("P"):
        return found[0][3]
    return secret.patient(value) if sort == "id" else f"[{sort.upper()}]"


def table(
    path: Path, shown: str, secret: Secret, known: Known, options: Options
) -> tuple[bytes, Counter[str]]:
    """A table: columns by their names, other cells as text; dates of a row move with its patient."""
    read = rows_of(decoded(path, shown))
    if read is None:
        return text(path, shown, known, options)
    rows, mark = read
    titles = rows[0]
    sorts = [sort_of(title) for title in titles]
    whose = next(
        (n for n, title in enumerate(titles) if sorts[n] == "id" and _PATIENT.match(title.strip())), None
    )
    done: Counter[str] = Counter()
    written = [[_plain(title, known, done) for title in titles]]
    for row in rows[1:]:
        patient = row[whose] if whose is not None and whose < len(row) else ""
        cells = []
        for at, cell in enumerate(row):
            title, sort = titles[at], sorts[at]
            cells.append(_cell(cell, title, sort, patient, secret, known, options, done))
        written.append(cells)
    new = io.StringIO()
    csv.writer(new, delimiter=mark, lineterminator="\n").writerows(written)
    return new.getvalue().encode(), +done


def _plain(value: str, known: Known, done: Counter[str]) -> str:
    new, count = clean_text(value, known)
    done["cleaned"] += count
    return new


def _cell(
    value: str,
    title: str,
    sort: str,
    patient: str,
    secret: Secret,
    known: Known,
    options: Options,
    done: Counter[str],
) -> str:
    """One value under a title: replaced, moved, or searched."""
    if sort:
        done["replaced"] += bool(value.strip())
        return replaced(value, sort, known, secret)
    if _BIRTH.fullmatch(title.strip()):
        done["dates"] += bool(value.strip())
        return ""
    if value in known.places:
        done["replaced"] += known.places[value] != value
        return known.places[value]
    dated = bool(_DATE_NAME.fullmatch(title.strip()))
    if dated and options.dates == "shift" and patient and (day := _moved(value, secret.days(patient))):
        done["dates"] += 1
        return day
    if dated and options.dates != "keep":
        done["dates"] += bool(value.strip())
        return ""
    new, count = clean_text(value, known, keep_dates=options.dates == "keep")
    done["cleaned"] += count
    return new


def _moved(value: str, days: int) -> str:
    """An ISO date moved back; nothing where it is none."""
    match = _DAY.fullmatch(value.strip())
    if match is None:
        return ""
    new = shifted("".join(match.groups()[:3]), timedelta(days=days))
    if new is None or not re.fullmatch(r"[T \d:.+Z-]*", match.group(4)):
        return ""
    return (f"{new[:4]}-{new[4:6]}-{new[6:]}" if "-" in value[:8] else new) + match.group(4)


def notes(
    path: Path, shown: str, secret: Secret, known: Known, options: Options
) -> tuple[bytes, Counter[str]]:
    """JSON, such as the side-cars of BIDS: keys by their names, other strings as text."""
    done: Counter[str] = Counter()
    try:
        content = json.loads(decoded(path, shown))
        new = _inside(content, "", secret, known, options, done)
        return json.dumps(new, indent=1, ensure_ascii=False).encode(), +done
    except (ValueError, RecursionError):
        raise UnreadableFile(shown, "is no JSON; send it again, or as .txt") from None


def _inside(value: Any, key: str, secret: Secret, known: Known, options: Options, done: Counter[str]) -> Any:
    if isinstance(value, dict):
        return {
            _plain(str(name), known, done): _inside(inner, str(name), secret, known, options, done)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_inside(inner, key, secret, known, options, done) for inner in value]
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return None if sort_of(key) or _BIRTH.fullmatch(key) else value
    new = _cell(str(value), key, sort_of(key), "", secret, known, options, done)
    return value if new == str(value) else new

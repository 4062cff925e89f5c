"""DICOM objects by the basic profile of PS3.15 Annex E and the options asked for.

Beyond the table: what is private, of an unknown tag, or of another value representation than its tag has,
goes; every person's name, date and UID that the table does not name is treated as its kind; text that stays
is searched for identifiers known from the headers of all files and for what has an identifier's form; numbers
written as text have to be numbers; overlays and curves go as whole groups; the preamble and the file meta
information are made new.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from medspectrum.deid.dicom_file import patient_of, quiet, renew_meta, syntax_of
from medspectrum.deid.known import Known, clean_text
from medspectrum.deid.options import Options
from medspectrum.deid.profile import EDITION, actions, codes
from medspectrum.deid.secret import Secret

_TEXT = frozenset(("LO", "SH", "ST", "LT", "UT", "UC", "CS"))
_NUMBERS = {"DS": re.compile(rb"[\d+\-.eE \\\0]*"), "IS": re.compile(rb"[\d+\- \\\0]*")}
_FORMS = {"CS": re.compile(rb"[A-Z0-9_ \\\0]*"), "AS": re.compile(rb"(?:\d{3}[DWMY] ?\\?)*\0?")}
_STANDARD_UID = "1.2.840.10008."
_CLASS_UIDS = frozenset(
    (
        0x00080016,
        0x0008001A,
        0x0008001B,
        0x00081150,
        0x0008115A,
        0x0008010C,
        0x00080117,
        0x00080118,
        0x00041510,
    )
)
"""UIDs that name a class of objects or a coding scheme, not an object."""
_BINARY = frozenset(
    (
        *(0x7FE00010, 0x7FE00008, 0x7FE00009, 0x54001010, 0x54001012, 0x54000110, 0x54000112, 0x5400100A),
        *range(0x00281201, 0x00281205),
        *range(0x00281221, 0x00281224),
        *(0x00283006, 0x00660016, 0x00660021, 0x00660023, 0x00660025, 0x00660040, 0x00660041, 0x00660042),
    )
)
"""Binary attributes that are pixels, waveforms, look-up tables and surfaces; others of unknown content go."""
_STRUCTURED = frozenset((0x0040A730, 0x00700001))
_RECURSED = _STRUCTURED | {0x0040A073, 0x00081111, 0x00081140, 0x00082112}
_FREE = frozenset((0x0040A160, 0x00700006))
"""Text of reports and annotations, which the basic profile replaces and the clean options search through."""
_EXACT = frozenset((0x00080100, 0x00080119, 0x00080102, 0x00080103, 0x00080106, 0x00081090, 0x00181020))
"""Codes, versions and models, which look like numbers of persons: only what is known is looked for in them.
"""
_PERSON_CODE = 0x00401101
_DUMMY = {
    "PN": "REMOVED",
    "DA": "19000101",
    "TM": "000000",
    "DT": "19000101000000",
    "AS": "000Y",
    "DS": "0",
    "IS": "0",
    "AE": "REMOVED",
    "CS": "REMOVED",
    "UR": "http://removed.invalid",
}
_OLDEST = 90
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj
trailer<</Size 4/Root 1 0 R>>
%%EOF
"""
"""An empty page, in place of an encapsulated document."""


@dataclass
class Walk:
    """One object on its way: what is asked, whose it is, and what was done so far."""

    secret: Secret
    known: Known
    options: Options
    patient: str
    done: Counter[str]

    def __post_init__(self) -> None:
        self.actions = actions(self.options)
        self.shift = timedelta(days=self.secret.days(self.patient)) if self.options.dates == "shift" else None


def deidentified(data: Any, secret: Secret, known: Known, options: Options) -> Counter[str]:
    """De-identify an object in place, its pixels left alone; how often each thing was done.

    Raises UnreadableFile where a part of it cannot be read.
    """
    walk = Walk(secret, known, options, patient_of(data), Counter())
    syntax = syntax_of(data)
    with quiet():
        _items(data, walk)
        _patient(data, walk)
        renew_meta(data, syntax)
    return walk.done


def mark(data: Any, options: Options, *, pixels: bool) -> None:
    """Say in the object what was done to it (PS3.15 E.2, attributes of group 0012 and 0028)."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    items = []
    for value, meaning in codes(options, pixels=pixels):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = f"medspectrum deidentify, {EDITION}"
    data.DeidentificationMethodCodeSequence = Sequence(items)
    said = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}
    data.LongitudinalTemporalInformationModified = said[options.dates]
    if pixels:
        data.BurnedInAnnotation = "NO"


def _items(data: Any, walk: Walk) -> None:
    """Every element of one level; sequences that stay are gone through item by item."""
    for tag in list(data.keys()):
        number = int(tag)
        group = number >> 16
        if group & 1:
            walk.done["private"] += 1
            del data[tag]
        elif group in (0x0000, 0x0002) or not number & 0xFFFF or 0x5000 <= group <= 0x50FF:
            walk.done["removed"] += 1
            del data[tag]
        elif 0x6000 <= group <= 0x60FF:
            walk.done["overlays"] += (number & 0xFFFF) == 0x3000
            del data[tag]
        else:
            _element(data, tag, number, walk)


def _element(data: Any, tag: Any, number: int, walk: Walk) -> None:
    from pydicom.datadict import dictionary_VR

    action = walk.actions.get(number)
    try:
        named = dictionary_VR(number)
    except KeyError:
        walk.done["unknown"] += 1
        del data[tag]
        return
    raw = data.get_item(tag)
    found = raw.VR or named
    alike = found in named or found == "UN" or (found in _TEXT and named in _TEXT)
    if (action is None or action in "KCU") and not alike:
        walk.done["wrong kind"] += 1
        del data[tag]
        return
    if named == "SQ":
        _sequence(data, tag, number, action, walk)
    elif action == "X":
        walk.done["removed"] += 1
        del data[tag]
    elif action == "Z":
        if named in ("DA", "TM", "DT") or raw.value:
            walk.done["emptied"] += bool(raw.value)
        _put(data, tag, named, None)
    elif action == "D":
        if raw.value:  # an empty one tells nothing, and stays as conformant as it was
            _put(data, tag, named, _dummy(data, number, named))
            walk.done["replaced"] += 1
    else:
        _kept(data, tag, number, named, raw, action, walk)


def _put(data: Any, tag: Any, kind: str, value: Any) -> None:
    from pydicom.dataelem import DataElement

    kind = kind.partition(" or ")[0]
    data[tag] = DataElement(tag, kind, value)


def _dummy(data: Any, number: int, kind: str) -> Any:
    kind = kind.partition(" or ")[0]
    if number == 0x00420011:
        media = str(data.get("MIMETypeOfEncapsulatedDocument", "")).casefold()
        content = PDF if "pdf" in media else b"<removed/>" if "xml" in media else b"removed "
        content += b" " * (len(content) % 2)
        if "EncapsulatedDocumentLength" in data:
            data.EncapsulatedDocumentLength = len(content)
        return content
    if kind in ("OB", "OW", "UN"):
        return b"\0\0"
    if kind in ("US", "SS", "UL", "SL", "FL", "FD"):
        return 0
    return _DUMMY.get(kind, "REMOVED")


def _sequence(data: Any, tag: Any, number: int, action: str | None, walk: Walk) -> None:
    """A sequence whose content is needed is gone through; others go, or are emptied, as the table says."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    if action in ("X", "Z") or (action == "D" and number not in _RECURSED and number != _PERSON_CODE):
        if action == "Z":
            _put(data, tag, "SQ", Sequence([]))
            walk.done["emptied"] += 1
        else:
            walk.done["removed"] += 1
            del data[tag]
        return
    if number == _PERSON_CODE:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "REMOVED", "99REMOVED", "removed"
        _put(data, tag, "SQ", Sequence([item]))
        walk.done["replaced"] += 1
        return
    items = data[tag].value
    if not hasattr(items, "__iter__") or isinstance(items, bytes | str):
        walk.done["wrong kind"] += 1
        del data[tag]
        return
    for item in items:
        _items(item, walk)


def _kept(data: Any, tag: Any, number: int, kind: str, raw: Any, action: str | None, walk: Walk) -> None:
    """What stays is looked at by its kind."""
    retained = action == "K"
    if kind == "PN":
        _put(data, tag, kind, None)
        walk.done["emptied"] += 1
    elif kind in ("DA", "TM", "DT"):
        _time(data, tag, kind, retained, walk)
    elif kind == "UI":
        _uids(data, tag, number, retained, walk)
    elif kind in _NUMBERS:
        _as_written(data, tag, raw, _NUMBERS[kind], walk)
    elif kind == "AS":
        _age(data, tag, retained, raw, walk)
    elif kind in _TEXT:
        form = _FORMS.get(kind)
        plain = isinstance(raw.value, bytes) and form is not None and form.fullmatch(raw.value) is not None
        _searched(data, tag, number, plain or number in _EXACT, retained, walk)
    elif kind in ("AE", "UR") and action != "K":
        walk.done["removed"] += 1
        del data[tag]
    elif ("OB" in kind or "OW" in kind or kind == "UN" or raw.VR == "UN") and number not in _BINARY:
        walk.done["unknown"] += 1
        del data[tag]


def _as_written(data: Any, tag: Any, raw: Any, form: re.Pattern[bytes], walk: Walk) -> None:
    """A number written as text has to be one."""
    if isinstance(raw.value, bytes) and form.fullmatch(raw.value) is None:
        walk.done["wrong kind"] += 1
        del data[tag]


def _age(data: Any, tag: Any, retained: bool, raw: Any, walk: Walk) -> None:
    """Ages above 89 years become 90 (45 CFR 164.514(b)(2)(i)(C))."""
    if not retained or (isinstance(raw.value, bytes) and _FORMS["AS"].fullmatch(raw.value) is None):
        walk.done["removed"] += 1
        del data[tag]
        return
    value = str(data[tag].value or "")
    if value.endswith("Y") and int(value[:3]) >= _OLDEST:
        data[tag].value = f"{_OLDEST:03}Y"
        walk.done["replaced"] += 1


def _searched(data: Any, tag: Any, number: int, plain: bool, retained: bool, walk: Walk) -> None:
    """Text is searched; that of reports and annotations is replaced unless it is to be cleaned.

    plain: only known values are looked for. retained: and of these only the patient's own.
    """
    element = data[tag]
    values = element.value
    if not values:
        return
    several = not isinstance(values, str | bytes) and hasattr(values, "__iter__")
    texts = [
        v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in (values if several else [values])
    ]
    if number in _FREE and not walk.options.clean & {"structured", "graphics"}:
        element.value = "REMOVED"
        walk.done["replaced"] += 1
        return
    cleaned, count = [], 0
    for text in texts:
        if plain or retained:
            found = [f for f in walk.known.find(text) if not retained or f[3].startswith("P")]
            new, own = ("REMOVED", len(found)) if found else (text, 0)
        else:
            new, own = clean_text(text, walk.known, keep_dates=walk.options.dates == "keep")
        cleaned.append(_fitting(new, element.VR) if own else new)
        count += own
    if count:
        element.value = cleaned if several else cleaned[0]
        walk.done["cleaned"] += count


def _fitting(text: str, kind: str) -> str:
    """Cut to what the value representation may hold (PS3.5 Table 6.2-1)."""
    most = {"SH": 16, "CS": 16, "LO": 64, "ST": 1024, "LT": 10240}.get(kind)
    return text if most is None else text[:most]


def _uids(data: Any, tag: Any, number: int, retained: bool, walk: Walk) -> None:
    if retained or number in _CLASS_UIDS:
        return
    element = data[tag]
    values = element.value
    if not values:
        return
    several = not isinstance(values, str)
    given = [str(v) for v in values] if several else [str(values)]
    if "uids" in walk.options.retain:
        return
    mapped = [v if v.startswith(_STANDARD_UID) else walk.secret.uid(v) for v in given]
    if mapped != given:
        element.value = mapped if several else mapped[0]
        walk.done["uids"] += sum(a != b for a, b in zip(given, mapped, strict=True))


def _time(data: Any, tag: Any, kind: str, retained: bool, walk: Walk) -> None:
    """Dates go, move back together, or stay; one that is no date goes."""
    if retained or walk.options.dates == "keep":
        values = _strings(data, tag)
        if any(re.fullmatch(r"[\d.+\-: ]*", v) is None for v in values):
            walk.done["wrong kind"] += 1
            del data[tag]
        return
    if walk.shift is None:
        walk.done["dates"] += 1
        del data[tag]
        return
    values = _strings(data, tag)
    if kind == "TM":
        moved = values if all(re.fullmatch(r"[\d.: ]*", v) for v in values) else None
    else:
        moved = [shifted(v, walk.shift) for v in values]
        moved = None if any(v is None for v in moved) else moved
    if moved is None:
        walk.done["dates"] += 1
        del data[tag]
        return
    _put(data, tag, kind, [str(v) for v in moved] if len(moved) > 1 else (moved or [""])[0])
    walk.done["dates"] += kind != "TM"


def _strings(data: Any, tag: Any) -> list[str]:
    """The values of an element as they are written."""
    raw = data.get_item(tag).value
    if raw is None or raw == "":
        return []
    if isinstance(raw, bytes):
        return [v.strip("\0 ") for v in raw.decode("latin-1").split("\\")]
    several = not isinstance(raw, str) and hasattr(raw, "__iter__")
    return [str(v).strip("\0 ") for v in (raw if several else [raw])]


def shifted(value: str, back: timedelta) -> str | None:
    """A DA or DT value moved back by whole days, its time as it was; None where it is no date."""
    if not value:
        return value
    match = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)((?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?)", value)
    if match is None:
        return None
    year, month, day, rest = match.groups()
    try:
        moved = datetime(int(year), int(month), int(day)) - back
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04}{moved.month:02}{moved.day:02}{rest}"


def _patient(data: Any, walk: Walk) -> None:
    """The pseudonym as name and ID, so that a patient's files still belong together."""
    pseudonym = walk.secret.patient(walk.patient) if walk.patient else ""
    if "PatientID" in data or "PatientName" in data or walk.patient:
        _put(data, 0x00100010, "PN", pseudonym)
        _put(data, 0x00100020, "LO", pseudonym)

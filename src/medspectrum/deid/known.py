"""Identifiers that are known from headers and columns, found again in text, file names and folder names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medspectrum.deid.patterns import spans
from medspectrum.deid.secret import Secret, folded

_RUN = re.compile(r"[^\W\d_]+|\d+")
_MOST_RUNS = 8
_LEAST = {"name": 3, "id": 4, "place": 5}
_COMMON = """
anonymous anonym anon anonymized anonymised unknown none null patient test phantom removed subject case
study series image scan head neck chest thorax abdomen pelvis brain heart liver lung spine knee breast
body male female dr med prof mrs mr ms the and for with left right image data dicom nifti json volume mask
label hospital clinic university medical center centre radiology department compressedsamples institution
operator physician station user ward slicer console perfusion stroke tumour tumor trauma contrast study
examination doctor nurse admin
"""
COMMON = frozenset(_COMMON.split())
"""Single words that name nobody: they stay even where somebody wrote them as a patient's name."""


@dataclass(frozen=True)
class Known:
    """What to look for: folded value -> (kind, what replaces it in names of files); old path -> new path."""

    values: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def digest(self, secret: Secret) -> str:
        """Changes where what is known changes; tells nothing without the key."""
        return secret.digest("known", "\0".join(sorted(self.values))).hex()[:16]

    def find(self, text: str) -> list[tuple[int, int, str, str]]:
        """(start, end, kind, replacement) of what is known in a text; none overlap."""
        if not self.values:
            return []
        runs = [(m.start(), m.end(), folded(m.group())) for m in _RUN.finditer(text)]
        found, at = [], 0
        while at < len(runs):
            for count in range(min(_MOST_RUNS, len(runs) - at), 0, -1):
                joined = "".join(run[2] for run in runs[at : at + count])
                if joined in self.values:
                    kind, code = self.values[joined]
                    found.append((runs[at][0], runs[at + count - 1][1], kind, code))
                    at += count - 1
                    break
            at += 1
        return found


def known_of(facts: Iterable[tuple[str, str, str]], secret: Secret) -> Known:
    """From (kind, value, patient): kind is name, id or place; patient is '' for what is nobody's.

    A name counts in each of its words and in every order of two; a place only as a whole. Very short values
    would be found everywhere and are left to their own header fields.
    """
    values: dict[str, tuple[str, str]] = {}

    def take(kind: str, value: str, patient: str) -> None:
        form = folded(value)
        if len(form) < _LEAST[kind] or form in COMMON or len(_RUN.findall(value)) > _MOST_RUNS:
            return
        if kind == "id" and form.isdigit() and (not form.strip("0") or len(form) < (4 if patient else 5)):
            return  # a running number of files would be taken for it
        if kind == "id" and not any(c.isdigit() for c in form) and len(form) < 6:
            return
        code = secret.patient(patient) if patient else "N" + secret.code(kind, value)
        if form not in values or (patient and not values[form][1].startswith("P")):
            values[form] = (kind, code)

    for kind, value, patient in sorted(set(facts)):
        take(kind, value, patient)
        if kind != "name":
            continue
        words = [w for w in re.split(r"[\^=\s,;_\\.]+", value) if w]
        for word in words:
            take(kind, word, patient)
        for first in words:
            for second in words:
                if first != second:
                    take(kind, first + " " + second, patient)
    return Known(values)


def clean_text(text: str, known: Known, *, keep_dates: bool = False) -> tuple[str, int]:
    """The text with what is known, and what has the form of an identifier, as [NAME], [DATE]...; how many."""
    found = [(start, end, kind) for start, end, kind, _ in known.find(text)]
    found += [span for span in spans(text) if not (keep_dates and span[2] == "date")]
    if not found:
        return text, 0
    pieces, at, count = [], 0, 0
    for start, end, kind in sorted(found, key=lambda s: (s[0], -s[1])):
        if start < at:
            if end > at:
                at = end
            continue
        pieces += [text[at:start], f"[{kind.upper()}]"]
        at, count = end, count + 1
    return "".join(pieces) + text[at:], count


def clean_name(name: str, known: Known, secret: Secret) -> str:
    """One part of a path without its suffix: what is known or has an identifier's form becomes a code."""
    found = [(start, end, code) for start, end, _, code in known.find(name)]
    for start, end, kind in spans(name, in_names=True):
        whole = name[start:end]
        found.append((start, end, secret.uid(whole) if kind == "uid" else secret.code(kind, whole)))
    pieces, at = [], 0
    for start, end, code in sorted(found, key=lambda s: (s[0], -s[1])):
        if start < at:
            at = max(at, end)
            continue
        pieces += [name[at:start], code]
        at = end
    return "".join(pieces) + name[at:]

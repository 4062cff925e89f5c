"""Forms that identifiers take in free text: dates, telephone numbers, addresses, numbers of records, titled names.

Rules over the eighteen kinds of HIPAA's Safe Harbor (45 CFR 164.514(b)(2)) as far as they have a form. What has
none, such as a bare surname that stands in no header, is not found by them.
"""

# ruff: noqa: E501 - a rule is read best in one line

from __future__ import annotations

import re

_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|m(?:ar(?:ch)?|ärz)|apr(?:il)?|ma[yi]|june?|juni|july?|juli|"
    r"aug(?:ust)?|sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)"
)
_YEAR = r"(?:1[89]|20)\d\d"
_MM, _DD = r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_DATES = (
    rf"(?<!\d){_YEAR}(?P<s1>[-/._ ]){_MM}(?P=s1){_DD}(?!\d)(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?",
    rf"(?<![\d.]){_DD}(?P<s2>[-/._]){_MM}(?P=s2)(?:{_YEAR}|\d\d)(?!\d|\.\d)",
    rf"(?<![\d.]){_MM}(?P<s3>[-/]){_DD}(?P=s3)(?:{_YEAR}|\d\d)(?!\d|\.\d)",
    rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])?(?:[0-5]\d){{0,2}}(?!\d)",
    rf"(?<!\d){_DD}(?:st|nd|rd|th|\.)?[ _-]*{_MONTH}\b\.?,?[ _-]*(?:{_YEAR}|\d\d)?(?!\d)",
    rf"\b{_MONTH}\b\.?[ _-]+{_DD}(?:st|nd|rd|th)?(?!\d)(?:,?[ _-]+{_YEAR})?(?!\d)",
)
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'’-]+"
_TITLED = (
    r"\b(?:[Dd]r|DR|[Pp]rof(?:essor)?|Mr|Mrs|Ms|Miss|Herrn?|Frau|Doctor|[Pp]at(?:ient(?:in)?)?)\b\.?"
    r"(?:[ ](?i:med|dent|dr|prof|rer|nat|habil|priv|doz)\.)*[ ]+"
    rf"(?P<titled>{_WORD}(?:[ ](?:van|von|de|der|den|la|le|al|el|bin|di|da)\b)*(?:[ ]{_WORD}|[ ][A-Z]\.){{0,3}})"
)
_FIELD_NAME = (
    r"(?i:\b(?:patient(?:'s)?[ _]?name|name|surname|first[ _]?name|last[ _]?name|maiden[ _]?name|vorname|nachname|"
    r"(?:referring|requesting|reading|attending|performing)?[ _]?physician|radiologist|technologist|operator|"
    r"signed(?:[ ]+by)?|dictated[ ]+by|reported[ ]+by|reviewed[ ]+by|mother|father|spouse))\s*[:=]\s*"
    rf"(?P<named>[^\W\d_][\w'’.-]*(?:[ ,^]+{_WORD}|[ ,^]+[A-Z]\.?){{0,4}})"
)
_FIELD_ID = (
    r"(?i:\b(?:mrn|pid|patient[ _]?(?:id|no|nr|number)|med(?:ical)?\.?[ _]?rec(?:ord)?\.?[ _]?(?:no|number|#)?|"
    r"accession(?:[ _]?(?:no|number|#))?|acc|case[ _]?(?:no|number|#)|ssn|nhs(?:[ _]?(?:no|number))?|insurance(?:[ _]?"
    r"(?:no|number|id))?|account(?:[ _]?(?:no|number))?|licen[cs]e(?:[ _]?(?:no|number))?|passport(?:[ _]?(?:no|"
    r"number))?|serial(?:[ _]?(?:no|number))?|fallnummer|versichertennummer|id))\b\.?\s*(?:[:=#]|\bno\b\.?)?\s*"
    r"(?P<ident>(?=[\w/.-]*\d)[A-Za-z0-9][\w/-]{2,}(?:\.\w+)*)"
)
_RULES: tuple[tuple[str, str, str], ...] = (
    ("uid", r"(?<![\d.])(?!1\.2\.840\.10008\.)[0-2](?:\.(?:0|[1-9]\d*)){5,}(?![\d])", ""),
    ("email", r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+", ""),
    ("url", r"\b(?:https?|ftp|file)://[^\s\"'<>)]+|\bwww\.[\w-]+\.[^\s\"'<>)]+", ""),
    (
        "address",
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)",
        "",
    ),
    ("address", r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b", ""),
    *(("date", f"(?i:{rule})", "") for rule in _DATES),
    ("id", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", ""),
    (
        "phone",
        r"(?<![\w.])(?:\+|00)\d{1,3}[ ./-]?(?:\(0\)[ ]?)?(?:\(?\d{1,5}\)?[ ./-]?){2,5}\d{2,}(?!\w)",
        "",
    ),
    ("phone", r"(?<![\w.])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)", ""),
    (
        "phone",
        r"(?i:\b(?:tel|phone|fax|mobile|cell|pager|telefon|handy|call)\b)\.?\s*(?:no\.?|number)?\s*[:=]?\s*(?P<tel>\+?[\d(][\d ()/.-]{4,}\d)",
        "tel",
    ),
    ("id", _FIELD_ID, "ident"),
    ("name", _FIELD_NAME, "named"),
    ("name", _TITLED, "titled"),
    ("name", r"\b[^\W\d_]{2,}\^[^\W\d_]+(?:\^[^\s^,;]*)*", ""),
    (
        "address",
        r"\b\d{1,5}[A-Za-z]?[ ]+(?:[A-Z][\w'’.-]*[ ]+){1,4}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|"
        r"Boulevard|Blvd|Court|Ct|Place|Pl|Square|Sq|Way|Terrace)\b\.?(?:,?[ ]+[A-Z][\w'’-]+){0,2}"
        r"(?:,?[ ]+[A-Z]{2})?(?:[ ]+\d{5}(?:-\d{4})?)?",
        "",
    ),
    (
        "address",
        r"\b[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|weg|gasse|platz|allee)[ ]+\d{1,4}[a-z]?\b(?:,?[ ]+\d{5}[ ]+[A-ZÄÖÜ][\w-]+)?",
        "",
    ),
    ("age", r"(?i)\b(?:9\d|1[0-2]\d)(?=[ -]*(?:years?|yrs?|y/?o\b|jahre?|-jähr))", ""),
    ("id", r"(?<![\d.,])\d{7,}(?![\d.,]*\d)", ""),
    ("id", r"\b(?=[A-Z0-9-]*\d{4})[A-Z]{1,4}-?\d{5,}[A-Z]?\b", ""),
)
_TEXT = tuple((kind, re.compile(rule), group) for kind, rule, group in _RULES)
_NAME_SEPARATORS = str.maketrans("_", " ")
_IN_NAMES = tuple(
    (kind, re.compile(rule), group)
    for kind, rule, group in (
        ("uid", _RULES[0][1], ""),
        ("email", _RULES[1][1], ""),
        *(("date", rule, "") for rule in _DATES[:4]),
        ("id", r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", ""),
        ("id", r"(?<!\d)(?!00)\d{7,}(?!\d)", ""),
        ("id", r"(?i:(?<![a-z])(?:mrn|pid|patient[ ]?id|acc(?:ession)?))[ -]?(?P<ident>\d{3,})", "ident"),
        ("name", r"\b[^\W\d_]{2,}\^[^\W\d_]+(?:\^[^\s^,;]*)*", ""),
        ("name", r"\b[^\W\d_]{2,},[ ]?[^\W\d_]{2,}", ""),
    )
)


def spans(text: str, *, in_names: bool = False) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what has the form of an identifier; spans may overlap.

    in_names: rules for names of files and folders, where an underscore separates words, and running numbers
    with leading zeros and short ones are no identifiers.
    """
    if len(text) < 3:
        return []
    shown = text.translate(_NAME_SEPARATORS) if in_names else text
    found = []
    for kind, rule, group in _IN_NAMES if in_names else _TEXT:
        for match in rule.finditer(shown):
            start, end = match.span(group) if group else match.span()
            if end > start:
                found.append((start, end, kind))
    return found

"""TIFF files and whole slides (SVS): the pages that show tissue, without labels, overviews and words.

The file is copied with its layout: entries of a page that are not needed leave its directory, pages that show
a label or the whole glass leave the chain, and every byte that nothing refers to any more is written as zero.
Coded tiles are not touched, so a slide of gigabytes costs one copy.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medspectrum.errors import UnreadableFile

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_NEEDED = frozenset(
    (
        *(
            254,
            255,
            256,
            257,
            258,
            259,
            262,
            266,
            270,
            273,
            274,
            277,
            278,
            279,
            280,
            281,
            282,
            283,
            284,
            296,
            297,
        ),
        *(
            317,
            320,
            321,
            322,
            323,
            324,
            325,
            330,
            338,
            339,
            340,
            341,
            347,
            512,
            513,
            514,
            529,
            530,
            531,
            532,
            32997,
        ),
    )
)
"""Tags that say how pixels are stored, coloured and spaced; 270, the description, is written anew."""
_DESCRIPTION, _SUB_PAGES, _TILE = 270, 330, 322
_DATA = {273: 279, 324: 325, 513: 514}
"""Where coded pixels lie, and how long they are."""
_HAMAMATSU = 65420
_OTHER_SIDE = re.compile(rb"(?i)label|macro|overview|barcode|\bmap\b")
_APERIO_KEYS = re.compile(r"(?i)(?:AppMag|MPP|OriginalWidth|OriginalHeight)\s*=\s*[\d.]+$")
_PLAIN = re.compile(
    r"(?:ImageJ|images|channels|slices|frames|hyperstack|mode|unit|spacing|loop|min|max)=[\w.+\-\\µ]{0,24}$"
)
_SHAPE = re.compile(rb'\{"shape": \[[\d, ]+\]\}\0*$')
_AGAIN = "send it again from its source"
_STEP = 1 << 24


@dataclass
class _Layout:
    """Which bytes are kept, and which are written anew."""

    shown: str
    order: str
    big: bool
    kept: list[tuple[int, int]] = field(default_factory=list)
    patches: dict[int, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def word(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def wide(self) -> int:
        return 8 if self.big else 4


def cleaned(path: Path, shown: str) -> tuple[list[tuple[int, int]], dict[int, bytes], Counter[str], int]:
    """Ranges that are copied, bytes that are written over them, what was done, and the file's size.

    Raises UnreadableFile for a damaged file and for kinds whose labels cannot be told from tissue.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        whole = memoryview(held)
        try:
            order = "<" if bytes(whole[:2]) == b"II" else ">"
            big = struct.unpack_from(order + "H", whole, 2)[0] == 43
            layout = _Layout(shown, order, big, kept=[(0, 16 if big else 8)])
            _chain(whole, 8 if big else 4, layout)
            if not layout.done["pages"]:
                raise UnreadableFile(shown, "holds no page of tissue; nothing of it may leave")
        except (struct.error, ValueError, IndexError, OverflowError):
            raise UnreadableFile(shown, f"has a damaged directory; {_AGAIN}") from None
        finally:
            whole.release()
    layout.done.pop("pages", None)
    return _joined(layout.kept), layout.patches, +layout.done, path.stat().st_size


def write(
    source: Path, target: Path, kept: list[tuple[int, int]], patches: dict[int, bytes], size: int
) -> None:
    """Copy the ranges; what lies between them is zero."""
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(size)
        for start, end in kept:
            old.seek(start)
            new.seek(start)
            while start < end:
                piece = old.read(min(_STEP, end - start))
                new.write(piece)
                start += len(piece)
        for place, content in patches.items():
            new.seek(place)
            new.write(content)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _chain(whole: memoryview, link: int, layout: _Layout) -> None:
    """Every page of the chain that starts at the offset stored at ``link``; the links leave out what goes."""
    offset = struct.unpack_from(layout.word, whole, link)[0]
    seen: set[int] = set()
    first = True
    while offset:
        if offset in seen:
            raise ValueError("pages in a circle")
        seen.add(offset)
        entries, following = _page(whole, offset, layout)
        if _tissue(whole, entries, layout, first=first):
            layout.patches[link] = struct.pack(layout.word, offset)
            link = _keep(whole, offset, entries, layout)
            layout.done["pages"] += 1
        else:
            layout.done["pictures removed"] += 1
        first = False
        offset = following
    layout.patches[link] = struct.pack(layout.word, 0)


Entry = tuple[int, int, int, int, int]
"""Tag, type, count, where the value lies, and its bytes."""


def _page(whole: memoryview, offset: int, layout: _Layout) -> tuple[list[Entry], int]:
    head, size, counts = (8, 20, "QQ") if layout.big else (2, 12, "HI")
    number = struct.unpack_from(layout.order + counts[0], whole, offset)[0]
    if not 0 < number < 4096:
        raise ValueError("number of entries")
    entries = []
    for index in range(number):
        place = offset + head + index * size
        tag, kind = struct.unpack_from(layout.order + "HH", whole, place)
        count = struct.unpack_from(layout.order + ("Q" if layout.big else "I"), whole, place + 4)[0]
        length = _SIZES.get(kind, 1) * count
        value = place + (12 if layout.big else 8)
        if length > layout.wide:
            value = struct.unpack_from(layout.word, whole, value)[0]
        entries.append((tag, kind, count, value, length))
    end = offset + head + number * size
    return entries, struct.unpack_from(layout.word, whole, end)[0]


def _value(whole: memoryview, entry: Entry, layout: _Layout) -> list[int]:
    """The whole numbers of an entry."""
    letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry[1])
    if letter is None:
        raise ValueError("type of an offset")
    return list(struct.unpack_from(f"{layout.order}{entry[2]}{letter}", whole, entry[3]))


def _tissue(whole: memoryview, entries: list[Entry], layout: _Layout, *, first: bool) -> bool:
    """Whether a page may stay: no label, macro or overview by its words or by Aperio's kinds of pages."""
    by_tag = {entry[0]: entry for entry in entries}
    if _HAMAMATSU in by_tag:
        raise UnreadableFile(
            layout.shown,
            "is a Hamamatsu slide (NDPI), whose labels cannot be taken out; save as SVS or DICOM",
        )
    words = by_tag.get(_DESCRIPTION)
    text = bytes(whole[words[3] : words[3] + min(words[4], 4096)]) if words else b""
    kind = _value(whole, by_tag[254], layout)[0] if 254 in by_tag else 0
    aperio = text.startswith(b"Aperio")
    named = _OTHER_SIDE.search(text.partition(b"|")[0] if aperio else text[:200])
    if first:
        return True
    return not (named or (_TILE not in by_tag and kind in (1, 9) and (aperio or text == b"")))


def _keep(whole: memoryview, offset: int, entries: list[Entry], layout: _Layout) -> int:
    """Write a page's directory anew with the entries that are needed; keep what they refer to.

    Gives where the link to the following page then stands.
    """
    by_tag = {entry[0]: entry for entry in entries}
    head, size = (8, 20) if layout.big else (2, 12)
    kept = []
    for index, entry in enumerate(entries):
        place = offset + head + index * size
        tag, _, _, value, length = entry
        if value + length > len(whole):
            raise ValueError("value outside of the file")
        raw = bytes(whole[place : place + size])
        if tag == _DESCRIPTION:
            raw = _described_anew(raw, bytes(whole[value : value + length]), value, layout)
        elif tag not in _NEEDED:
            raw = b""
        elif length > layout.wide:
            layout.kept.append((value, value + length))
        if tag in _DATA and _DATA[tag] in by_tag:
            _keep_pixels(
                _value(whole, entry, layout), _value(whole, by_tag[_DATA[tag]], layout), len(whole), layout
            )
        if tag == _SUB_PAGES:
            for page in _value(whole, entry, layout):
                inner, _ = _page(whole, page, layout)
                layout.patches[_keep(whole, page, inner, layout)] = bytes(layout.wide)
        if raw:
            kept.append(raw)
        else:
            layout.done["removed"] += 1
    content = struct.pack(layout.order + ("Q" if layout.big else "H"), len(kept)) + b"".join(kept)
    layout.patches[offset] = content
    return offset + len(content)


def _keep_pixels(starts: list[int], lengths: list[int], size: int, layout: _Layout) -> None:
    for start, length in zip(starts, lengths, strict=True):
        if start + length > size:
            raise UnreadableFile(layout.shown, f"is cut off: pixels are missing at its end; {_AGAIN}")
        layout.kept.append((start, start + length))


def _described_anew(raw: bytes, old: bytes, value: int, layout: _Layout) -> bytes:
    """The entry of the description with what may stay of it, in the old one's place; nothing where that is
    nothing.
    """
    new = described(old)
    layout.done["cleaned"] += new != old
    if not new or len(new) > len(old):
        return b""
    tag, kind = struct.unpack_from(layout.order + "HH", raw)
    entry = struct.pack(layout.order + ("HHQ" if layout.big else "HHI"), tag, kind, len(new))
    if len(new) <= layout.wide:
        return entry + new.ljust(layout.wide, b"\0")
    layout.patches[value] = new
    return entry + struct.pack(layout.word, value)


def described(old: bytes) -> bytes:
    """Of a page's description Aperio's magnification and scale, ImageJ's axes, a shape."""
    text = old.rstrip(b"\0").decode("latin-1")
    if text.startswith("Aperio"):
        parts = [part.strip() for part in text.split("|")[1:]]
        kept = [part for part in parts if _APERIO_KEYS.match(part)]
        return ("|".join(["Aperio Image Library", *kept]) + "\0").encode("latin-1")
    if _SHAPE.match(old):
        return old
    lines = [line for line in text.splitlines() if _PLAIN.match(line)]
    return ("\n".join(lines) + "\n\0").encode("latin-1") if lines and lines[0].startswith("ImageJ=") else b""

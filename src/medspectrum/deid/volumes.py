"""NIfTI and NRRD: the voxels and their geometry, without words, extensions or what follows the voxels."""

from __future__ import annotations

import gzip
import io
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from medspectrum.deid.known import Known, clean_text
from medspectrum.errors import UnreadableFile

_AGAIN = "send it again from its source"
_WORDS = {
    348: {
        "data_type": (4, 10),
        "db_name": (14, 18),
        "descrip": (148, 80),
        "aux_file": (228, 24),
        "intent": (328, 16),
    },
    540: {"descrip": (240, 80), "aux_file": (320, 24), "intent": (508, 16), "unused": (525, 15)},
}
"""Fields of words in NIfTI-1 and NIfTI-2 headers: place and length in bytes."""
_NRRD_FIELDS = frozenset(
    (
        *("type", "dimension", "space", "space dimension", "sizes", "space directions", "kinds", "endian"),
        *(
            "encoding",
            "space origin",
            "spacings",
            "thicknesses",
            "axis mins",
            "axismins",
            "axis maxs",
            "axismaxs",
        ),
        *("centers", "centerings", "units", "space units", "measurement frame", "block size", "blocksize"),
    )
)
_SEGMENT = re.compile(r"Segment\d+_(?:Name|LabelValue|Layer|Color|Extent|ID|Tags)$")
_MOST_BYTES = 8 * 2**30
HEAD_BYTES = {struct.pack(order + "i", size): size + 4 for order in "<>" for size in _WORDS}
"""Where voxels begin in a NIfTI file that ``nifti`` wrote, by its first four bytes."""


def nifti(path: Path, shown: str) -> tuple[bytes, Counter[str]]:
    """A NIfTI file (.nii, .nii.gz) with empty words and no extensions. Raises UnreadableFile."""
    packed = path.read_bytes()
    whole = unpacked(packed, shown) if packed[:2] == b"\x1f\x8b" else packed
    done: Counter[str] = Counter()
    for order in "<>":
        length = struct.unpack(order + "i", whole[:4])[0] if len(whole) > 352 else 0
        if length in _WORDS:
            break
    else:
        raise UnreadableFile(shown, f"has no NIfTI header; {_AGAIN}")
    old = length == 348
    magic = whole[344:348] if old else whole[4:8]
    if magic not in (b"n+1\0", b"n+2\0"):
        raise UnreadableFile(
            shown, "is one half of a pair or an older form (Analyze); save it as .nii.gz first"
        )
    start = int(struct.unpack_from(order + ("f" if old else "q"), whole, 108 if old else 168)[0])
    count, wide = _voxels(whole, order, old)
    if not length + 4 <= start <= len(whole) or count < 1 or start + count * wide // 8 > len(whole):
        raise UnreadableFile(shown, f"is cut off: it has fewer voxels than its header says; {_AGAIN}")
    head = bytearray(whole[:length])
    for place, size in _WORDS[length].values():
        done["emptied"] += bool(head[place : place + size].strip(b"\0 "))
        head[place : place + size] = bytes(size)
    done["removed"] += any(whole[length : length + 4]) or start > length + 4 + 12
    new_start = length + 4
    struct.pack_into(order + ("f" if old else "q"), head, 108 if old else 168, new_start)
    content = bytes(head) + bytes(4) + whole[start : start + (count * wide + 7) // 8]
    return (packed_again(content) if packed[:2] == b"\x1f\x8b" else content), +done


def _voxels(whole: bytes, order: str, old: bool) -> tuple[int, int]:
    """Number of values and bits of each."""
    sides = struct.unpack_from(order + ("8h" if old else "8q"), whole, 40 if old else 16)
    wide = struct.unpack_from(order + "h", whole, 72 if old else 14)[0]
    count = 1
    for side in sides[1 : 1 + max(0, min(7, sides[0]))]:
        count *= max(int(side), 0)
    return (count if 0 < sides[0] < 8 else 0), int(wide)


def unpacked(packed: bytes, shown: str) -> bytes:
    """The content of a gzip file. Raises UnreadableFile where it is damaged or above the limit."""
    import isal.igzip as igzip

    try:
        with igzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            whole = file.read(_MOST_BYTES + 1)
    except Exception as error:  # noqa: BLE001 - several kinds from C code
        raise UnreadableFile(shown, f"is cut off or damaged ({type(error).__name__}); {_AGAIN}") from None
    if len(whole) > _MOST_BYTES:
        raise UnreadableFile(shown, "takes more than 8 GiB unpacked; split it first")
    return whole


def packed_again(content: bytes) -> bytes:
    """As gzip, without name and time in its header."""
    return gzip.compress(content, compresslevel=4, mtime=0)


def nrrd(path: Path, shown: str, known: Known) -> tuple[bytes, Counter[str]]:
    """An NRRD file with the fields that place its voxels; names of segments stay, searched. Raises
    UnreadableFile.
    """
    whole = path.read_bytes()
    cut = re.search(rb"\r?\n\r?\n", whole)
    if cut is None:
        raise UnreadableFile(shown, f"is cut off: its header does not end; {_AGAIN}")
    done: Counter[str] = Counter()
    lines = whole[: cut.start()].decode("utf-8", "replace").splitlines()
    kept, fields = [lines[0][:8]], {}
    for line in lines[1:]:
        name, mark, value = _field(line)
        if mark == ": " and name.lower() in _NRRD_FIELDS:
            fields[name.lower()] = value
            kept.append(f"{name}: {value}" if name.lower() != "encoding" else "encoding: gzip")
        elif mark == ":=" and _SEGMENT.fullmatch(name):
            new, count = clean_text(value, known)
            done["cleaned"] += count
            kept.append(f"{name}:={new}")
        elif mark == ": " and name.lower() in ("data file", "datafile", "line skip", "byte skip", "lineskip"):
            raise UnreadableFile(shown, "keeps its voxels in another file; save it as one .nrrd first")
        elif line.strip():
            done["removed"] += 1
    wanted = _nrrd_bytes(fields, shown)
    coded = fields.get("encoding", "").strip().lower()
    if coded not in ("raw", "gzip", "gz"):
        raise UnreadableFile(shown, "is stored in another encoding than raw or gzip; save it again as gzip")
    data = whole[cut.end() :] if coded == "raw" else unpacked(whole[cut.end() :], shown)
    if len(data) < wanted:
        raise UnreadableFile(shown, f"is cut off: it has fewer voxels than its header says; {_AGAIN}")
    head = "\n".join(kept) + "\n\n"
    return head.encode() + packed_again(data[:wanted]), +done


def _field(line: str) -> tuple[str, str, str]:
    """A header line's name, what follows the name, and value; no name for a comment."""
    if line.startswith("#"):
        return "", "", ""
    for mark in (":=", ": "):
        name, found, value = line.partition(mark)
        if found and (mark == ":=" or ":=" not in line):
            return name, mark, value
    return "", "", ""


def _nrrd_bytes(fields: dict[str, Any], shown: str) -> int:
    """How many bytes the voxels take."""
    words = fields.get("type", "").strip().lower()
    eight = {"signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t", "char"}
    wide = 1 if words in eight else 2 if "short" in words or "16" in words else 0
    wide = wide or (
        8 if "64" in words or "long long" in words or "longlong" in words or words == "double" else 0
    )
    wide = wide or (
        4 if words in ("float", "int", "signed int", "uint", "unsigned int") or "32" in words else 0
    )
    try:
        sides = [int(side) for side in fields.get("sizes", "").split()]
    except ValueError:
        sides = []
    count = wide if sides else 0
    for side in sides:
        count *= max(side, 0)
    if not count:
        raise UnreadableFile(shown, f"does not tell the type and sizes of its voxels; {_AGAIN}")
    return count

"""PNG and JPEG files without words, profiles, positions and thumbnails; the coded pixels stay as they are."""

from __future__ import annotations

import struct
import zlib
from collections import Counter

from medspectrum.errors import UnreadableFile

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset(
    (
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"bKGD"),
        *(b"acTL", b"fcTL", b"fdAT"),
    )
)
_AGAIN = "send it again from its source"
_SOS, _EOI, _COM, _APP0, _APP14 = 0xDA, 0xD9, 0xFE, 0xE0, 0xEE
_JFIF = b"\xff\xe0\x00\x10JFIF\x00"


def png(whole: bytes, shown: str) -> tuple[bytes, Counter[str]]:
    """A PNG with the chunks that draw it (PNG 3rd edition, 4.7). Raises UnreadableFile."""
    done: Counter[str] = Counter()
    kept, at, last = [_PNG], len(_PNG), b""
    while at + 12 <= len(whole) and last != b"IEND":
        length = struct.unpack_from(">I", whole, at)[0]
        last = whole[at + 4 : at + 8]
        chunk = whole[at : at + 12 + length]
        if len(chunk) < 12 + length:
            break
        if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise UnreadableFile(shown, f"is damaged: a checksum does not fit; {_AGAIN}")
        if last in _PNG_CHUNKS:
            kept.append(chunk)
        else:
            done["removed"] += 1
        at += 12 + length
    if last != b"IEND":
        raise UnreadableFile(shown, f"is cut off: its end is missing; {_AGAIN}")
    done["removed"] += at < len(whole)
    return b"".join(kept), +done


def jpeg(whole: bytes, shown: str) -> tuple[bytes, Counter[str]]:
    """A JPEG without comments and application data but what its colours need, and its orientation.

    Raises UnreadableFile for one that is cut off.
    """
    content, removed = segments(whole, shown)
    turned = _orientation(whole)
    if turned:
        content = content[:2] + turned + content[2:]
    return content, +Counter({"removed": removed})


def segments(whole: bytes, shown: str) -> tuple[bytes, int]:
    """A JPEG or JPEG-LS stream without comments and application data (ITU-T T.81 B.1.1.3); how many went."""
    kept, removed, at = [b"\xff\xd8"], 0, 2
    while at + 4 <= len(whole):
        if whole[at] != 0xFF:
            raise UnreadableFile(shown, f"is damaged: no marker where one has to be; {_AGAIN}")
        kind = whole[at + 1]
        if kind == 0xFF:
            at += 1
            continue
        length = struct.unpack_from(">H", whole, at + 2)[0]
        end = at + 2 + length
        if end > len(whole):
            break
        if kind == _APP0 and whole[at + 4 : at + 9] == b"JFIF\0":
            kept.append(_JFIF + whole[at + 9 : at + 16] + b"\0\0")
            removed += length > 16
        elif kind == _APP14 and whole[at + 4 : at + 9] == b"Adobe":
            kept.append(whole[at : at + 16] if length >= 14 else b"")
        elif kind == _COM or 0xE0 <= kind <= 0xEF:
            removed += 1
        else:
            kept.append(whole[at:end])
        at = end
        if kind == _SOS:
            at = _after_scan(whole, at)
            kept.append(whole[end:at])
        if whole[at : at + 2] == b"\xff\xd9":
            return b"".join(kept) + b"\xff\xd9", removed + (at + 2 < len(whole.rstrip(b"\0")))
    raise UnreadableFile(shown, f"is cut off: its end is missing; {_AGAIN}")


def _after_scan(whole: bytes, at: int) -> int:
    """Where the next marker stands that is neither stuffing nor a restart."""
    while True:
        at = whole.find(b"\xff", at)
        if at < 0 or at + 1 >= len(whole):
            return len(whole)
        following = whole[at + 1]
        if following and not 0xD0 <= following <= 0xD7 and following != 0xFF and following >= 0x80:
            return at
        at += 1 if following == 0xFF else 2


def _orientation(whole: bytes) -> bytes:
    """An Exif segment with the orientation alone; empty where it is upright."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(whole)) as image:
            turned = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - damaged Exif tells no orientation
        return b""
    if turned not in range(2, 9):
        return b""
    exif = Image.Exif()
    exif[0x0112] = turned
    content = exif.tobytes()
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content

"""What replaces an identifier: the same for the same original and key, and not to be turned back without the
key.

All replacements come from HMAC-SHA-256 (RFC 2104) under one secret key per project. Whoever holds the key can
compute the replacement of a given original, and so link new files to earlier ones; whoever does not, cannot
even try out guesses. The key therefore never lies beside what was de-identified.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from medspectrum.errors import UserError

_LEAST_DAYS, _MOST_DAYS = 365, 3650
_BYTES = 32


def folded(text: str) -> str:
    """Letters and digits alone, without case and accents: one form for all ways to write a name."""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if c.isalnum()).casefold()


@dataclass(frozen=True)
class Secret:
    """Replacements under one key."""

    key: bytes

    def digest(self, kind: str, value: str) -> bytes:
        """32 bytes of HMAC-SHA-256; ``kind`` keeps a number that serves as two things apart."""
        return hmac.new(
            self.key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256
        ).digest()

    def code(self, kind: str, value: str) -> str:
        """Ten letters and digits for a value, however it was written."""
        return base64.b32encode(self.digest(kind, folded(value)))[:10].decode()

    def patient(self, value: str) -> str:
        """The pseudonym of a patient."""
        return "P" + self.code("patient", value)

    def uid(self, uid: str) -> str:
        """A UID of the form 2.25.N, N of 128 bits (PS3.5 B.2)."""
        raw = bytearray(self.digest("uid", uid.strip("\0 "))[:16])
        raw[6] = raw[6] & 0x0F | 0x40  # the form of a random UUID, which 2.25 asks for
        raw[8] = raw[8] & 0x3F | 0x80
        return f"2.25.{int.from_bytes(bytes(raw), 'big')}"

    def days(self, patient: str) -> int:
        """By how many days a patient's dates go back: one to ten years, the same for all of them."""
        number = int.from_bytes(self.digest("days", folded(patient))[:8], "big")
        return _LEAST_DAYS + number % (_MOST_DAYS - _LEAST_DAYS + 1)


def secret_of(path: Path) -> Secret:
    """The key in that file; a new one, readable by its owner alone, where there is none yet."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return _new(path)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: the key cannot be read; name another file with --key") from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _BYTES:
        raise UserError(
            f"{path}: holds no key of {_BYTES} bytes in hexadecimal; name another file with --key"
        )
    return Secret(key)


def _new(path: Path) -> Secret:
    key = secrets.token_bytes(_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(
            f"{path}: the key cannot be written ({error.strerror}); name a file with --key"
        ) from None
    with os.fdopen(place, "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return Secret(key)

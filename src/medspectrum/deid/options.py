"""What is asked of a run: the basic profile, and which of the standard's options on top."""

from __future__ import annotations

from dataclasses import dataclass

from medspectrum.errors import UserError

RETAIN = ("uids", "device", "institution", "patient")
CLEAN = ("descriptors", "structured", "graphics")
DATES = ("remove", "shift", "keep")
PIXELS = ("text", "regions", "keep")
NAMES = ("clean", "replace")
FACES = ("keep", "remove")


@dataclass(frozen=True)
class Options:
    """Names are those of PS3.15 Table E.1-1's columns, shortened."""

    retain: frozenset[str] = frozenset()
    clean: frozenset[str] = frozenset()
    dates: str = "remove"
    pixels: str = "text"
    faces: str = "keep"
    names: str = "clean"

    def words(self) -> list[str]:
        """Everything that an identical result depends on."""
        return [
            *sorted(self.retain),
            *sorted(self.clean),
            self.dates,
            self.pixels,
            self.faces,
            self.names,
        ]


def options_of(*, retain: str, clean: str, dates: str, pixels: str, faces: str, names: str) -> Options:
    """Read settings as they are given. Raises UserError for a word that is none of the choices."""
    one = {
        "dates": (dates, DATES),
        "pixels": (pixels, PIXELS),
        "faces": (faces, FACES),
        "names": (names, NAMES),
    }
    for setting, (given, choices) in one.items():
        if given not in choices:
            raise UserError(f"--{setting} {given!r} is none of {', '.join(choices)}")
    several = {}
    for setting, given, choices in (("retain", retain, RETAIN), ("clean", clean, CLEAN)):
        words = frozenset(word.strip() for word in given.split(",") if word.strip())
        if wrong := sorted(words - set(choices)):
            raise UserError(f"--{setting} {', '.join(wrong)} is none of {', '.join(choices)}")
        several[setting] = words
    return Options(several["retain"], several["clean"], dates, pixels, faces, names)

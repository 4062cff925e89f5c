"""Data set layouts: one file each. ``load`` recognises the layout of a path and gives its cases."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from pathlib import Path
from typing import Any

from medspectrum import registry
from medspectrum.case import CaseSet
from medspectrum.errors import UnreadableFile, UserError


def load(path: str | os.PathLike[str], *, layout: str | None = None, **settings: Any) -> CaseSet:
    """The cases of a file or folder.

    layout: one of ``registry.entries("dataset")``; recognised where it is not named. settings: those of the
    layout (columns of a table...); None counts as not given.
    Raises UserError: what was found there, what is understood, or which setting the layout does not have.
    """
    path = Path(path).absolute()
    if not path.exists():
        words = "is a link to something that is not there" if path.is_symlink() else "does not exist"
        raise UserError(f"{path}: {words}; give a folder, a table (.csv, .parquet), an .npz or an image file")
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: may not be opened (permission denied); ask for read access")
    entry = registry.find("dataset", layout) if layout else recognised(path)
    known = [name for name in inspect.signature(entry.thing).parameters if name != "path"]
    given = {name: value for name, value in settings.items() if value is not None}
    given = {name: value for name, value in given.items() if name != "cache" or "cache" in known}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(
            f"layout {entry.name} has no setting {', '.join(unknown)}; it has "
            f"{', '.join(known) or 'none'} (choose another layout with --layout)"
        )
    case_set: CaseSet = entry.thing(path, **given)
    return checked(case_set, path)


def recognised(path: Path) -> registry.Entry:
    """The layout that knows the path best. Raises UserError with what was found there."""
    entries = registry.entries("dataset")
    scores = {name: float(entry.facts["recognise"](path)) for name, entry in entries.items()}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None or scores[best] <= 0:
        raise UserError(
            f"{path}: {found_there(path)}. Understood are: {', '.join(sorted(entries))} "
            "(`medspectrum datasets NAME` shows how each looks)"
        )
    return entries[best]


def found_there(path: Path) -> str:
    """A few words on what a path holds."""
    from medspectrum import formats
    from medspectrum.datasets import _files

    if path.is_file():
        size = path.stat().st_size
        try:
            formats.kind(path)
        except UnreadableFile as error:
            return error.reason
        return f"is a {path.suffix or 'nameless'} file of {size:,} bytes that no layout understands"
    suffixes: Counter[str] = Counter()
    for count, name in enumerate(_files.walk(path)):
        suffixes[os.path.splitext(name)[1].lower() or "no suffix"] += 1  # noqa: PTH122
        if count > 10_000:
            break
    if not suffixes:
        return "is an empty folder"
    return "holds no data set that is understood, only files of " + ", ".join(
        f"{suffix} ({count})" for suffix, count in suffixes.most_common(5)
    )


def checked(case_set: CaseSet, path: Path) -> CaseSet:
    """The set itself, if it has cases and no id twice. Raises UserError."""
    if not case_set.cases:
        first = case_set.left_out[0] if case_set.left_out else None
        why = (
            f"; the first of {len(case_set.left_out)} left out: {first.source}: {first.reason}"
            if first
            else ""
        )
        raise UserError(f"{path}: has no case that can be used (read as {case_set.layout}){why}")
    twice = [name for name, count in Counter(case.id for case in case_set.cases).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} case ids stand there more than once (such as {twice[0]!r}); "
            "each case needs its own"
        )
    return case_set

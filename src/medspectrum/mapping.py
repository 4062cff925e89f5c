"""How names of several data sets become one table: synonyms, parts of larger things, what is missing."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medspectrum.datasets._mask_words import FORBIDDEN
from medspectrum.errors import UserError

TOP = ("modality", "labels", "classes", "synonyms", "parents", "same_patients", "source")
OF_SOURCE = ("values", "outlined", "synonyms", "read")
BACKGROUND = ("background", "bg")


@dataclass(frozen=True)
class Source:
    """What is said of one data set. values: names of mask values where its files tell none. outlined: names
    of what its masks show, where that is less than its table of names says. synonyms: its own words. read:
    settings of its layout, such as columns.
    """

    values: Mapping[int, str] = field(default_factory=dict)
    outlined: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    read: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NameMap:
    """What the mapping file says.

    modality: what all sources are, where their files use different words for it. labels, classes: names that
    are kept, in order; empty for all. synonyms: a source's word -> ours. parents: a part -> the larger thing
    it belongs to. same_patients: whether equal names of patients in two sources mean the same person.
    """

    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    same_patients: bool = False
    modality: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict)

    def of(self, source: str) -> Source:
        """What is said of that source; nothing where it is not named."""
        return self.sources.get(source, Source())

    def ours(self, word: str, source: str) -> str:
        """Our word for a source's."""
        own = self.of(source).synonyms
        return own.get(word, self.synonyms.get(word, word))

    def ancestors(self, name: str) -> list[str]:
        """The thing itself, then what it is part of, outwards."""
        line = [name]
        while line[-1] in self.parents:
            line.append(self.parents[line[-1]])
        return line


def read_mapping(path: Path, sources: Sequence[str]) -> NameMap:
    """The mapping file. Raises UserError for unknown words, loops, and sources that are not given."""
    try:
        given = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; write the mapping as TOML (see the page of merge)"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as TOML ({error})") from None
    _only(given, TOP, f"{path}")
    own = _table(given, "source", path)
    for name, about in own.items():
        if name not in sources:
            raise UserError(f"{path}: speaks of the source {name!r}{_near(name, sources)}")
        if not isinstance(about, dict):
            raise UserError(f"{path}: [source.{name}] is a table of {', '.join(OF_SOURCE)}")
        _only(about, OF_SOURCE, f"{path}: [source.{name}]")
    found = NameMap(
        labels=_words(given, "labels", path),
        classes=_words(given, "classes", path),
        synonyms=_names(given, "synonyms", path),
        parents=_names(given, "parents", path),
        same_patients=bool(given.get("same_patients", False)),
        modality=str(given.get("modality", "")),
        sources={
            name: Source(
                values=_values(about, f"{path}: [source.{name}]"),
                outlined=_words(about, "outlined", path),
                synonyms=_names(about, "synonyms", path),
                read=_names(about, "read", path),
            )
            for name, about in own.items()
        },
    )
    for name in found.parents:
        seen = [name]
        while seen[-1] in found.parents:
            seen.append(found.parents[seen[-1]])
            if seen[-1] in seen[:-1]:
                raise UserError(f"{path}: {' is part of '.join(seen)}; take one of these out of [parents]")
    wrong = [n for n in (*found.labels, *found.parents) if any(sign in n for sign in FORBIDDEN)]
    if wrong:
        raise UserError(f"{path}: the name {wrong[0]!r} holds one of {' '.join(FORBIDDEN)}; leave it out")
    return found


@dataclass(frozen=True)
class Shown:
    """What the masks of one source become. table: its value -> ours. unseen: our names that its masks do not
    show by themselves, each with the one that they are marked as, or ''. dropped: its names not kept.
    """

    table: Mapping[int, int]
    unseen: Mapping[str, str]
    dropped: tuple[str, ...]


def shown_by(mapping: NameMap, source: str, names: Mapping[int, str], labels: Sequence[str]) -> Shown:
    """How a source's mask values become ours. names: of its values. labels: ours, in order of their values.

    A name becomes itself or the nearest larger thing that is kept and that the source outlines as a whole;
    where there is none its voxels become background, in which that thing then lies unknown. A label of ours
    that the source does not outline is marked as the nearest larger thing that it does, else as nothing.
    """
    place = {name: i + 1 for i, name in enumerate(labels)}
    own = {v: mapping.ours(n, source) for v, n in names.items() if v != 0 and n.lower() not in BACKGROUND}
    outlined = mapping.of(source).outlined
    told = {mapping.ours(n, source) for n in outlined} if outlined else set(own.values())
    table, dropped = {0: 0}, []
    for value, name in own.items():
        kept = next((n for n in mapping.ancestors(name) if n in place and n in told), None)
        table[value] = place[kept] if kept is not None else 0
        if kept is None:
            dropped.append(name)
    unseen = {
        name: next((n for n in mapping.ancestors(name)[1:] if n in told and n in place), "")
        for name in labels
        if name not in told
    }
    return Shown(table, unseen, tuple(dict.fromkeys(dropped)))


def class_of(mapping: NameMap, source: str, word: str, classes: Sequence[str]) -> str | None:
    """Our class for a source's word: itself, or the nearest larger one that is kept; None where neither is.

    A word that is larger than classes that are kept, and not kept itself, says too little.
    """
    return next((n for n in mapping.ancestors(mapping.ours(word, source)) if n in classes), None)


def kept_names(asked: Sequence[str], found: Iterable[str]) -> tuple[str, ...]:
    """The names asked for, or all that were found in the order of their first appearance."""
    return tuple(asked) if asked else tuple(dict.fromkeys(found))


def _only(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{where} has no setting {name!r}{_near(name, known)}")


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _table(given: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = given.get(name, {})
    if not isinstance(found, dict):
        raise UserError(f"{path}: {name} is a table")
    return found


def _names(given: Mapping[str, Any], name: str, path: Path) -> dict[str, str]:
    found = _table(given, name, path)
    if not all(isinstance(value, str) for value in found.values()):
        raise UserError(f'{path}: [{name}] holds words on both sides, such as hepar = "liver"')
    return found


def _words(given: Mapping[str, Any], name: str, path: Path) -> tuple[str, ...]:
    found = given.get(name, [])
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise UserError(f'{path}: {name} is a list of words, such as ["liver", "spleen"]')
    if len(set(found)) < len(found):
        raise UserError(f"{path}: {name} holds a word twice")
    return tuple(found)


def _values(about: Mapping[str, Any], where: str) -> dict[int, str]:
    found = about.get("values", {})
    if not isinstance(found, dict) or not all(k.isdigit() and isinstance(n, str) for k, n in found.items()):
        raise UserError(f'{where}: values names mask values, such as {{1 = "liver", 2 = "tumour"}}')
    return {int(value): name for value, name in found.items()}

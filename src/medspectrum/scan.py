"""One look at every image: decoded once, its facts remembered by content.

The facts live in one SQLite file in the cache, so a second look (``explore`` right after ``describe``)
decodes nothing. Memory does not grow by image: a few numbers are kept of each, pixels of none.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import CaseSet, LazyImage
from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import remarks
from medspectrum.traces import NAMES, traces, unframed

VERSION = 5
THUMB = 32
"""Side of the small grey picture that near duplicates are searched with."""
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen in one image. ``thumb`` is (32, 32) int8: grey values as z-scores times 32.

    ``traces`` are those of ``traces.NAMES``, in order.
    """

    size: tuple[int, int, int]
    channels: int
    kind: str
    modality: str
    spacing_mm: tuple[float, float, float] | None
    pixels: str
    constant: bool
    remarks: tuple[str, ...]
    thumb: np.ndarray
    traces: tuple[float, ...]


@dataclass(slots=True)
class Scan:
    """Facts of all images of a data set, row by row of the readable ones.

    case: index of the case; size: (n, 3) Z, Y, X; spacing_mm: (n, 3), NaN where unknown; pixels: (n, 2)
    halves of the digest of the pixels; keys: content keys, to find the thumbs again; traces: (n, t) of
    ``traces.NAMES``; decoded: how many images had to be decoded.
    """

    case: np.ndarray
    size: np.ndarray
    spacing_mm: np.ndarray
    pixels: np.ndarray
    keys: np.ndarray
    constant: np.ndarray
    traces: np.ndarray
    modalities: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    remarked_first: dict[str, str] = field(default_factory=dict)
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)
    decoded: int = 0


def look(image: LazyImage) -> Facts:
    """Decode one image and note its facts. Raises UnreadableFile."""
    with remarks() as said:
        picture = image.load()
    array = np.ascontiguousarray(picture.array)
    thumb, constant = thumbnail(array)
    return Facts(
        picture.size,
        array.shape[0],
        array.dtype.name,
        picture.modality,
        picture.spacing_mm if picture.spacing_known else None,
        store.digest(list(array.shape), array.dtype.str, array.data.cast("B")),
        constant,
        tuple(said),
        thumb,
        tuple(round(float(value), 5) for value in traces(array)),
    )


def thumbnail(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """The middle slice of (C, Z, Y, X) as (32, 32) int8 z-scores times 32, and whether it is constant.

    A frame that was drawn around it is taken off.
    """
    from PIL import Image as pil

    grey = unframed(array[:, array.shape[1] // 2].astype(np.float32).mean(axis=0))
    small = pil.fromarray(grey).resize((THUMB, THUMB), pil.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    spread = float(values.std())
    if not np.isfinite(spread) or spread <= 1e-6 * max(1.0, float(np.abs(values).max())):
        return np.zeros((THUMB, THUMB), np.int8), True
    scores = (values - values.mean()) / spread
    return np.rint(scores * 32).clip(-127, 127).astype(np.int8), False


class FactStore:
    """Facts by content key, in one SQLite file that survives being killed."""

    def __init__(self, cache: str | Path | None = None) -> None:
        folder = store.cache_folder(cache)
        folder.mkdir(parents=True, exist_ok=True)
        self.base = sqlite3.connect(folder / f"facts-{VERSION}.sqlite", timeout=60)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("PRAGMA synchronous=NORMAL")
        self.base.execute(
            "CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, words TEXT, thumb BLOB) WITHOUT ROWID"
        )
        self.base.execute("CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, words TEXT) WITHOUT ROWID")

    def close(self) -> None:
        """Let go of the file."""
        self.base.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Facts]:
        """The facts that are known, by key."""
        found: dict[bytes, Facts] = {}
        for part in _chunks(keys, 500):
            marks = ",".join("?" * len(part))
            query = f"SELECT key, words, thumb FROM facts WHERE key IN ({marks})"  # noqa: S608 - only marks
            for key, words, thumb in self.base.execute(query, part):
                found[key] = _unpacked(words, thumb)
        return found

    def put(self, rows: Iterable[tuple[bytes, Facts]]) -> None:
        """Remember facts, all in one step."""
        packed = [(key, _packed(facts), facts.thumb.tobytes()) for key, facts in rows]
        with self.base:
            self.base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", packed)

    def note(self, key: str) -> str | None:
        """What was noted under a key, or None."""
        row = self.base.execute("SELECT words FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put_note(self, key: str, words: str) -> None:
        """Note something."""
        with self.base:
            self.base.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, words))

    def thumbs(self, keys: np.ndarray) -> np.ndarray:
        """(n, 32, 32) int8 for (n, 16) uint8 keys, in their order; zeros where one is missing."""
        out = np.zeros((len(keys), THUMB, THUMB), np.int8)
        names = [key.tobytes() for key in keys]
        for start in range(0, len(names), 500):
            part = names[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, thumb FROM facts WHERE key IN ({marks})"  # noqa: S608 - only marks
            found = dict(self.base.execute(query, part))
            for offset, name in enumerate(part):
                if name in found:
                    out[start + offset] = np.frombuffer(found[name], np.int8).reshape(THUMB, THUMB)
        return out


def _packed(facts: Facts) -> str:
    return json.dumps(
        [
            facts.size, facts.channels, facts.kind, facts.modality, facts.spacing_mm, facts.pixels,
            facts.constant, facts.remarks, facts.traces,
        ]
    )  # fmt: skip


def _unpacked(words: str, thumb: bytes) -> Facts:
    size, channels, kind, modality, spacing, pixels, constant, said, left = json.loads(words)
    return Facts(
        tuple(size),
        channels,
        kind,
        modality,
        tuple(spacing) if spacing else None,
        pixels,
        constant,
        tuple(said),
        np.frombuffer(thumb, np.int8).reshape(THUMB, THUMB),
        tuple(left),
    )


def scan(
    case_set: CaseSet,
    *,
    cache: str | Path | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Look at every image of a data set once. Unreadable ones are listed with the reason."""
    cases = case_set.cases
    total = sum(len(case.images) for case in cases)
    found = Scan(
        np.zeros(total, np.int32),
        np.zeros((total, 3), np.int32),
        np.full((total, 3), np.nan, np.float32),
        np.zeros((total, 2), np.uint64),
        np.zeros((total, 16), np.uint8),
        np.zeros(total, bool),
        np.zeros((total, len(NAMES)), np.float32),
    )
    flow = ((i, image) for i, case in enumerate(cases) for image in case.images.values())
    done = row = 0
    with closing(FactStore(cache)) as known, ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for part in _chunks(flow, CHUNK):
            keys = list(pool.map(_key, (image for _, image in part)))
            wanted = [key for key in keys if isinstance(key, bytes)]
            facts: dict[bytes, Facts | str] = dict(known.get(wanted))
            missing = {
                key: part[n][1] for n, key in enumerate(keys) if isinstance(key, bytes) and key not in facts
            }
            looked = dict(zip(missing, pool.map(_look, missing.values()), strict=True))
            known.put((key, fact) for key, fact in looked.items() if isinstance(fact, Facts))
            facts.update(looked)
            found.decoded += len(looked)
            for (index, image), key in zip(part, keys, strict=True):
                fact = facts[key] if isinstance(key, bytes) else key
                if isinstance(fact, str) or not isinstance(key, bytes):
                    found.unreadable.append((index, image.source, str(fact)))
                    continue
                _enter(found, row, index, key, fact, cases[index].record)
                for words in fact.remarks:
                    found.remarked_first.setdefault(words, image.source)
                row += 1
            done += len(part)
            if progress is not None:
                progress(done, total)
    for name in ("case", "size", "spacing_mm", "pixels", "keys", "constant", "traces"):
        setattr(found, name, getattr(found, name)[:row])
    return found


def _enter(found: Scan, row: int, index: int, key: bytes, facts: Facts, record: Any) -> None:
    found.case[row] = index
    found.size[row] = facts.size
    found.spacing_mm[row] = facts.spacing_mm if facts.spacing_mm is not None else np.nan
    found.pixels[row] = np.frombuffer(bytes.fromhex(facts.pixels), np.uint64)
    found.keys[row] = np.frombuffer(key, np.uint8)
    found.constant[row] = facts.constant
    found.traces[row] = facts.traces
    stated = record.get("modality") or record.get("Modality") or ""
    found.modalities[facts.modality or str(stated) or "unknown"] += 1
    found.kinds[facts.kind] += 1
    found.channels[facts.channels] += 1
    found.remarks.update(facts.remarks)


def _key(image: LazyImage) -> bytes | str:
    """The content key, or the sentence that says why there is none."""
    try:
        return bytes.fromhex(image.key())
    except UnreadableFile as error:
        return error.reason


def _look(image: LazyImage) -> Facts | str:
    try:
        return look(image)
    except UnreadableFile as error:
        return error.reason


def _chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most that many."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part

"""Features kept on disk: computed once, found again by the content they were computed from.

A store is a folder of shards, one per batch of appended rows. A shard is one safetensors file
(keys, rows, and what they cost) that is written under another name and renamed when whole: a
process killed at any moment leaves whole shards or none, and two processes may append at once, since
no file is ever changed. A shard that cannot be read (a disk fault) counts as absent, and its rows are
computed again. Memory: 25 bytes per row for the index, nothing else stays.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medspectrum.store import atomic, digest

_SUFFIX = ".rows"
_KEY = "S17"
"""16 bytes of digest and a mark: NumPy drops trailing zeros of byte strings, the mark keeps them."""


def packed(keys: Sequence[str]) -> np.ndarray:
    """Hex digests as (n,) sortable byte strings; any text that is not 16 bytes of hex is digested first."""
    raw = bytearray()
    for key in keys:
        try:
            content = bytes.fromhex(key)
        except ValueError:
            content = b""
        raw += content if len(content) == 16 else bytes.fromhex(digest("key", key))
        raw += b"\x01"
    return np.frombuffer(bytes(raw), _KEY)


class FeatureStore:
    """Rows of numbers by key, in one folder. Several instances may use the folder at once.

    kept: how rows lie on disk; half precision for maps, which are large and are looked at through weights.
    """

    def __init__(self, folder: Path, *, kept: type[np.floating] = np.float32) -> None:
        self.folder, self.kept = folder, kept
        self._shards: list[Path] = []
        self._seen: set[str] = set()
        self._keys = np.empty(0, _KEY)
        self._shard = np.empty(0, np.int32)
        self._row = np.empty(0, np.int32)
        self._costs: dict[str, tuple[int, float, float]] = {}
        self.shapes: tuple[tuple[int, ...], ...] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that were added since, by this process or another."""
        if not self.folder.is_dir():
            return
        names = sorted(e.name for e in os.scandir(self.folder) if e.name.endswith(_SUFFIX))
        new = [n for n in names if n not in self._seen]
        if not new:
            return
        keys, shard, row = [self._keys], [self._shard], [self._row]
        for name in new:
            self._seen.add(name)
            found = _read_head(self.folder / name)
            if found is None:
                continue
            rows, cost, shapes = found
            self.shapes = shapes
            self._costs[name] = cost
            keys.append(rows)
            shard.append(np.full(len(rows), len(self._shards), np.int32))
            row.append(np.arange(len(rows), dtype=np.int32))
            self._shards.append(self.folder / name)
        joined = np.concatenate(keys)
        order = np.argsort(joined, kind="stable")
        self._keys = joined[order]
        self._shard = np.concatenate(shard)[order]
        self._row = np.concatenate(row)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def _places(self, wanted: np.ndarray) -> np.ndarray:
        """Index into the sorted keys for each wanted key, -1 where absent."""
        if len(self._keys) == 0:
            return np.full(len(wanted), -1)
        place = np.searchsorted(self._keys, wanted)
        place[place == len(self._keys)] = 0
        return np.where(self._keys[place] == wanted, place, -1)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in ``keys`` that the store lacks; of equal keys only the first."""
        self.refresh()
        wanted = packed(keys)
        absent = np.flatnonzero(self._places(wanted) < 0)
        _, first = np.unique(wanted[absent], return_index=True)
        return [int(i) for i in absent[np.sort(first)]]

    def append(
        self,
        keys: Sequence[str],
        rows: np.ndarray,
        *,
        shapes: Sequence[tuple[int, ...]] = (),
        wall_seconds: float = 0.0,
        cpu_seconds: float = 0.0,
    ) -> None:
        """Add rows (n, d) as one shard, whole or not at all.

        shapes: what a row is when unfolded (one shape per part). The seconds are what these rows cost.
        """
        from safetensors.numpy import save_file

        rows = np.ascontiguousarray(rows, dtype=self.kept)
        if rows.ndim != 2 or len(rows) != len(keys):
            raise ValueError(f"{len(keys)} keys need rows of (n, d); got {rows.shape}")
        if len(keys) == 0:
            return
        about = {
            "wall_seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "shapes": [list(s) for s in shapes] or [[rows.shape[1]]],
        }
        held = packed(keys).view(np.uint8).reshape(len(keys), 17)
        with atomic(self.folder / f"{uuid.uuid4().hex}{_SUFFIX}") as partial:
            save_file({"keys": held.copy(), "rows": rows}, partial, metadata={"about": json.dumps(about)})

    def gather(self, keys: Sequence[str]) -> np.ndarray:
        """(n, d) float32 rows in the order of the keys. Raises KeyError where one is missing."""
        from safetensors import safe_open

        self.refresh()
        place = self._places(packed(keys))
        if (place < 0).any():
            raise KeyError(keys[int(np.argmax(place < 0))])
        out: np.ndarray | None = None
        shard, row = self._shard[place], self._row[place]
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            first, last = int(row[here].min()), int(row[here].max())
            with safe_open(self._shards[number], framework="np") as held:
                rows = held.get_slice("rows")[first : last + 1]
            if out is None:
                out = np.empty((len(keys), rows.shape[1]), np.float32)
            out[here] = rows[row[here] - first]
        return np.empty((0, 0), np.float32) if out is None else out

    def seconds_per_row(self) -> tuple[float, float] | None:
        """Wall and CPU seconds that one row cost on average; None where nothing was computed yet."""
        self.refresh()
        count = sum(n for n, _, _ in self._costs.values())
        if count == 0:
            return None
        wall = sum(w for _, w, _ in self._costs.values())
        cpu = sum(c for _, _, c in self._costs.values())
        return wall / count, cpu / count


class Together:
    """Several stores that are filled by one pass of a network; each is charged the whole pass.

    Each store takes one of a row's shapes, in order, and the last one takes the rest.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = tuple(stores)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in ``keys`` that any of the stores lacks; of equal keys only the first."""
        return sorted({place for store in self.stores for place in store.missing(keys)})

    def append(
        self,
        keys: Sequence[str],
        rows: np.ndarray,
        *,
        shapes: Sequence[tuple[int, ...]],
        wall_seconds: float = 0.0,
        cpu_seconds: float = 0.0,
    ) -> None:
        """Cut rows (n, d) into each store's part of it; a row that a store has already is not added again."""
        column = 0
        for place, store in enumerate(self.stores):
            own = shapes[place : None if store is self.stores[-1] else place + 1]
            width = sum(int(np.prod(s)) for s in own)
            new = store.missing(keys)
            share = len(new) / max(len(keys), 1)
            store.append(
                [keys[i] for i in new],
                rows[new, column : column + width],
                shapes=own,
                wall_seconds=wall_seconds * share,
                cpu_seconds=cpu_seconds * share,
            )
            column += width


def _read_head(path: Path) -> tuple[np.ndarray, tuple[int, float, float], tuple[tuple[int, ...], ...]] | None:
    """A shard's keys, cost and shapes; None where the file is not a whole shard."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as held:
            about = json.loads(held.metadata()["about"])
            keys = held.get_tensor("keys").reshape(-1).view(_KEY)
            if held.get_slice("rows").get_shape()[0] != len(keys):
                return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    shapes = tuple(tuple(s) for s in about["shapes"])
    return keys, (len(keys), float(about["wall_seconds"]), float(about["cpu_seconds"])), shapes

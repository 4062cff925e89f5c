"""Many images through one network into a feature store: streaming, bounded in memory, resumable."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from medspectrum.case import LazyImage, LeftOut
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.image import Image

Progress = Callable[[int, int], None]
Prepare = Callable[[Image], np.ndarray]

BLOCK = 4096
"""Images whose keys are held at a time."""
SHARD_BYTES = 32 << 20
SHARD_SECONDS = 5.0
"""A shard is written when it has this size or age: what a kill can cost."""


class Rows(Protocol):
    """Where finished rows go; see ``feature_store.FeatureStore`` and ``feature_store.Together``."""

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of the keys that it lacks."""
        ...

    def append(
        self,
        keys: Sequence[str],
        rows: np.ndarray,
        *,
        shapes: Sequence[tuple[int, ...]],
        wall_seconds: float,
        cpu_seconds: float,
    ) -> None:
        """Take rows (n, d), whole or not at all."""
        ...


class Runner(Protocol):
    """Runs one input per request; see ``openvino.Compiled`` and ``eager.Eager``."""

    def run(self, jobs: Any, done: Any) -> None:
        """Run (tag, input) pairs and hand (tag, outputs) to ``done``."""
        ...


class _Rows:
    """Finished rows on their way into the store. A volume's slices are averaged, in their own order."""

    def __init__(self, store: Rows) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._parts: dict[str, list[np.ndarray | None]] = {}
        self._keys: list[str] = []
        self._rows: list[Any] = []
        self._bytes = 0
        self._shapes: list[tuple[int, ...]] = []
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add(self, tag: tuple[str, int, int], outputs: list[np.ndarray]) -> None:
        """Take the outputs for slice ``place`` of ``count``. Called from any thread."""
        key, place, count = tag
        row = np.concatenate([o.ravel() for o in outputs]).astype(np.float32, copy=False)
        with self._lock:
            self._shapes = [o.shape for o in outputs]
            if count > 1:
                slices = self._parts.setdefault(key, [None] * count)
                slices[place] = row
                held = [s for s in slices if s is not None]
                if len(held) < count:
                    return
                del self._parts[key]
                row = np.stack(held).mean(axis=0, dtype=np.float32)
            self._keys.append(key)
            self._rows.append(row)
            self._bytes += row.nbytes

    def flush(self, *, always: bool = False) -> None:
        """Write what is finished, when it is enough or old enough."""
        wall, cpu = time.perf_counter(), time.process_time()
        with self._lock:
            due = always or self._bytes >= SHARD_BYTES or wall - self._wall >= SHARD_SECONDS
            if not due or not self._keys:
                return
            keys, rows = self._keys, self._rows
            self._keys, self._rows, self._bytes = [], [], 0
        self._store.append(
            keys,
            np.stack(rows),
            shapes=self._shapes,
            wall_seconds=wall - self._wall,
            cpu_seconds=cpu - self._cpu,
        )
        self._wall, self._cpu = wall, cpu


def _ready(image: LazyImage, prepare: Prepare) -> np.ndarray | LeftOut:
    try:
        return prepare(image.load())
    except UnreadableFile as problem:
        return LeftOut(image.source, problem.reason)
    except (UserError, OSError, ValueError) as problem:
        return LeftOut(image.source, str(problem))


def _in_order(
    images: Sequence[LazyImage], prepare: Prepare, workers: int
) -> Iterator[tuple[int, np.ndarray | LeftOut]]:
    """Read and prepare ahead of the network, in threads, a few images at a time."""
    waiting: deque[tuple[int, Future[np.ndarray | LeftOut]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for place, image in enumerate(images):
                waiting.append((place, pool.submit(_ready, image, prepare)))
                if len(waiting) > workers:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, made in waiting:
                made.cancel()


def content_keys(images: Sequence[LazyImage]) -> tuple[list[str | None], list[LeftOut]]:
    """The images' keys, None with a reason where the file cannot even be read."""
    keys: list[str | None] = []
    left: list[LeftOut] = []
    for image in images:
        try:
            keys.append(image.key())
        except UnreadableFile as problem:
            left.append(LeftOut(image.source, problem.reason))
            keys.append(None)
        except OSError as problem:
            left.append(LeftOut(image.source, str(problem)))
            keys.append(None)
    return keys, left


def fill(
    store: Rows,
    images: Sequence[LazyImage],
    *,
    prepare: Prepare,
    runner: Callable[[], Runner],
    slices: bool,
    workers: int,
    progress: Progress | None = None,
) -> list[LeftOut]:
    """Compute and keep what the store lacks of these images; what cannot be read is listed.

    slices: whether a prepared input of one axis more is a stack of slices, to be averaged.
    runner: gives the network when there is something to run; asked at most once per block.
    """
    left: list[LeftOut] = []
    total, done = len(images), 0
    for start in range(0, total, BLOCK):
        block = images[start : start + BLOCK]
        keys, unread = content_keys(block)
        left += unread
        known = [place for place, key in enumerate(keys) if key is not None]
        absent = [known[i] for i in store.missing([keys[p] for p in known])]  # type: ignore[misc]
        done += len(block) - len(absent)
        if progress is not None:
            progress(done, total)
        if not absent:
            continue
        network = runner()
        rows = _Rows(store)
        missing = [block[p] for p in absent]
        refused: dict[str, str] = {}

        def jobs(
            missing: list[LazyImage] = missing,
            absent: list[int] = absent,
            keys: list[str | None] = keys,
            rows: _Rows = rows,
            refused: dict[str, str] = refused,
        ) -> Iterator[tuple[tuple[str, int, int], np.ndarray]]:
            nonlocal done
            for place, made in _in_order(missing, prepare, workers):
                key = str(keys[absent[place]])
                if isinstance(made, LeftOut):
                    refused[key] = made.reason
                else:
                    stack = made if slices and made.ndim == 4 else made[None]
                    for number, plane in enumerate(stack):
                        yield (key, number, len(stack)), plane
                rows.flush()
                done += 1
                if progress is not None:
                    progress(done, total)

        network.run(jobs(), rows.add)
        rows.flush(always=True)
        # equal files were read once, and are left out together
        left += [LeftOut(block[p].source, refused[str(keys[p])]) for p in known if keys[p] in refused]
    return left

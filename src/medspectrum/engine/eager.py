"""Running a network by torch as it stands: for those that OpenVINO cannot convert."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


class Eager:
    """A module that takes one picture per call; each worker computes with one thread.

    One picture and one thread for the same reason as in ``engine/openvino.py``: equal bits whatever
    the neighbours and however many processors.
    """

    def __init__(self, module: Any, *, streams: int) -> None:
        self._module = module
        self._streams = streams

    def _one(self, made: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            parts = self._module(torch.from_numpy(made[None]))
        return [p[0].numpy() for p in (parts if isinstance(parts, tuple) else (parts,))]

    def ahead(self, inputs: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """As ``openvino.Compiled.ahead``: outputs in the order of the inputs, the next ones under way."""
        for _, outputs in self._in_order((None, made) for made in inputs):
            yield outputs

    def run(
        self, jobs: Iterable[tuple[Any, np.ndarray]], done: Callable[[Any, list[np.ndarray]], None]
    ) -> None:
        """As ``openvino.Compiled.run``; ``done`` is called in order, in the caller's thread."""
        for tag, outputs in self._in_order(jobs):
            done(tag, outputs)

    def _in_order(self, jobs: Iterable[tuple[Any, np.ndarray]]) -> Iterator[tuple[Any, list[np.ndarray]]]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        waiting: deque[tuple[Any, Future[list[np.ndarray]]]] = deque()
        try:
            with ThreadPoolExecutor(self._streams, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for tag, made in jobs:
                    waiting.append((tag, pool.submit(self._one, made)))
                    if len(waiting) > self._streams:
                        first, result = waiting.popleft()
                        yield first, result.result()
                while waiting:
                    first, result = waiting.popleft()
                    yield first, result.result()
        finally:
            torch.set_num_threads(before)

"""Running a network by torch as it stands: for those that OpenVINO cannot convert."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
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

    def run(
        self, jobs: Iterable[tuple[Any, np.ndarray]], done: Callable[[Any, list[np.ndarray]], None]
    ) -> None:
        """As ``openvino.Compiled.run``; ``done`` is called in order, in the caller's thread."""
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
                        done(first, result.result())
                while waiting:
                    first, result = waiting.popleft()
                    done(first, result.result())
        finally:
            torch.set_num_threads(before)

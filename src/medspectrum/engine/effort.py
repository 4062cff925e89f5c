"""What a piece of work costs: wall and processor seconds, and the peak of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 2**20


@dataclass
class Effort:
    """Filled when the measured block ends. peak_memory_mb is the process's resident peak."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def seconds(self) -> dict[str, float]:
        """Wall and processor seconds under the names of the results."""
        return {"wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds}


@contextmanager
def measured() -> Iterator[Effort]:
    """Measure the block: all threads of this process count as processor time."""
    effort = Effort()
    peak = _PeakMemory()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield effort
    finally:
        effort.wall_seconds = time.perf_counter() - wall
        effort.cpu_seconds = time.process_time() - cpu
        effort.peak_memory_mb = peak.stop()


class _PeakMemory:
    """The kernel's own high-water mark where it can be reset (Linux), else a look 20 times a second."""

    def __init__(self) -> None:
        self.reset = Path("/proc/self/clear_refs")
        self.status = Path("/proc/self/status")
        self.seen = 0.0
        self.done = threading.Event()
        self.thread: threading.Thread | None = None
        try:
            self.reset.write_text("5")
        except OSError:
            self.thread = threading.Thread(target=self._look, daemon=True)
            self.thread.start()

    def _look(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.seen = max(self.seen, process.memory_info().rss / MEBIBYTE)
            if self.done.wait(0.05):
                return

    def stop(self) -> float:
        if self.thread is not None:
            self.done.set()
            self.thread.join()
            return self.seen
        for line in self.status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0

"""How soon the command line answers: wall seconds of ``medspectrum --help``, median of 20.

python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from measurement import save

VERBS = (["--help"], ["--version"], ["models"], ["explore", "--help"])


def main() -> None:
    program = str(Path(sys.executable).with_name("medspectrum"))
    found = {}
    for words in VERBS:
        took = []
        for _ in range(20):
            started = time.perf_counter()
            subprocess.run([program, *words], check=True, capture_output=True)
            took.append(time.perf_counter() - started)
        found[" ".join(words)] = {"median_seconds": statistics.median(took), "slowest_seconds": max(took)}
    save("start", found)


if __name__ == "__main__":
    main()

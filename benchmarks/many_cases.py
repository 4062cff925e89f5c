"""Memory and time of looking at many images: 1,000, 10,000 and 100,000 made PNG files of 224 x 224.

Run ``python benchmarks/many_cases.py 1000 10000 100000``. Each size is measured in a process of its own,
so that its peak is its own; the result goes to ``benchmarks/results/many_cases_describe.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
SIDE = 224


def make_files(folder: Path, n: int, *, side: int = SIDE, classes: int = 2, seed: int = 0) -> Path:
    """n grey PNG files, small on disk and all different: coarse random blocks, one folder per class.

    They are written directly (header, one deflated block, end), ten times faster than by an encoder.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rng = np.random.default_rng(seed)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    end = chunk(b"IEND", b"")
    block = side // 14
    for number in range(n):
        label = number % classes
        coarse = rng.integers(0, 200, (14, 14), dtype=np.uint8) + np.uint8(40 * label)
        picture = np.zeros((side, side + 1), np.uint8)  # each line begins with its filter: none
        picture[:, 1:] = np.repeat(np.repeat(coarse, block, axis=0), block, axis=1)
        place = folder / f"class{label}" / f"{number // (classes * 1000):04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07d}.png").write_bytes(
            head + chunk(b"IDAT", zlib.compress(picture.tobytes(), 1)) + end
        )
    return folder


def measure_describe(folder: Path, cache: Path) -> dict[str, float]:
    """Describe a folder twice in a fresh process: seconds, peak memory, what was decoded."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(folder), str(cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def describe_once(folder: Path, cache: Path) -> dict[str, float]:
    """What the fresh process does."""
    import psutil

    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    started = time.perf_counter()
    case_set = load(folder)
    loaded = time.perf_counter()
    held = psutil.Process().memory_info().rss / 2**20
    facts = describe_cases(case_set, cache=cache)
    first = time.perf_counter()
    again = describe_cases(case_set, cache=cache)
    return {
        "cases": facts["cases"],
        "load_seconds": loaded - started,
        "after_load_mb": held,
        "describe_seconds": first - loaded,
        "images_per_second": facts["cases"] / (first - loaded),
        "again_seconds": time.perf_counter() - first,
        "peak_mb": peak(),
        "decoded": facts["decoded"],
        "decoded_again": again["decoded"],
        "near_pairs": facts["duplicates"]["near_pairs"],
        "unreadable": len(facts["unreadable"]),
    }


def main() -> None:
    """Make the files of each size, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000])
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "CACHE"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(describe_once(Path(given.one[0]), Path(given.one[1]))))
        return
    rows = []
    for n in given.sizes:
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            folder = make_files(Path(place) / "files", n)
            row = {"made_seconds": time.perf_counter() - started}
            row |= measure_describe(folder, Path(place) / "cache")
            rows.append({word: round(value, 2) for word, value in row.items()})
            print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    result = {"command": "python benchmarks/many_cases.py " + " ".join(map(str, given.sizes)), "rows": rows}
    result["cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    (RESULTS / "many_cases_describe.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

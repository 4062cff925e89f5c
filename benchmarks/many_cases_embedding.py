"""Peak memory of embedding 1,000, 10,000 and 100,000 files: it must not grow with their number.

    python benchmarks/many_cases_embedding.py [--counts 1000 10000 100000] [--side 224] [--size 112]

Files are made (PNG, grey, all different), each count is embedded by a process of its own into an empty
store, and the peak of its resident memory is read when it ends. ``--size`` is the network's input; the
files keep ``--side`` pixels. The list of images itself, which any caller must hold, is counted too and
told apart as ``list_mb``. With ``--save`` the curve goes to benchmarks/results/many_cases_embedding.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.store import file_digest


def make(folder: Path, count: int, side: int) -> None:
    """Files 0.png ... that are missing: a gradient, a number written into its first pixels."""
    from PIL import Image as Picture

    folder.mkdir(parents=True, exist_ok=True)
    ramp = (np.add.outer(np.arange(side), np.arange(side)) % 256).astype(np.uint8)
    for number in range(count):
        path = folder / f"{number}.png"
        if not path.exists():
            pixels = ramp.copy()
            pixels[0, :4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
            pixels[1 + number % (side - 2)] ^= 255
            Picture.fromarray(pixels).save(path, compress_level=1)


def peak_mb() -> float:
    """Of this process alone: ``ru_maxrss`` would start at the peak of the parent that has torch loaded."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def embed(folder: Path, count: int, model: str, size: int, cache: str) -> dict[str, float]:
    from medspectrum.formats import raster
    from medspectrum.models import resolve

    encoder = resolve(model, size=size, cache=cache)
    before = peak_mb()
    images = [
        LazyImage(
            str(folder / f"{i}.png"),
            partial(raster.read, folder / f"{i}.png"),
            partial(file_digest, folder / f"{i}.png"),
        )
        for i in range(count)
    ]
    listed = peak_mb() - before
    start = time.perf_counter()
    left = encoder.ensure(images)
    wall = time.perf_counter() - start
    assert not left, left[:3]
    return {
        "images": count,
        "stored": len(encoder._store("pooled")),
        "peak_rss_mb": round(peak_mb(), 1),
        "list_mb": round(listed, 1),
        "wall_seconds": round(wall, 1),
        "images_per_second": round(count / wall, 1),
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    ask.add_argument("--side", type=int, default=224)
    ask.add_argument("--size", type=int, default=112)
    ask.add_argument("--model", default="efficientnet-lite0")
    ask.add_argument("--folder", default="")
    ask.add_argument("--save", action="store_true")
    ask.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    ask.add_argument("--cache", default="", help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.one:
        print(json.dumps(embed(Path(given.folder), given.one, given.model, given.size, given.cache)))
        return
    from medspectrum.models import resolve

    with tempfile.TemporaryDirectory() as name:
        folder = Path(given.folder or name)
        files = folder / "files"
        cache = folder / "features"
        resolve(given.model, size=given.size, cache=cache).ensure([])  # converted once, in no one's peak
        curve = []
        for count in given.counts:
            make(files, count, given.side)
            shutil.rmtree(cache / "features", ignore_errors=True)
            command = [sys.executable, __file__, "--one", str(count), "--folder", str(files)]
            command += ["--model", given.model, "--size", str(given.size), "--cache", str(cache)]
            curve.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
            print(curve[-1], file=sys.stderr, flush=True)
    result = {"model": given.model, "side": given.side, "size": given.size, "curve": curve}
    if given.save:
        from measurement import save

        save("many_cases_embedding", result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

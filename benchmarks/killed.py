"""Killed with SIGKILL at random moments and started again, explore ends with the same table.

    python benchmarks/killed.py [--kills 10]

One uninterrupted run gives the reference. Then the same command, with a cache of its own, is killed at
moments drawn over the length of the reference run, started again each time, and at last left to finish.
Told are: whether all scores are bit-equal, and how many trials were ever computed twice (a trial's record is
written once, so a record whose time of writing changed was computed again).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurement import save

DATA = Path(__file__).parents[1] / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
SETTINGS = [
    "--models", "efficientnet-lite0", "--methods", "majority,knn,prototype,ridge,linear_probe,bitfit",
    "--budgets", "1,5,20", "--draws", "2", "--size", "64", "--budget-minutes", "0", "--quiet",
]  # fmt: skip


def command(place: Path, name: str) -> list[str]:
    out = ["--out", str(place / name), "--cache", str(place / f"{name}-cache")]
    return [sys.executable, "-m", "medspectrum", "explore", str(DATA), *out, *SETTINGS]


def scores(place: Path, name: str) -> dict:
    found = json.loads((place / name / "results.json").read_text())
    return {t["id"]: [t["scores"], t["selection"], t["per_class"]] for t in found["trials"]}


def written(place: Path, name: str) -> dict[str, float]:
    return {str(p): p.stat().st_mtime for p in (place / f"{name}-cache" / "trials").rglob("record.json")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    rng = random.Random(20)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = time.perf_counter()
        subprocess.run(command(place, "whole"), check=True, stdout=subprocess.DEVNULL)
        length = time.perf_counter() - started
        moments, again, before = [], 0, {}
        for _ in range(kills):
            # Each start goes on from the last: moments short enough that ten of them rarely reach the end.
            moment = rng.uniform(2, max(4.0, length / 6))
            process = subprocess.Popen(command(place, "killed"), stdout=subprocess.DEVNULL)
            try:
                process.wait(moment)
                moments.append({"finished_after": moment})
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                moments.append({"killed_after": moment})
            now = written(place, "killed")
            again += sum(now.get(name) != when for name, when in before.items())
            before = now
        subprocess.run(command(place, "killed"), check=True, stdout=subprocess.DEVNULL)
        now = written(place, "killed")
        again += sum(now.get(name) != when for name, when in before.items())
        result = {
            "whole_run_seconds": length,
            "moments": moments,
            "trials": len(now),
            "scores_bit_equal": scores(place, "whole") == scores(place, "killed"),
            "finished_trials_computed_again": again,
        }
    save("killed", result)


if __name__ == "__main__":
    main()

"""Facility location by ``engine.selection`` beside apricot and submodlib: time, memory, objective.

    python benchmarks/curation_speed.py [--rows 8000] [--chosen 800] [--many 100000]

Made rows of 384 numbers in 300 lumps of unequal size. First ``rows`` of them, from the same unit vectors
for all: the peers are given the matrix of all likenesses ((1 + cosine) / 2), its product counted with them,
and run their lazy greedy. Then ``many`` rows by ours alone (a matrix of 100,000 by 100,000 is 40 GB in
single precision). The objective is the sum over all rows of the likeness to the nearest chosen one, counted
the same way for all. Each is measured in a process of its own; what the file holds is not measured again.
The peers are installed apart, into a copy of this environment:
    python -m venv --system-site-packages PEERS && PEERS/bin/pip install apricot-select submodlib-py
and the script is run by PEERS/bin/python.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from measurement import RESULTS, save

WIDTH, KINDS, SEED = 384, 300, 0


def made(count: int) -> np.ndarray:
    """(count, 384) rows in lumps that lie in 32 dimensions, with a little noise in all."""
    rng = np.random.default_rng(SEED)
    middles = 2 * rng.standard_normal((KINDS, 32))
    share = 1 / np.arange(1, KINDS + 1)
    kind = rng.choice(KINDS, count, p=share / share.sum())
    inside = middles[kind] + rng.standard_normal((count, 32))
    noise = 0.3 * rng.standard_normal((count, WIDTH), dtype=np.float32)
    return (inside @ rng.standard_normal((32, WIDTH))).astype(np.float32) + noise


def ours(rows: np.ndarray, chosen: int) -> list[int]:
    from medspectrum.engine.selection import Room, facility_location

    return facility_location(rows, chosen, Room(len(rows), None, None))


def exact(rows: np.ndarray, chosen: int) -> list[int]:
    """Our greedy over all rows, without letting medoids give way."""
    from medspectrum.engine.selection import Room, facility_location

    return facility_location(rows, chosen, Room(len(rows), None, None), exact=len(rows), passes=0)


def apricot(rows: np.ndarray, chosen: int) -> list[int]:
    from apricot import FacilityLocationSelection

    alike = ((1 + rows @ rows.T) / 2).astype(np.float64)
    found = FacilityLocationSelection(chosen, metric="precomputed", optimizer="lazy").fit(alike)
    return [int(i) for i in found.ranking]


def submodlib(rows: np.ndarray, chosen: int) -> list[int]:
    from submodlib import FacilityLocationFunction

    alike = (1 + rows @ rows.T) / 2
    function = FacilityLocationFunction(n=len(rows), mode="dense", separate_rep=False, sijs=alike)
    found = function.maximize(budget=chosen, optimizer="LazyGreedy", show_progress=False)
    return [int(i) for i, _ in found]


def chance(rows: np.ndarray, chosen: int) -> list[int]:
    return list(np.random.default_rng(SEED).choice(len(rows), chosen, replace=False))


WAYS = {"ours": ours, "exact": exact, "apricot": apricot, "submodlib": submodlib, "chance": chance}


def one(name: str, count: int, chosen: int) -> None:
    """Measure one way in this process and print what was found as JSON."""
    from medspectrum.engine.selection import coverage, unit_rows

    rows = unit_rows(made(count))
    WAYS[name](rows[:200], 10)  # imports, compilation and threads are not what is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    places = WAYS[name](rows, chosen)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    objective = float(coverage(rows, places).astype(np.float64).sum())
    told = {"wall_seconds": wall, "cpu_seconds": cpu, "objective": objective, "chosen": len(set(places))}
    print(json.dumps({**told, "memory_mb": most / 1024, "memory_before_mb": before / 1024}))


def measured(name: str, count: int, chosen: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", name, "--rows", str(count), "--chosen", str(chosen)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"rows": count, "asked": chosen, **json.loads(done.stdout.strip().splitlines()[-1])}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--rows", type=int, default=8000)
    ask.add_argument("--chosen", type=int, default=800)
    ask.add_argument("--many", type=int, default=100_000)
    ask.add_argument("--peers", default="apricot,submodlib")
    ask.add_argument("--single", action="store_true", help="measure one more, then stop")
    ask.add_argument("--one", choices=sorted(WAYS))
    asked = ask.parse_args()
    if asked.one:
        one(asked.one, asked.rows, asked.chosen)
        return
    peers = [name for name in asked.peers.split(",") if name]
    wanted = [(name, asked.rows, asked.chosen) for name in ("ours", "exact", "chance", *peers)]
    wanted += [(name, asked.many, n) for n in (1000, 10_000) for name in ("ours", "chance")]
    kept = RESULTS / "curation_speed.json"
    runs = json.loads(kept.read_text())["result"]["runs"] if kept.is_file() else []
    for key in wanted:
        if any((r["way"], r["rows"], r["asked"]) == key for r in runs):
            continue
        runs = [*runs, {"way": key[0], **measured(*key)}]
        own = {r["way"]: r for r in runs if (r["rows"], r["asked"]) == (asked.rows, asked.chosen)}
        told: dict[str, float] = {}
        for name in (n for n in peers if n in own):
            for mine in ("ours", "exact"):
                told[f"{mine}_times_{name}"] = own[name]["cpu_seconds"] / own[mine]["cpu_seconds"]
                told[f"{mine}_objective_beside_{name}"] = own[mine]["objective"] / own[name]["objective"] - 1
        save("curation_speed", {"told": told, "runs": runs})
        if asked.single:
            break


if __name__ == "__main__":
    main()

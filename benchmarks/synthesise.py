"""What made pictures add to real labels, and whether they are copies: blood cells, chest X-rays.

    python benchmarks/synthesise.py [--sets wbc,pneumoniamnist] [--kinds diffusion,gan] [--minutes 10]

wbc: five types of white blood cells (MEDSPECTRUM_DATA/wbc_seg), 64 pixels, split 60/20/20. pneumoniamnist:
28 pixels, official split. A planted memoriser (training pictures with noise of 4 %) and held-out test ones
are audited beside each generator. Each set and kind is added to the result file when it is done and not done
again; a stopped training goes on (--work keeps it).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from measurement import RESULTS, save

NOISE = 0.04


def main() -> None:
    import medspectrum

    here = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--sets", default="wbc,pneumoniamnist")
    given.add_argument("--kinds", default="diffusion,gan")
    given.add_argument("--minutes", type=float, default=10.0)
    given.add_argument("--n", type=int, default=60)
    given.add_argument("--draws", type=int, default=5)
    given.add_argument("--work", type=Path, default=Path("/tmp/medspectrum_synthesise"))
    given.add_argument("--name", default="synthesise", help="of the result file")
    asked = given.parse_args()
    kept = RESULTS / f"{asked.name}.json"
    runs: list[dict[str, Any]] = json.loads(kept.read_text())["result"]["runs"] if kept.is_file() else []
    for name in asked.sets.split(","):
        data, size = _data(name, here, asked.work)
        for kind in asked.kinds.split(","):
            key = {"set": name, "kind": kind, "minutes": asked.minutes, "n": asked.n}
            if any(all(run[k] == v for k, v in key.items()) for run in runs):
                continue
            found = medspectrum.synthesise(
                data,
                n=asked.n,
                out=asked.work / f"{name}-{kind}-{asked.minutes:g}",
                kind=kind,
                minutes=asked.minutes,
                size=size,
                draws=asked.draws,
                models="efficientnet-lite0",
                cache=asked.work / "cache",
            )
            found["memorisation"].pop("nearest", None)
            runs.append({**key, **found, "planted": _planted(data, size, asked.work / "cache")})
            save(asked.name, {"runs": runs})


def _data(name: str, here: Path, work: Path) -> tuple[Path, int]:
    """The data set, and the pixels per side that pictures are made of."""
    if name == "pneumoniamnist":
        return here / "pneumoniamnist" / "pneumoniamnist.npz", 28
    folder = here / "wbc_seg" / "jiangxi_tecom"
    rows = csv.DictReader((folder.parent / "labels.csv").open())
    table = work / "wbc.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{folder / (row['id'].zfill(3) + '_image.png')},type{row['wbc_class']}" for row in rows]
    table.write_text("\n".join(["image,class", *lines]) + "\n")
    return table, 64


def _planted(data: Path, size: int, cache: Path) -> dict[str, Any]:
    """The verdicts on a memoriser and on held-out test pictures, by features and by pixels."""
    from medspectrum.budgets import make_split
    from medspectrum.datasets import load
    from medspectrum.metrics.generated import memorised
    from medspectrum.models import resolve
    from medspectrum.synthesise import lazy_pictures, seen_small, squared

    parts = make_split(load(data, cache=cache).cases, seed=0)
    first = next(iter(parts.train[0].images.values())).load()
    channels = 3 if first.array.shape[0] >= 3 else 1
    held = {
        part: np.stack([squared(next(iter(c.images.values())).load(), size, channels) for c in own[:1500]])
        for part, own in (("train", parts.train), ("val", parts.val), ("test", parts.test))
    }
    rng = np.random.default_rng(0)
    chosen = held["train"][rng.permutation(len(held["train"]))[:200]]
    noisy = chosen + rng.normal(0, 255 * NOISE, chosen.shape)
    held["memoriser"] = np.clip(noisy, 0, 255).astype(np.uint8)
    encoder = resolve("efficientnet-lite0", cache=cache).for_images(
        lazy_pictures("train", held["train"][:32])
    )
    patients = np.array([c.patient for c in parts.train[:1500]])
    told: dict[str, Any] = {}
    for way in ("features", "pixels"):
        if way == "features":
            for part, own in held.items():
                encoder.ensure(lazy_pictures(part, own))
            rows = {part: encoder.embed(lazy_pictures(part, own)).pooled for part, own in held.items()}
        else:
            rows = {part: seen_small(own) for part, own in held.items()}
        for who in ("memoriser", "test"):
            found = memorised(rows["train"], patients, rows["val"], rows[who])
            told.setdefault(who, {})[way] = {k: found[k] for k in ("copies", "nearer", "alone")}
    for one in told.values():
        one["passed"] = all(
            one[w]["copies"]["share"] <= one[w]["copies"]["limit"] for w in ("features", "pixels")
        )
    return told


if __name__ == "__main__":
    main()

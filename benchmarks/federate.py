"""What a federation is worth: heads learned over sites beside all cases pooled and each site alone.

X-rays of COVID-19 patients (PA or AP) by the places they come from, the three largest and all others; and
PneumoniaMNIST's patients dealt to four sites, unevenly by class (--skew 0.3). Three seeds each: of the split
for the first, whose data bring none, and of dealing for the second. DATA holds covid_cxr
(MEDSPECTRUM_DATA where not given); finished parts are kept in the result file.

    python benchmarks/federate.py [DATA] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

from measurement import RESULTS, save

ROOT = Path(__file__).parents[1]
SEEDS, METHODS = (0, 1, 2), ("ridge", "prototype")


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument(
        "data", nargs="?", type=Path, default=Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data"))
    )
    asked.add_argument("--cache", type=Path, default=Path("benchmark_cache"))
    given = asked.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    table = covid(given.data, given.cache)
    pneumonia = ROOT / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
    for seed in SEEDS:
        for method in METHODS:
            part(f"covid {method} {seed}", table, given.cache, method, seed, sites=4, size=128)
            dealt: dict[str, Any] = {"sites": 4, "by": "patient", "skew": 0.3, "size": 64}
            part(f"pneumoniamnist {method} {seed}", pneumonia, given.cache, method, seed, **dealt)


def part(name: str, data: Path, cache: Path, method: str, seed: int, **settings: Any) -> None:
    """One federation, where it was not measured before."""
    path = RESULTS / "federate.json"
    done = json.loads(path.read_text())["result"] if path.is_file() else {}
    if name in done:
        return
    import medspectrum

    found = medspectrum.federate.simulate(
        data, out=cache / name.replace(" ", "_"), method=method, seed=seed, cache=cache / "cache", quiet=True,
        **settings,
    )  # fmt: skip
    keys = ("pooled", "federated", "difference", "largest_difference", "rounds", "bytes_sent", "cpu_seconds")
    alone = {
        n: {**own["score"], "cases": own["cases"], "classes": own["classes"]}
        for n, own in found["alone"].items()
    }
    row = {k: found[k] for k in keys} | {"alone": alone, "split": found["split"], "notes": found["notes"]}
    save("federate", {**done, name: {**row, "score": found["task"]["primary"], "settings": settings}})


def covid(data: Path, cache: Path) -> Path:
    """A table of PA and AP X-rays with the places they come from."""
    with (data / "covid_cxr" / "metadata.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    path = cache / "federate_covid.csv"
    with path.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("image", "label", "patient", "centre"))
        for r in rows:
            view = "AP" if r["view"].startswith("AP") else r["view"]
            place = "Hannover" if r["hannover"] == "True" else r["location"]
            writer.writerow((data / "covid_cxr" / "images" / r["image"], view, r["patientid"], place))
    return path


if __name__ == "__main__":
    main()

"""Where a benchmark was run, and its result kept under benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, Python and package versions."""
    from medspectrum.explore import machine as found

    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {**found(), "processor": model}


def save(name: str, result: Any) -> None:
    """Print a result and write it, with the machine and the day, under ``benchmarks/results``."""
    RESULTS.mkdir(exist_ok=True)
    whole = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "result": result,
    }
    text = json.dumps(whole, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)

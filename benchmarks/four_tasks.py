"""One look of each encoder, four tasks: classes, outlines, boxes and registration of the same blood cells.

    python benchmarks/four_tasks.py [DATA] [--minutes 20] [--out FOLDER]

DATA holds labels.csv, SITE/ID_image.png and SITE/ID_mask.png (MEDSPECTRUM_DATA/wbc_seg where not given): 300
blood cells with their type and an outline of nucleus and cytoplasm; boxes are drawn around them. Every
picture goes through each encoder before any task is tried; what is embedded after that is counted too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import medspectrum
from measurement import save
from medspectrum.engine.encoder import Encoder

METHODS = (
    "majority,ridge,mean_mask,dense_knn,mean_boxes,detector,unregistered,convex_adam,convex_adam_features"
)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    here = Path(os.environ.get("MEDSPECTRUM_DATA", "../shared/data"))
    ask.add_argument("data", nargs="?", type=Path, default=here / "wbc_seg")
    ask.add_argument("--minutes", type=float, default=20)
    ask.add_argument("--models", default="efficientnet-lite0,dinov2-s-derived")
    ask.add_argument("--out", type=Path, help="keep the exploration and its report there")
    given = ask.parse_args()
    passes: list[tuple[str, str, int]] = []
    own = Encoder.ensure

    def counted(encoder, images, progress=None, *, level="pooled"):
        if missing := encoder.missing(images, level=level):
            passes.append((encoder.card.name, level, missing))
        return own(encoder, images, progress, level=level)

    Encoder.ensure = counted
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = medspectrum.explore(
            given.data / "labels.csv",
            out=given.out or Path(folder) / "out",
            cache=Path(folder) / "cache",
            task="classify,segment,detect,register",
            image="{site}/{id:0>3}_image.png",
            mask="{site}/{id:0>3}_mask.png",
            label="wbc_class",
            centre="site",
            models=given.models,
            methods=METHODS,
            budgets="full",
            draws=1,
            budget_minutes=given.minutes,
            quiet=True,
        )
        total = time.perf_counter() - started
    save(
        "four_tasks",
        {
            "total_seconds": round(total, 1),
            "embedding": results["embedding"],
            "computed": [{"encoder": e, "level": level, "pictures": n} for e, level, n in passes],
            "recommended": {
                name: {"reason": task["reason"], "primary": task["primary"]}
                | {k: (task["trial"] or {}).get(k) for k in ("model", "method", "labels", "cpu_seconds")}
                | {"score": ((task["trial"] or {}).get("scores") or {}).get(task["primary"])}
                for name, task in results["tasks"].items()
            },
            "encoders": results["encoders"],
        },
    )


if __name__ == "__main__":
    main()

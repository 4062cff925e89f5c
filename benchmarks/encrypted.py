"""What an encrypted answer costs: seconds and bytes a case, and how far it is from the open head's score.

    python benchmarks/encrypted.py [--cases 50]

Rows and heads are drawn at random, of the widths of the encoders at hand and with 2, 5 and 20 classes:
neither seconds nor bytes depend on the values. Scores have a deviation of 3, as logits of a sure head have.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from measurement import save
from medspectrum.engine import ckks

WIDTHS = {"dinov2-s-derived": 768, "efficientnet-lite0": 2040}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--cases", type=int, default=50)
    given = ask.parse_args()
    begun = time.perf_counter()
    secret, public = ckks.new_keys()
    found: dict[str, dict] = {
        "keys": {"seconds": time.perf_counter() - begun, "secret": len(secret), "public": len(public)}
    }
    mine, theirs = ckks.opened_keys(secret, secret=True), ckks.opened_keys(public, secret=False)
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        for columns, classes in ((1, 2), (5, 5), (20, 20)):
            count = given.cases if columns == 1 else max(given.cases // columns, 2)
            rows = rng.normal(size=(count, width)) / width**0.5
            weights, intercepts = 3 * rng.normal(size=(width, columns)), rng.normal(size=columns)
            seconds = {"encrypt": 0.0, "answer": 0.0, "open": 0.0}
            sent, back, far = 0, 0, 0.0
            for row in rows:
                begun = time.perf_counter()
                asked = ckks.encrypt(mine, row)
                seconds["encrypt"] += time.perf_counter() - begun
                begun = time.perf_counter()
                answers = ckks.scores(theirs, asked, weights, intercepts)
                seconds["answer"] += time.perf_counter() - begun
                begun = time.perf_counter()
                opened = ckks.decrypt(mine, answers)
                seconds["open"] += time.perf_counter() - begun
                sent, back = sent + len(asked), back + sum(map(len, answers))
                far = max(far, float(np.abs(opened - (row @ weights + intercepts)).max()))
            found[f"{name}, {classes} classes"] = {
                "width": width,
                "cases": count,
                "seconds_per_case": {step: spent / count for step, spent in seconds.items()},
                "bytes_per_case": {"request": sent / count, "answer": back / count},
                "largest_difference": far,
            }
    save("encrypted", found)


if __name__ == "__main__":
    main()

"""The main job for things that touch: from pairs of pictures to a report, a predictor, maps and a table."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import medspectrum
from made_discs import write_discs
from medspectrum.formats import read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("instances")
    write_discs(place / "cells", 12)
    (place / "plan.toml").write_text(
        "[distance_unet]\nleast_steps = [40]\nmost_steps = [40]\nwidths = [[8, 16, 32]]\n"
    )
    results = medspectrum.explore(
        place / "cells",
        out=place / "out",
        cache=place / "cache",
        task="instances",
        models="efficientnet-lite0",
        methods="otsu,distance_unet",
        plan=place / "plan.toml",
        budgets="full",
        draws=1,
        size=64,
        quiet=True,
    )
    return place, results


def test_results_speak_the_words_of_the_contract(run):
    _, results = run
    assert results["task"] == {"name": "instances", "primary": "ap", "classes": ["object"]}
    by_name = {t["method"]: t for t in results["trials"]}
    assert set(by_name) == {"otsu", "distance_unet"}
    found = by_name["distance_unet"]["scores"]
    assert found["f1_50"]["value"] > 0.9
    assert found["ap"]["low"] <= found["ap"]["value"] <= found["ap"]["high"]
    assert by_name["otsu"]["level"] == "control"
    assert not [d for d in results["dropped"] if "failed" in d["reason"]]


def test_the_report_shows_things_beside_the_truth(run):
    text = (run[0] / "out" / "report.html").read_text()
    assert "left: the truth; right: the answer" in text
    assert "F1 at IoU 0.5" in text
    assert text.count("data:image/png;base64,") >= 3


def test_maps_are_written_beside_their_names_and_judged(run):
    place, results = run
    told = medspectrum.predict(
        place / "out" / "predictor",
        place / "cells" / "images",
        out=place / "maps",
        cache=place / "cache",
        quiet=True,
    )
    assert told["cases"] == 12
    with (place / "maps" / "instances.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    right = 0
    for seed in range(12):
        name = f"p{seed:03d}.png"
        found, true = (read(place / folder / name).array for folder in ("maps", "cells/labels"))
        assert found.shape == true.shape
        assert found.max() == len(np.unique(found)) - 1 == sum(r["file"] == name for r in rows)
        right += found.max() == true.max()
    assert right >= 9
    judged = medspectrum.evaluate(
        place / "out" / "predictor",
        place / "cells",
        out=place / "judged",
        cache=place / "cache",
        quiet=True,
    )
    assert judged["scores"]["f1_50"]["value"] > 0.9
    assert (place / "judged" / "predictions" / "p000.png").is_file()
    assert "left: the truth" in (place / "judged" / "report.html").read_text()
    assert results["recommended"]

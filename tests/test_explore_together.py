"""Several tasks in one exploration: each picture goes through each encoder once, for every task."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from made_outlines import plane
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.several import levels


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Cells, some of them twice as dark, with their outlines."""
    place = tmp_path_factory.mktemp("together")
    rows = []
    for seed in range(24):
        pixels, labels = plane(seed)
        kind = "dark" if seed % 2 else "bright"
        pixels = pixels // 2 if seed % 2 else pixels
        Pillow.fromarray(pixels.astype(np.uint8)).save(place / f"{seed}.png")
        Pillow.fromarray(labels).save(place / f"{seed}_outline.png")
        rows.append({"image": f"{seed}.png", "outline": f"{seed}_outline.png", "kind": kind, "patient": seed})
    with (place / "cells.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return place / "cells.csv"


SETTINGS = {
    "task": "classify,segment", "models": "timm:test_vit-random", "size": 64, "label": "kind",
    "mask": "outline", "methods": "ridge,majority,dense_probe,mean_mask", "budgets": "full", "draws": 1,
    "threads": 1, "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(table):
    seen: list[tuple[str, int]] = []
    own = Encoder.ensure

    def counted(encoder, images, progress=None, *, level="pooled"):
        seen.append((level, encoder.missing(images, level=level)))
        return own(encoder, images, progress, level=level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "ensure", counted)
        results = medspectrum.explore(
            table, out=table.parent / "out", cache=table.parent / "cache", **SETTINGS
        )
    return results, table.parent / "out", seen


def test_every_task_reads_the_same_pass(run):
    results, _, seen = run
    assert seen[0] == ("pooled+maps", 24)
    assert {missing for _, missing in seen[1:]} == {0}
    assert results["embedding"]["images"] == 24
    assert results["embedding"]["level"] == "pooled+maps"
    assert set(results["tasks"]) == {"classify", "segment"}
    row = next(r for r in results["encoders"] if r["model"] == "timm:test_vit-random")
    assert row["tasks"]["classify"]["method"] == "ridge"
    assert row["tasks"]["segment"]["method"] == "dense_probe"


def test_each_task_leaves_what_it_would_leave_alone(run, table):
    results, out, _ = run
    for task in ("classify", "segment"):
        own = json.loads((out / task / "results.json").read_text())
        assert own["task"]["name"] == task
        assert own["recommended"] == results["tasks"][task]["recommended"]
        assert (out / task / "report.html").is_file()
    alone = medspectrum.explore(
        table,
        out=table.parent / "alone",
        cache=table.parent / "cache",
        **{**SETTINGS, "task": "segment", "methods": "dense_probe,mean_mask"},
    )
    apart = {t["id"]: t["scores"] for t in alone["trials"]}
    together = {
        t["id"]: t["scores"] for t in json.loads((out / "segment/results.json").read_text())["trials"]
    }
    assert apart == together


def test_the_page_names_encoders_and_tasks(run):
    results, out, _ = run
    page = (out / "report.html").read_text()
    assert "timm:test_vit-random" in page
    assert 'href="segment/report.html"' in page
    best = results["encoders"][-1]["tasks"]["segment"]
    assert f"{best['score']['value']:.3f}" in page
    assert results["tasks"]["segment"]["trial"] is None  # random weights are never recommended
    assert results["tasks"]["segment"]["reason"] in page
    assert json.loads((out / "results.json").read_text())["tasks"].keys() == results["tasks"].keys()


def test_methods_must_serve_each_task(table):
    with pytest.raises(UserError, match="serves the task segment"):
        medspectrum.explore(table, out=table.parent / "none", **{**SETTINGS, "methods": "ridge"})


def test_levels_stand_with_maps_last():
    class Pooled:
        level = "pooled"

    class Maps:
        level = "maps"

    assert levels([Maps(), Pooled(), Maps()]) == "pooled+maps"
    assert levels([Maps()]) == "maps"

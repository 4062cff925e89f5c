"""The main job from end to end, on a small folder with real weights: results, predictor, report, restart."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import polars
import pytest

import medspectrum
from made_cases import PATTERN, QUICK, make_folder, words
from medspectrum.errors import UserError

DETAIL = ("per_class", "per_centre")
METHODS = "majority,knn,ridge,linear_probe"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("explore")


@pytest.fixture(scope="module")
def data(place):
    return make_folder(place / "data")


@pytest.fixture(scope="module")
def cache(place):
    return place / "cache"


@pytest.fixture(scope="module")
def results(place, data, cache):
    return medspectrum.explore(
        data,
        out=place / "out",
        cache=cache,
        methods=METHODS,
        budgets="1,5,full",
        draws=2,
        budget_minutes=0,
        **QUICK,
    )


def scores(results):
    return {t["id"]: t["scores"] for t in results["trials"]}


def test_results_keep_the_contract(place, results):
    assert json.loads((place / "out" / "results.json").read_text()) == results
    names = {"id", "model", "method", "budget", "draw", "labels", "trained_parameters", "cpu_seconds"}
    names |= {"wall_seconds", "peak_memory_mb", "stored_mb", "scores", "per_class", "per_centre"}
    for trial in results["trials"]:
        assert names <= set(trial)
        assert set(trial["scores"]["auc"]) == {"value", "low", "high"}
        assert trial["cpu_seconds"] == pytest.approx(sum(s["cpu_seconds"] for s in trial["effort"].values()))
    assert (
        len(results["trials"]) == (3 * 2 + 1) * 5
    )  # 3 methods on 2 models and majority, on 2 draws of 2 and full
    assert {t["id"] for t in results["trials"]} >= {results["recommended"], *results["front"]}
    assert results["recommended"] in results["front"]
    assert results["data"]["cases"] == 48
    assert results["data"]["patients"] == 24
    table = polars.read_parquet(place / "out" / "results.parquet")
    assert table.height == len(results["trials"])
    assert set(table["id"]) == {t["id"] for t in results["trials"]}
    page = (place / "out" / "report.html").read_text()
    assert results["reason"][:40] in page


def test_controls_and_effort_are_plausible(results):
    by = {(t["model"], t["method"]): t for t in results["trials"] if t["budget"] == "full"}
    assert by["none", "majority"]["scores"]["auc"]["value"] == pytest.approx(0.5)
    assert by["efficientnet-lite0", "linear_probe"]["scores"]["auc"]["value"] > 0.8
    assert by["efficientnet-lite0-random", "ridge"]["level"] == "control"
    assert by["efficientnet-lite0", "ridge"]["effort"]["embedding"]["cpu_seconds"] > 0
    recommended = next(t for t in results["trials"] if t["id"] == results["recommended"])
    assert recommended["level"] == "general"


def test_predict_and_evaluate_agree_with_the_run(place, data, cache, results):
    out = place / "predictions.csv"
    told = medspectrum.predict(
        place / "out" / "predictor", data, out=out, cache=cache, patient_pattern=PATTERN, quiet=True
    )
    rows = list(csv.DictReader(out.open()))
    assert told["cases"] == len(rows) == 48
    assert list(rows[0]) == ["case", "patient", "coarse", "fine", "prediction"]
    for row in rows:
        assert float(row["coarse"]) + float(row["fine"]) == pytest.approx(1, abs=2e-6)
    judged = medspectrum.evaluate(
        place / "out" / "predictor",
        data,
        out=place / "judged",
        cache=cache,
        patient_pattern=PATTERN,
        quiet=True,
    )
    assert judged["scores"]["auc"]["value"] > 0.8
    assert judged["per_class"]["fine"]["auc"]["low"] is not None
    assert (place / "judged" / "report.html").stat().st_size > 1000


def test_a_second_run_with_one_method_more_computes_only_that(place, data, cache, results):
    more = medspectrum.explore(
        data,
        out=place / "more",
        cache=cache,
        methods=METHODS + ",prototype",
        budgets="1,5,full",
        draws=2,
        budget_minutes=0,
        **QUICK,
    )
    before = {t["id"]: t for t in results["trials"]}
    after = {t["id"]: t for t in more["trials"]}
    assert {t["method"] for name, t in after.items() if name not in before} == {"prototype"}
    for name, trial in before.items():
        # Seconds too: nothing was measured again. What the front adds to its own trials may differ.
        assert {k: v for k, v in after[name].items() if k not in DETAIL} == {
            k: v for k, v in trial.items() if k not in DETAIL
        }
    assert more["seconds"]["embedding"] < 2


@pytest.mark.cluster
@pytest.mark.slow
def test_dask_gives_the_same_numbers(place, data, results):
    there = medspectrum.explore(
        data,
        out=place / "dask",
        cache=place / "dask-cache",
        methods=METHODS,
        budgets="1,5,full",
        draws=2,
        budget_minutes=0,
        workers=2,
        **QUICK,
    )
    assert scores(there) == scores(results)
    assert there["recommended"] == results["recommended"] or there["front"] != results["front"]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(place, data, results):
    settings = {**QUICK, "methods": METHODS, "budgets": "1,5,full", "draws": 2, "budget_minutes": 0}
    command = [sys.executable, "-m", "medspectrum", "explore", str(data), "--out", str(place / "killed")]
    command += ["--cache", str(place / "killed-cache"), *words(settings)]
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 14))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = json.loads((place / "killed" / "results.json").read_text())
    assert scores(after) == scores(results)


def test_bad_files_are_listed_and_the_run_goes_on(place, cache, tmp_path):
    folder = make_folder(tmp_path / "data", patients=16)
    (folder / "coarse" / "p90_0.png").write_bytes(b"")
    (folder / "fine" / "p91_0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    good = (folder / "fine" / "p01_0.png").read_bytes()
    (folder / "fine" / "p92_0.png").write_bytes(good[: len(good) // 2])
    found = medspectrum.explore(
        folder, out=tmp_path / "out", cache=cache, methods="ridge", budgets="full", budget_minutes=0, **QUICK
    )
    names = {row["source"].rsplit("/", 1)[-1] for row in found["left_out"]}
    assert names == {"p90_0.png", "p91_0.png", "p92_0.png"}
    rows = list(csv.DictReader((tmp_path / "out" / "left_out.csv").open()))
    assert len(rows) == 3
    assert all(row["reason"] for row in rows)


def test_exit_codes_and_one_sentence(place, cache, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "medspectrum", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    missing = run("explore", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert missing.returncode == 2
    assert "nowhere" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert run("explore").returncode == 2
    assert run("nonsense").returncode == 2


def test_an_altered_predictor_is_refused(place, data, cache, results, tmp_path):
    import shutil

    copy = tmp_path / "predictor"
    shutil.copytree(place / "out" / "predictor", copy)
    facts = copy / "predictor.json"
    facts.write_text(facts.read_text().replace("coarse", "course"))
    with pytest.raises(UserError, match=r"predictor\.json was altered"):
        medspectrum.predict(copy, data, out=tmp_path / "p.csv", cache=cache, quiet=True)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        medspectrum.predict(copy, data, out=tmp_path / "p.csv", cache=cache, quiet=True)


def test_a_time_limit_is_kept_and_what_was_dropped_is_told(place, data, cache, tmp_path):
    started = time.monotonic()
    found = medspectrum.explore(
        data,
        out=tmp_path / "out",
        cache=cache,
        methods="ridge,full,lora",
        budget_minutes=0.5,
        draws=1,
        **QUICK,
    )
    assert time.monotonic() - started < 90
    tried = {t["method"] for t in found["trials"]}
    assert "ridge" in tried
    assert all(d["reason"] for d in found["dropped"])
    assert {"full", "lora"} <= tried | {d["method"] for d in found["dropped"]}


def test_scores_are_finite_numbers(results):
    for trial in results["trials"]:
        value = trial["scores"]["accuracy"]["value"]
        assert np.isfinite(value)
        assert 0 <= value <= 1

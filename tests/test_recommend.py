"""The front and the recommendation follow validation scores, never test scores."""

from __future__ import annotations

from medspectrum.recommend import pareto_front, recommend, summarise


def record(name, cpu, val, *, test=0.5, labels=100, level="general", method="ridge", draw=0, budget="full"):
    def shown(value):
        return {"auc": {"value": value, "low": value - 0.02, "high": value + 0.02}}

    return {
        "id": name,
        "model": name,
        "method": method,
        "settings": {},
        "budget": budget,
        "draw": draw,
        "cpu_seconds": cpu,
        "labels": labels,
        "level": level,
        "trained_parameters": 10,
        "scores": shown(test),
        "selection": shown(val),
    }


def by_value(interval):
    def difference(a, b):
        value = a["selection"]["auc"]["value"] - b["selection"]["auc"]["value"]
        return value, value - interval, value + interval

    return difference


def test_the_front_holds_what_nothing_beats_and_no_control():
    records = [
        record("cheap", 1, 0.8),
        record("worse", 2, 0.7),
        record("dear", 9, 0.9),
        record("random", 0.5, 0.99, level="control"),
        record("scratch", 0.1, 0.99, method="scratch"),
    ]
    assert pareto_front(records, "auc") == ["cheap", "dear"]


def test_a_cheaper_one_that_is_not_shown_worse_is_taken():
    records = [record("cheap", 1, 0.895, test=0.1), record("dear", 40, 0.9, test=0.99)]
    name, reason = recommend(records, "auc", by_value(0.02))
    assert name == "cheap"
    assert "40 times the processor time" in reason
    assert "0.5 points" in reason


def test_a_dear_one_is_taken_where_its_gain_is_certain_or_large():
    certain = [record("cheap", 1, 0.895), record("dear", 40, 0.9)]
    assert recommend(certain, "auc", by_value(0.001))[0] == "dear"
    large = [record("cheap", 1, 0.8), record("dear", 40, 0.9)]
    name, reason = recommend(large, "auc", by_value(0.2))
    assert name == "dear"
    assert "gains 10.0 points" in reason


def test_near_perfection_a_point_is_too_much_to_lose():
    records = [record("cheap", 1, 0.982), record("dear", 40, 0.99)]
    assert recommend(records, "auc", by_value(0.02))[0] == "dear"


def test_the_test_score_decides_nothing():
    records = [record("a", 1, 0.8, test=0.99), record("b", 2, 0.9, test=0.1)]
    assert recommend(records, "auc", by_value(0.001))[0] == "b"


def test_only_the_largest_labelled_set_is_recommended_from():
    records = [record("few", 1, 0.99, labels=2, budget="1"), record("full", 2, 0.9)]
    assert recommend(records, "auc", by_value(0.001))[0] == "full"
    assert pareto_front(records, "auc") == ["full"]


def test_nothing_is_recommended_from_controls():
    name, reason = recommend([record("r", 1, 0.9, level="control")], "auc", by_value(0.1))
    assert name is None
    assert "nothing is recommended" in reason


def test_spread_over_draws_stands_apart_from_the_interval_over_patients():
    records = [record("m", 1, 0.8, test=t, draw=d) for d, t in enumerate((0.6, 0.7, 0.8))]
    row = summarise(records, "auc")[0]
    assert (row["spread_low"], row["spread_high"]) == (0.6, 0.8)
    assert row["draws"] == 3
    assert abs(row["low"] - 0.68) < 1e-9

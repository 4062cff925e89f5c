"""What to take: the Pareto front of effort and efficacy, and one trial with its reason in plain words.

Both are decided on validation scores alone. The test scores of what was chosen are told, never used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medspectrum.predictor import NO_MODEL

Record = Mapping[str, Any]
Difference = Callable[[Record, Record], tuple[float, float, float]]
MARGIN = 0.01
SHARE_OF_ERROR = 0.2


def chosen_on(record: Record, primary: str) -> float:
    """The validation score that decides; -inf where it is undefined."""
    value = record["selection"].get(primary, {}).get("value")
    return float("-inf") if value is None else float(value)


def is_candidate(record: Record) -> bool:
    """Controls (random weights, majority class, from scratch) are shown but never recommended."""
    return record["level"] != "control" and record["method"] not in ("majority", "scratch")


def on_the_most_labels(records: Sequence[Record], primary: str) -> list[Record]:
    """The candidates with a validation score that learned from the largest labelled set, cheap first.

    What fewer labels would do is another question, which the learning curves answer: the labels that
    are there are paid for, and leaving some out makes no predictor safer.
    """
    scored = [r for r in records if is_candidate(r) and chosen_on(r, primary) > float("-inf")]
    most = max((r["labels"] for r in scored), default=0)
    return sorted(
        (r for r in scored if r["labels"] == most),
        key=lambda r: (r["cpu_seconds"], -chosen_on(r, primary), r["id"]),
    )


def pareto_front(records: Sequence[Record], primary: str) -> list[str]:
    """Ids, cheap first, that no other candidate on the largest labelled set beats in both processor
    seconds and validation score.
    """
    front, best = [], float("-inf")
    for record in on_the_most_labels(records, primary):
        if chosen_on(record, primary) > best:
            best = chosen_on(record, primary)
            front.append(record["id"])
    return front


def recommend(records: Sequence[Record], primary: str, difference: Difference) -> tuple[str | None, str]:
    """The id to take and why.

    The best on validation is challenged by each cheaper one on the front, cheapest first: the first that
    is not shown to be worse (95 % interval of the paired difference over patients reaches zero) and loses
    less than one point, and less than a fifth of the best one's error, is taken instead.
    ``difference(a, b)`` gives a minus b in the primary score on validation, with its interval.
    """
    largest = on_the_most_labels(records, primary)
    if not largest:
        return None, "No trial with real weights finished, so nothing is recommended."
    on_front = set(pareto_front(records, primary))
    front = [r for r in largest if r["id"] in on_front]
    best = taken = front[-1]
    # One point of AUC is little at 0.80 and doubles the error at 0.99, so a fifth of the error bounds it too.
    margin = min(MARGIN, SHARE_OF_ERROR * (1 - chosen_on(best, primary)))
    for cheaper in front[:-1]:
        value, low, _ = difference(best, cheaper)
        if low <= 0 and value < margin:
            taken = cheaper
            break
    return taken["id"], _reason(taken, best, largest, primary, difference)


def _reason(
    taken: Record, best: Record, largest: Sequence[Record], primary: str, difference: Difference
) -> str:
    score = taken["scores"][primary]
    learned = f"with {taken['labels']} labelled cases" if taken["labels"] else "without a label"
    words = [
        f"{_name(taken)} {learned} reaches a test {_word(primary)} of "
        f"{_range(score)} for {_seconds(taken['cpu_seconds'])} of processor time and "
        f"{taken['trained_parameters']:,} trained parameters."
    ]
    if best is not taken:
        value, low, high = difference(best, taken)
        words.append(
            f"{_name(best)} scored highest on validation, but gains only {_points(value, low, high)} there "
            f"for {_times(best, taken)} the processor time; that gain is not distinguishable from none."
        )
    else:
        cheaper = [r for r in largest if r["cpu_seconds"] < taken["cpu_seconds"]]
        if cheaper:
            next_best = max(cheaper, key=lambda r: (chosen_on(r, primary), r["id"]))
            value, low, high = difference(taken, next_best)
            words.append(
                f"It gains {_points(value, low, high)} of {_word(primary)} on validation over "
                f"{_name(next_best)}, the best of the cheaper ones, for {_times(taken, next_best)} the "
                "processor time."
            )
        else:
            words.append("Nothing that was tried is cheaper and as good on validation.")
    return " ".join(words)


def _name(record: Record) -> str:
    method = record["method"].replace("_", " ")
    return method if record["model"] == NO_MODEL else f"{method} on {record['model']}"


def _word(primary: str) -> str:
    return {"auc": "AUC"}.get(primary, primary.replace("_", " "))


def _range(score: Mapping[str, float | None]) -> str:
    if score["value"] is None:
        return "an undefined value"
    shown = f"{score['value']:.3f}"
    return shown if score["low"] is None else f"{shown} [{score['low']:.3f}, {score['high']:.3f}]"


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _times(dear: Record, cheap: Record) -> str:
    ratio = dear["cpu_seconds"] / max(cheap["cpu_seconds"], 1e-9)
    if ratio < 1.05:
        return "about once"
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def summarise(records: Sequence[Record], primary: str) -> list[dict[str, Any]]:
    """One row per model, method, settings and budget: the spread over draws of the labelled set (10th to
    90th percentile, all draws where fewer than ten) apart from the mean interval over test patients.
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for r in records:
        groups[r["model"], r["method"], str(sorted(r["settings"].items())), r["budget"]].append(r)
    rows = []
    for (model, method, _, budget), own in groups.items():
        scores = [r["scores"][primary] for r in own if r["scores"][primary]["value"] is not None]
        values = [s["value"] for s in scores]
        ends = [(s["low"], s["high"]) for s in scores if s["low"] is not None]
        spread = (
            (None, None)
            if not values
            else (min(values), max(values))
            if len(values) < 10
            else tuple(map(float, np.percentile(values, [10, 90])))
        )
        rows.append(
            {
                "model": model,
                "method": method,
                "settings": dict(own[0]["settings"]),
                "budget": budget,
                "labels": round(float(np.mean([r["labels"] for r in own]))),
                "draws": len(own),
                "mean": float(np.mean(values)) if values else None,
                "spread_low": spread[0],
                "spread_high": spread[1],
                "low": float(np.mean([e[0] for e in ends])) if ends else None,
                "high": float(np.mean([e[1] for e in ends])) if ends else None,
                "level": own[0]["level"],
            }
        )
    return rows

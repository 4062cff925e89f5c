"""The report of how a predictor carries over: centres, shifts, groups, its probabilities, remedies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.report import gather, words
from medspectrum.report.figure import canvas, colour, svg
from medspectrum.report.page import render

SMALLEST = 0.0005  # difference that three decimals show
CHANCE = 0.05  # of random deals may have as large a gap, and it still counts as one


def write_generalisation(path: Path, results: dict[str, Any]) -> Path:
    """Write the page of ``generalise`` to ``path`` and return it. results: as in generalise.json."""
    primary = gather.primary_of(results)
    context = {
        "title": Path(str((results.get("data") or {}).get("path") or "data")).name,
        "results": results,
        "primary": primary,
        "name": gather.trial_name(results.get("predictor") or {}),
        "panels": shift_panels(results, primary),
        "matrix": remedy_matrix((results.get("remedies") or {}).get("rows") or ()),
        "curve": reliability_picture(results.get("calibration")),
        "covered": coverage_picture(results.get("coverage")),
        "shift_rows": shift_table(results.get("shifts") or ()),
        "sentence": sentence(results, primary),
    }
    store.write_bytes(Path(path), render("generalisation.html", context).encode())
    return Path(path)


def sentence(results: Mapping[str, Any], primary: str) -> str:
    """The finding in plain words: the worst shift, the worst centre, and the best remedy."""
    said = []
    found = [r for r in results.get("shifts") or () if words.number(r.get("drop")) is not None]
    if found:
        worst = max(found, key=lambda r: words.number(r["drop"]) or 0.0)
        drop = words.number(worst["drop"]) or 0.0
        if drop >= SMALLEST:
            said.append(
                f"It breaks most under {words.score_name(worst['shift'])}: {words.score_name(primary)} falls "
                f"by {drop:.3f} at severity {worst['severity']} of 5."
            )
        else:
            said.append("No acquisition shift that was tried costs it anything.")
    centre = (results.get("centres") or {}).get("worst")
    if centre and (words.number(centre["gap"]) or 0.0) >= SMALLEST:
        ends = words.bounds(centre["gap"])
        chance = (centre.get("by_chance") or {}).get("share")
        sure = ends is not None and ends[0] > 0 and (chance is None or chance < CHANCE)
        said.append(
            f"Its worst centre, {centre['name']}, lies {words.decimal(centre['gap'])} below all others"
            + (f" ({words.interval(centre['gap'])})." if sure else ", which may be chance.")
        )
    best = best_remedy((results.get("remedies") or {}).get("rows") or ())
    if best:
        said.append(
            f"Without new labels, {words.score_name(best['remedy'])} brings back "
            f"{words.percent(best['closed'])} of what {words.score_name(best['shift'])} costs."
        )
    return " ".join(said)


def best_remedy(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The remedy that surely gains and closes most of a gap."""
    sure = [
        r
        for r in rows
        if words.number(r.get("closed")) is not None
        and (ends := words.bounds(r.get("gain"))) is not None
        and ends[0] > 0
    ]
    return max(sure, key=lambda r: words.number(r["closed"]) or 0.0) if sure else None


def shift_panels(results: Mapping[str, Any], primary: str) -> list[tuple[str, str, str]]:
    """(shift, meaning, svg) per shift: the score over severities; all panels share their axes."""
    rows = [r for r in results.get("shifts") or () if words.number(r.get("score")) is not None]
    if not rows:
        return []
    clean = _clean(rows)
    values = [
        v
        for r in rows
        for v in (words.number(r["score"]), *(words.bounds(r["score"]) or ()))
        if v is not None
    ]
    low, high = min([*values, clean]), max([*values, clean])
    margin = 0.06 * max(high - low, 0.02)
    made = []
    for name in dict.fromkeys(r["shift"] for r in rows):
        own = sorted((r for r in rows if r["shift"] == name), key=lambda r: r["severity"])
        picture = _panel(name, own, clean, (low - margin, high + margin), primary)
        steps = ", ".join(f"{r['strength']:g}" for r in own)
        made.append((words.score_name(name), f"{own[0]['meaning']}: {steps} {own[0]['unit']}", picture))
    return made


def _clean(rows: Sequence[Mapping[str, Any]]) -> float:
    """The score without a shift: what is left and what was lost, together."""
    return (words.number(rows[0]["score"]) or 0.0) + (words.number(rows[0]["drop"]) or 0.0)


def _panel(
    name: str, rows: Sequence[Mapping[str, Any]], clean: float, limits: tuple[float, float], primary: str
) -> str:
    places = [r["severity"] for r in rows]
    scores = [words.number(r["score"]) or 0.0 for r in rows]
    ends = [words.bounds(r["score"]) for r in rows]
    titles = {}
    with canvas(310, 215) as figure:
        axes = figure.subplots()
        axes.axhline(clean, color=colour("faint"), linewidth=1.2, linestyle=(0, (4, 3)))
        known = [(x, *e) for x, e in zip(places, ends, strict=True) if e is not None]
        if known:
            at, lows, highs = zip(*known, strict=True)
            axes.fill_between(at, lows, highs, color=colour("series-2"), alpha=0.15, linewidth=0)
        axes.plot([0, *places], [clean, *scores], color=colour("series-2"), linewidth=2)
        for row, x, y in zip(rows, places, scores, strict=True):
            mark = f"{name}-{x}"
            axes.plot(
                [x],
                [y],
                "o",
                color=colour("series-2"),
                markersize=5.5,
                markeredgecolor=colour("card"),
                gid=mark,
            )
            titles[mark] = (
                f"{words.score_name(name)}, severity {x}: {row['strength']:g} {row['unit']}\n"
                f"{words.score_name(primary)} {y:.3f} ({words.interval(row['score']) or 'no interval'})\n"
                f"lost {words.decimal(row['drop'])} ({words.interval(row['drop']) or 'no interval'})"
            )
        axes.set_ylim(*limits)
        axes.set_xlim(-0.2, 5.3)
        axes.set_xticks([0, 1, 2, 3, 4, 5], ["as it is", "1", "2", "3", "4", "5"])
        axes.set_xlabel("severity")
        axes.set_ylabel(words.score_name(primary))
        label = f"{words.score_name(primary)} under {words.score_name(name)}"
        return svg(figure, name=f"shift-{name}", label=label, titles=titles)


def shift_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for the table below the panels: score, drop, coverage and how well the shift is noticed."""
    return [
        {
            **row,
            "covered": ((row.get("coverage") or {}).get("lac") or {}).get("coverage"),
            "abstained": ((row.get("coverage") or {}).get("lac") or {}).get("abstained"),
            "seen": (row.get("noticed") or {}).get("mahalanobis"),
        }
        for row in rows
    ]


def remedy_matrix(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shifts by remedies: what each gains, tinted where the interval of the gain leaves no doubt."""
    names = list(dict.fromkeys(str(r["remedy"]) for r in rows))
    by_shift: dict[str, dict[str, Any]] = {}
    gaps: dict[str, Any] = {}
    for row in rows:
        by_shift.setdefault(str(row["shift"]), {})[str(row["remedy"])] = cell(row)
        gaps.setdefault(str(row["shift"]), None)
        gaps[str(row["shift"])] = row.get("gap") or gaps[str(row["shift"])]
    without = {n: r["not_for"] for n in names for r in rows if r["remedy"] == n and r.get("not_for")}
    shown = [n for n in names if any(n in cells and cells[n]["value"] for cells in by_shift.values())]
    return {"remedies": shown, "rows": by_shift, "gaps": gaps, "not_for": without}


def cell(row: Mapping[str, Any]) -> dict[str, Any]:
    """A remedy's gain with its tint: good or bad where the interval lies on one side of 0."""
    gain = row.get("gain")
    ends = words.bounds(gain)
    tint = "faint" if ends is None else "good" if ends[0] > 0 else "bad" if ends[1] < 0 else "faint"
    value = words.number(gain)
    return {
        "value": "" if value is None else f"{value:+.3f}",
        "range": "" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}",
        "closed": None if tint != "good" else row.get("closed"),
        "tint": tint,
        "not_for": row.get("not_for"),
    }


def reliability_picture(calibration: Mapping[str, Any] | None) -> str:
    """Stated against observed certainty, of all cases and of each centre; '' where nothing is known."""
    if not calibration:
        return ""
    centres = list((calibration.get("per_centre") or {}).items())[:6]
    with canvas(430, 360) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=colour("faint"), linewidth=1, linestyle=(0, (4, 3)))
        for place, (name, own) in enumerate(centres):
            _curve(axes, own["curve"], f"series-{2 + place}", 1.4, name)
        _curve(axes, calibration["all"]["curve"], "accent", 2.4, "all cases")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("stated probability of the answer")
        axes.set_ylabel("share of right answers")
        if centres:
            axes.legend(frameon=False, fontsize=10.5, loc="upper left")
        return svg(figure, name="stated", label="Stated probability against the share of right answers")


def _curve(axes: Any, curve: Mapping[str, Sequence[float]], tint: str, width: float, label: str) -> None:
    axes.plot(
        curve["probability"],
        curve["frequency"],
        "o-",
        color=colour(tint),
        linewidth=width,
        markersize=width + 2.6,
        label=label if len(label) < 28 else f"{label[:26]}…",
    )


def coverage_picture(coverage: Mapping[str, Any] | None) -> str:
    """Coverage of all cases and of each centre against the promise, by both scores."""
    if not coverage or not coverage.get("all"):
        return ""
    rows = [("all cases", coverage["all"]), *(coverage.get("per_centre") or {}).items()][:14]
    titles = {}
    with canvas(430, 70 + 46 * len(rows)) as figure:
        figure.subplots_adjust(left=0.32)
        axes = figure.subplots()
        axes.axvline(coverage["promised"], color=colour("faint"), linewidth=1.2, linestyle=(0, (4, 3)))
        for place, (name, own) in enumerate(rows):
            for shift, kind, tint in ((-0.13, "lac", "series-1"), (0.13, "aps", "series-3")):
                found = (own.get(kind) or {}).get("coverage")
                value, ends = words.number(found), words.bounds(found)
                if value is None:
                    continue
                if ends:
                    axes.plot(ends, [place + shift] * 2, color=colour(tint), linewidth=1.6, alpha=0.6)
                mark = f"{kind}-{place}"
                axes.plot([value], [place + shift], "o", color=colour(tint), markersize=6.5, gid=mark)
                titles[mark] = (
                    f"{name}, {kind.upper()}: {value:.3f} ({words.interval(found) or 'no interval'})"
                )
        axes.set_yticks(range(len(rows)), [n if len(n) < 20 else f"{n[:18]}…" for n, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(right=1.01)
        axes.set_xlabel("share of patients whose set holds the truth")
        return svg(figure, name="covered", label="Coverage against the promise", titles=titles)

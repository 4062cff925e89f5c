"""Learning curves: the primary score against the number of labelled cases, a panel per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medspectrum.report import words
from medspectrum.report.figure import canvas, colour, svg
from medspectrum.report.gather import budget_order, in_order, model_of

Row = Mapping[str, Any]


def panels(
    summary: Sequence[Row], *, primary: str, looks: Mapping[str, tuple[str, Any]]
) -> list[tuple[str, str]]:
    """(model, svg) per model that was tried at two budgets or more; all panels share their axes.

    A method without a model (the majority class) is drawn into every panel.
    """
    rows = [r for r in summary if words.number(r.get("mean")) is not None and words.number(r.get("labels"))]
    if len({str(r.get("budget")) for r in rows}) < 2:
        return []
    models = in_order([model_of(r) for r in rows if model_of(r)])
    alone = [r for r in rows if not model_of(r)]
    limits = _limits(rows)
    ticks = {str(r.get("budget")): words.number(r.get("labels")) or 1.0 for r in rows}
    drawn = []
    for index, model in enumerate(models):
        own = [r for r in rows if model_of(r) == model]
        if len({str(r.get("budget")) for r in own}) < 2:
            continue
        picture = _panel(
            [*alone, *own], index, model, primary=primary, looks=looks, limits=limits, ticks=ticks
        )
        drawn.append((model, picture))
    return drawn


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Score axis that holds means, spreads and intervals of all panels."""
    keys = ("mean", "spread_low", "spread_high", "low", "high")
    values = [v for r in rows for key in keys if (v := words.number(r.get(key))) is not None]
    low, high = min(values), max(values)
    margin = 0.06 * max(high - low, 0.02)
    return low - margin, high + margin


def _panel(
    rows: Sequence[Row],
    index: int,
    model: str,
    *,
    primary: str,
    looks: Mapping[str, tuple[str, Any]],
    limits: tuple[float, float],
    ticks: Mapping[str, float],
) -> str:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    titles: dict[str, str] = {}
    methods = in_order([str(r.get("method")) for r in rows])
    with canvas(350, 270) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        for rank, method in enumerate(methods):
            line = sorted(
                (r for r in rows if str(r.get("method")) == method),
                key=lambda r: words.number(r["labels"]) or 0,
            )
            tint, style = looks.get(method, ("control", "-"))
            _draw_method(
                axes, line, rank, len(methods), tint=colour(tint), style=style, titles=titles, primary=primary
            )
        axes.set_ylim(*limits)
        shown = sorted(ticks.items(), key=lambda item: budget_order(item[0]))
        places = [place for _, place in shown]
        axes.set_xlim(min(places) / 1.25, max(places) * 1.25)
        axes.xaxis.set_major_locator(FixedLocator(_apart(places)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: words.count(x))
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.set_xlabel("labelled cases")
        axes.set_ylabel(words.score_name(primary))
        return svg(
            figure,
            name=f"curve-{index}",
            label=f"Learning curves of {model}: {words.score_name(primary)}",
            titles=titles,
        )


def _apart(places: Sequence[float], *, ratio: float = 1.7) -> list[float]:
    """Tick places of which none lies so near to the one before that their words would touch."""
    kept: list[float] = []
    for place in sorted(places):
        if kept and place < kept[-1] * ratio:
            kept.pop() if place == max(places) and len(kept) > 1 else None
            if place != max(places):
                continue
        kept.append(place)
    return kept


def _draw_method(
    axes: Any,
    line: Sequence[Row],
    rank: int,
    methods: int,
    *,
    tint: str,
    style: Any,
    titles: dict[str, str],
    primary: str,
) -> None:
    """Line of means; band: spread over draws; thin bar with caps: interval over test patients."""
    labels = [words.number(r["labels"]) or 1.0 for r in line]
    means = [words.number(r["mean"]) or 0.0 for r in line]
    banded = [
        (x, a, b)
        for x, r in zip(labels, line, strict=True)
        if (a := words.number(r.get("spread_low"))) is not None
        and (b := words.number(r.get("spread_high"))) is not None
    ]
    if banded:
        axes.fill_between(*zip(*banded, strict=True), color=tint, alpha=0.14, linewidth=0)
    axes.plot(labels, means, color=tint, linestyle=style, linewidth=1.9, zorder=3)
    shift = 1 + 0.05 * (rank - (methods - 1) / 2)
    for place, mean, row in zip(labels, means, line, strict=True):
        ends = words.bounds(row)
        if ends is not None:
            axes.plot(
                [place * shift] * 2, ends, color=tint, linewidth=1.1, marker="_", markersize=4.5, alpha=0.8
            )
        mark = f"p{rank}-{len(titles)}"
        titles[mark] = _tooltip(row, primary)
        axes.plot(
            [place],
            [mean],
            marker="o",
            markersize=5,
            color=tint,
            markeredgecolor=colour("card"),
            markeredgewidth=0.8,
            linestyle="none",
            zorder=4,
            gid=mark,
        )


def _tooltip(row: Row, primary: str) -> str:
    spread = words.interval({"low": row.get("spread_low"), "high": row.get("spread_high")})
    patients = words.interval(row)
    lines = [
        f"{row.get('method')}, budget {row.get('budget')} ({words.count(row.get('labels'))} labels)",
        f"{words.score_name(primary)} {words.decimal(row.get('mean'))}",
        f"draws: {words.count(row.get('draws'))}",
    ]
    lines += [f"spread over draws {spread}"] if spread else []
    lines += [f"95 % interval over patients {patients}"] if patients else []
    return "\n".join(lines)

"""Effort against efficacy: one dot per model, method and budget, with the front drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medspectrum.report import words
from medspectrum.report.figure import MARKERS, SERIES, STYLES, canvas, colour, svg
from medspectrum.report.gather import Group, budget_order, in_order


@dataclass(frozen=True, slots=True)
class Axis:
    """One kind of effort: its key in a trial, what the axis says, and how a value is written."""

    key: str
    tab: str
    label: str
    write: Any


AXES = (
    Axis("cpu_seconds", "CPU time", "CPU time for embedding, fitting and predicting", words.seconds),
    Axis("labels", "Labels", "labelled cases", words.count),
    Axis("trained_parameters", "Trained parameters", "trained parameters", words.count),
    Axis("stored_mb", "Storage", "megabytes to store", words.megabytes),
    Axis("ms_per_prediction", "Prediction time", "milliseconds per prediction", words.milliseconds),
)
TOOLTIP_LIMIT = 400
FINE_SECONDS = (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 36_000, 86_400)
ROUND_SECONDS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000)


def method_looks(methods: Sequence[str], controls: Mapping[str, bool]) -> dict[str, tuple[str, Any]]:
    """Colour name and line style of each method; methods that are controls are grey."""
    looks: dict[str, tuple[str, Any]] = {}
    taken = 0
    for index, method in enumerate(in_order(methods)):
        if controls.get(method):
            looks[method] = ("control", STYLES[index % len(STYLES)])
        else:
            looks[method] = (f"series-{taken % SERIES + 1}", STYLES[(taken // SERIES + taken) % len(STYLES)])
            taken += 1
    return looks


def model_marks(models: Sequence[str]) -> dict[str, str]:
    """Marker shape of each model; a random twin keeps its model's shape (and is drawn hollow)."""
    marks: dict[str, str] = {}
    for model in in_order([name.removesuffix("-random") for name in models if name]):
        marks[model] = MARKERS[len(marks) % len(MARKERS)]
    return {name: marks[name.removesuffix("-random")] for name in models if name}


def tooltip(group: Group, axis: Axis, primary: str) -> str:
    """What hovering over a dot says."""
    name = f"{group.method} on {group.model}" if group.model else group.method
    draws = f", mean of {len(group.trials)} draws" if len(group.trials) > 1 else ""
    lines = [
        name,
        f"{words.score_name(primary)} {words.decimal(group.score)}{draws}",
        f"budget {group.budget}, {words.count(group.middle('labels'))} labels",
        f"{axis.tab.lower()}: {axis.write(group.middle(axis.key))}",
    ]
    if group.recommended:
        lines.append("recommended")
    elif group.on_front:
        lines.append("on the front")
    return "\n".join(lines)


def pareto_svg(
    found: Sequence[Group],
    axis: Axis,
    *,
    primary: str,
    looks: Mapping[str, tuple[str, Any]],
    marks: Mapping[str, str],
    narrow: bool = False,
) -> str | None:
    """The plot for one kind of effort, or None where no trial has both numbers.

    The axis is logarithmic; an effort of nothing stands at the left edge. narrow: for a telephone.
    """
    shown = [
        (g, x)
        for g in found
        if (g.model or not g.control) and g.score is not None and (x := g.middle(axis.key)) is not None
    ]
    if not shown:
        return None
    sizes = _sizes(found)
    positive = [x for _, x in shown if x > 0]
    floor = min(positive) / 3 if positive else 0.1
    points = [(g, max(x, floor)) for g, x in shown]
    titles: dict[str, str] = {}
    size = (400, 430) if narrow else (1000, 440)
    with canvas(*size) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        _front_line(axes, points)
        for index, (group, x) in enumerate(points):
            mark = f"dot{index}"
            _dot(axes, group, x, size=sizes[group.budget], looks=looks, marks=marks, gid=mark)
            if len(points) <= TOOLTIP_LIMIT or group.on_front or group.recommended:
                titles[mark] = tooltip(group, axis, primary)
        _lines_without_model(axes, found, axis, titles, primary=primary)
        _label_recommended(axes, points, narrow=narrow)
        scores = [g.score for g in found if g.score is not None]
        _dress(axes, axis, points, scores, floor=floor, zero=any(x <= 0 for _, x in shown))
        axes.set_xlabel(axis.label if narrow else f"{axis.label} (log scale)")
        axes.set_ylabel(words.score_name(primary))
        return svg(
            figure,
            name=f"pareto-{axis.key}-{'narrow' if narrow else 'wide'}",
            label=f"{words.score_name(primary)} against {axis.label}",
            titles=titles,
        )


def _sizes(found: Sequence[Group]) -> dict[str, float]:
    """Marker size of each budget, growing with its rank."""
    budgets = sorted({g.budget for g in found}, key=budget_order)
    return {name: 5.5 + 4.0 * (rank + 1) / len(budgets) for rank, name in enumerate(budgets)}


def _lines_without_model(
    axes: Any, found: Sequence[Group], axis: Axis, titles: dict[str, str], *, primary: str
) -> None:
    """A level line for each control without a model, which costs next to nothing."""
    best: dict[str, Group] = {}
    for group in found:
        if not group.model and group.control and group.score is not None:
            known = best.get(group.method)
            if known is None or budget_order(group.budget) > budget_order(known.budget):
                best[group.method] = group
    for index, (method, group) in enumerate(best.items()):
        mark = f"level{index}"
        axes.axhline(group.score, color=colour("control"), linewidth=1.2, linestyle=(0, (1.5, 2.5)), gid=mark)
        axes.annotate(
            method[:32],
            (0, group.score),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            color=colour("faint"),
            fontsize=11,
        )
        titles[mark] = tooltip(group, axis, primary)


def _dot(axes: Any, group: Group, x: float, *, size: float, looks: Any, marks: Any, gid: str) -> None:
    tint = "control" if group.control else looks[group.method][0]
    hollow = group.control
    if group.spread is not None:
        axes.plot([x, x], group.spread, color=colour(tint), linewidth=1.2, alpha=0.45, zorder=2)
    strong = group.on_front or group.recommended
    if group.recommended:
        axes.plot(
            [x], [group.score], marker="o", markersize=21, color=colour("accent"), alpha=0.18, mew=0, zorder=2
        )
    axes.plot(
        [x],
        [group.score],
        linestyle="none",
        marker=marks.get(group.model, "o"),
        markersize=size + 1 if strong else size,
        markerfacecolor=colour("card") if hollow else colour(tint),
        markeredgecolor=colour("ink") if strong else colour(tint) if hollow else colour("card"),
        markeredgewidth=1.6 if strong else 1.3 if hollow else 0.8,
        alpha=1 if strong or hollow else 0.85,
        zorder=5 if strong else 3 if hollow else 4,
        gid=gid,
    )


def _front_line(axes: Any, points: Sequence[tuple[Group, float]]) -> None:
    """Through the members of the front that no cheaper member beats on this axis."""
    members = sorted(
        ((x, g.score) for g, x in points if g.on_front and g.score is not None), key=lambda p: (p[0], -p[1])
    )
    stairs: list[tuple[float, float]] = []
    for x, score in members:
        if not stairs or score > stairs[-1][1]:
            stairs.append((x, score))
    if len(stairs) > 1:
        xs, ys = zip(*stairs, strict=True)
        axes.step(xs, ys, where="post", color=colour("ink"), linewidth=1.3, alpha=0.55, zorder=1.5)


def _label_recommended(axes: Any, points: Sequence[tuple[Group, float]], *, narrow: bool) -> None:
    for group, x in points:
        if group.recommended:
            whole = f"{group.method} on {group.model}" if group.model else group.method
            text = "recommended" if narrow else whole
            left, right = (min(p for _, p in points), max(p for _, p in points))
            flip = right > left and x > (left * right) ** 0.5
            axes.annotate(
                text[:48],
                (x, group.score),
                xytext=(-13 if flip else 13, 9),
                textcoords="offset points",
                ha="right" if flip else "left",
                va="bottom",
                color=colour("accent"),
                weight="bold",
                fontsize=12,
                zorder=6,
            )


def _dress(axes: Any, axis: Axis, points: Any, scores: Sequence[float], *, floor: float, zero: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, ScalarFormatter

    low, high = min(x for _, x in points), max(x for _, x in points)
    if high <= low:
        low, high = low / 2, high * 2
    margin = (high / low) ** 0.06
    axes.set_xlim(low / margin, high * margin)
    few = high / low < 30
    if axis.key.endswith("_seconds") and not few:
        ticks = FINE_SECONDS if high / low < 300 and low > 0.5 else ROUND_SECONDS
        axes.xaxis.set_major_locator(FixedLocator([s for s in ticks if s >= low / margin]))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())

    def write(x: float, _: Any) -> str:
        return "0" if zero and x < floor * 1.01 else axis.write(x)

    axes.xaxis.set_major_formatter(FuncFormatter(write))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.grid(visible=True, which="major", axis="both")
    axes.grid(visible=False, which="minor")
    span = max(max(scores) - min(scores), 0.02)
    axes.set_ylim(min(scores) - 0.08 * span, max(scores) + 0.14 * span)

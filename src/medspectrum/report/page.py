"""The report of an exploration: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, store
from medspectrum.report import answers as seen
from medspectrum.report import boxes, curves, figure, gather, outlines, pareto, warps, words

TABLE_LIMIT = 1500
CLOSER_LOOKS = 5


def write(
    path: Path,
    results: dict[str, Any],
    *,
    predictions: Mapping[str, Mapping[str, Any]],
    thumbnails: Mapping[str, bytes],
) -> Path:
    """Write the report of an exploration to ``path`` and return it.

    results: as in results.json. predictions: by trial id, test cases only: ``case``, ``patient`` and
    ``centre`` (n,) strings, and for classes ``truth`` (n,) index into them and ``probabilities`` (n, k),
    for masks what ``outlines.examples`` takes, for boxes what ``boxes.examples`` takes and ``froc``; trials
    without an entry are shown without confusion, reliability and examples. thumbnails: PNG bytes by
    case id. The page makes no request: pictures, styles and plots lie inside it.
    """
    found = gather.groups(results)
    primary = gather.primary_of(results)
    recommended = gather.trial_by_id(results, results.get("recommended"))
    classes = [str(name) for name in (results.get("task") or {}).get("classes") or ()]
    looks = pareto.method_looks([g.method for g in found], _methods_that_are_controls(found))
    marks = pareto.model_marks([g.model for g in found])
    chosen = _chosen_trials(results, recommended)
    context = {
        "title": str((results.get("data") or {}).get("name") or "data"),
        "results": results,
        "data": results.get("data") or {},
        "primary": primary,
        "recommended": recommended,
        "recommended_group": next((g for g in found if g.recommended), None),
        "groups": found,
        "spectrum": gather.spectrum(results),
        "pareto": _pareto_tabs(found, primary, looks, marks),
        "legend": _legend(found, looks, marks),
        "curves": curves.panels(results.get("summary") or (), primary=primary, looks=looks),
        "curve_legend": [{"name": m, "tint": t, "dash": _dash(s)} for m, (t, s) in looks.items()],
        "table": _table(results, found, primary),
        "looks": [
            _closer_look(trial, predictions, classes, thumbnails if trial is chosen[0] else {})
            for trial in chosen
        ],
        "effort": _effort(found),
        "plan": plan_toml(results.get("settings") or {}),
        "explanations": _explanations(results, Path(path).parent),
    }
    store.write_bytes(Path(path), render("report.html", context).encode())
    return Path(path)


def _explanations(results: Mapping[str, Any], beside: Path) -> dict[str, Any] | None:
    """What the section draws, from overlays in a folder beside the report; None where there is no section."""
    given = results.get("explanations")
    if not given or not (given["cases"] or given["why"]):
        return None
    from medspectrum.report.explanations import explained

    return explained(given, beside / given["folder"], {})


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from a template; everything that is not drawn by the project is escaped.

    Its content policy admits the project's own script by its digest and nothing from outside.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medspectrum.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        decimal=words.decimal,
        interval=words.interval,
        seconds=words.seconds,
        milliseconds=words.milliseconds,
        megabytes=words.megabytes,
        count=words.count,
        percent=words.percent,
        score_name=words.score_name,
        plain=words.plain,
        facts_line=words.facts_line,
        number=words.number,
        bounds=words.bounds,
    )
    script = environment.get_template("script.html").render()
    return environment.get_template(template).render(
        version=__version__,
        glossary=words.GLOSSARIES.get(str(_task_name(context)), words.GLOSSARY),
        marker_paths=figure.MARKER_PATHS,
        columns_of=gather.columns_of,
        trial_name=gather.trial_name,
        model_of=gather.model_of,
        is_control=gather.is_control,
        light=figure.css_variables(dark=False),
        dark=figure.css_variables(dark=True),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **context,
    )


def _task_name(context: Mapping[str, Any]) -> str:
    return str(((context.get("results") or {}).get("task") or {}).get("name") or "")


def plan_toml(settings: Mapping[str, Any]) -> str:
    """The settings as a TOML plan; settings that were not given are left out.

    Methods' own settings become tables. JSON strings, numbers, truths and lists of them are written
    alike in TOML 1.0.
    """
    lines = [_toml_line(k, v) for k, v in settings.items() if v is not None and not isinstance(v, Mapping)]
    for method, own in (settings.get("method_settings") or {}).items():
        lines += ["", f"[{json.dumps(method, ensure_ascii=False)}]"]
        lines += [_toml_line(k, v) for k, v in own.items() if v is not None]
    return "\n".join(lines)


def _toml_line(key: str, value: Any) -> str:
    name = key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"


def _methods_that_are_controls(found: Sequence[gather.Group]) -> dict[str, bool]:
    """True for methods that are controls whatever the model."""
    return {g.method: g.method in gather.CONTROL_METHODS for g in found}


def _chosen_trials(results: Mapping[str, Any], recommended: gather.Trial | None) -> list[gather.Trial]:
    """The recommended trial, then the front from its dear end, as far as a reader looks."""
    found = [recommended] if recommended else []
    front = [t for name in results.get("front") or () if (t := gather.trial_by_id(results, name))]
    by_name: dict[str, gather.Trial] = {}
    for trial in [*found, *reversed(front)]:
        by_name.setdefault(look_name(trial), trial)
    return list(by_name.values())[: CLOSER_LOOKS + 1]


def look_name(trial: gather.Trial) -> str:
    """Method, model and budget: ``lora on dinov2_s, budget 5``."""
    budget = str(trial.get("budget"))
    return f"{gather.trial_name(trial)}, {budget if budget == 'full' else f'budget {budget}'}"


def _pareto_tabs(found: Any, primary: str, looks: Any, marks: Any) -> list[dict[str, Any]]:
    tabs = []
    for axis in pareto.AXES:
        wide = pareto.pareto_svg(found, axis, primary=primary, looks=looks, marks=marks)
        if wide is not None:
            narrow = pareto.pareto_svg(found, axis, primary=primary, looks=looks, marks=marks, narrow=True)
            tabs.append({"name": axis.tab, "wide": wide, "narrow": narrow})
    return tabs


def _legend(found: Sequence[gather.Group], looks: Any, marks: Any) -> dict[str, list[dict[str, Any]]]:
    control_models = {g.model for g in found if g.best.get("level") == "control"}
    return {
        "methods": [{"name": name, "tint": tint} for name, (tint, _) in looks.items()],
        "models": [
            {"name": name, "mark": mark, "hollow": name in control_models}
            for name, mark in marks.items()
            if name
        ],
    }


def _dash(style: Any) -> str:
    """A line style as an SVG dash array."""
    return "" if isinstance(style, str) else " ".join(str(part) for part in style[1])


def _table(results: Mapping[str, Any], found: Sequence[gather.Group], primary: str) -> dict[str, Any]:
    """One row per trial, or per group where there are too many trials for a page."""
    trials: list[gather.Trial] = list(results.get("trials") or ())
    grouped = len(trials) > TABLE_LIMIT
    rows = [g.best for g in found] if grouped else trials
    front = set(results.get("front") or ())
    scores = gather.in_order([key for trial in trials for key in trial.get("scores") or {}])
    known = [words.number(gather.primary_score(t, primary)) for t in rows]
    values: list[float] = [v for v in known if v is not None]
    for trial in rows:
        values += list(words.bounds(gather.primary_score(trial, primary)) or [])
    rank = [-1.0 if v is None else v for v in known]
    order = sorted(range(len(rows)), key=lambda i: (gather.is_control(rows[i]), -rank[i]))
    return {
        "rows": [
            {
                "trial": rows[i],
                "control": gather.is_control(rows[i]),
                "front": rows[i].get("id") in front,
                "recommended": results.get("recommended") is not None
                and rows[i].get("id") == results.get("recommended"),
                "budget_rank": gather.budget_order(rows[i].get("budget")),
            }
            for i in order
        ],
        "others": [key for key in scores if key != primary],
        "low": min(values, default=0.0),
        "high": max(values, default=1.0),
        "grouped": grouped,
        "private": any(t.get("epsilon") is not None for t in rows),
        "trials": len(trials),
    }


def _closer_look(
    trial: gather.Trial,
    predictions: Mapping[str, Any],
    classes: Sequence[str],
    thumbnails: Mapping[str, bytes],
) -> dict[str, Any]:
    """All that is shown of one trial's answers."""
    return {
        "trial": trial,
        "name": look_name(trial),
        **answers_context(
            predictions.get(trial["id"]), classes, thumbnails, name=f"reliability-{trial['id']}"
        ),
    }


def answers_context(
    given: Mapping[str, Any] | None,
    classes: Sequence[str],
    thumbnails: Mapping[str, bytes],
    *,
    name: str,
) -> dict[str, Any]:
    """Confusion, reliability and examples of one predictor's answers; None where there are none."""
    nothing = {
        "confusion": None,
        "reliability": None,
        "examples": None,
        "outlined": None,
        "boxed": None,
        "warped": None,
        "cases": 0,
    }
    if given and "registered" in given:
        return nothing | {
            "warped": {"rows": warps.examples(given, classes), "legend": outlines.legend(classes)},
            "cases": len(given["case"]),
        }
    if given and "label_maps" in given:
        return nothing | {
            "outlined": {
                "rows": outlines.examples(given, classes),
                "legend": [] if given.get("apart") else outlines.legend(classes),
                "apart": bool(given.get("apart")),
            },
            "cases": len(given["case"]),
        }
    if given and "found_boxes" in given:
        return nothing | {
            "boxed": {
                "rows": boxes.examples(given, classes),
                "legend": outlines.legend(classes),
                "froc": boxes.froc_svg(given["froc"], name=f"froc-{name}"),
            },
            "cases": len(given["case"]),
        }
    answers = seen.read_answers(given, classes)
    if answers is None:
        return nothing
    return nothing | {
        "confusion": seen.confusion_table(answers, classes),
        "reliability": seen.reliability_svg(answers, classes, name=name),
        "examples": seen.examples(answers, classes, thumbnails),
        "cases": len(answers.truth),
    }


def _effort(found: Sequence[gather.Group]) -> list[dict[str, Any]]:
    """Per group with effort: the medians over draws of its three parts, dearest first."""
    rows = []
    for group in found:
        efforts = [t["effort"] for t in group.trials if t.get("effort")]
        if not efforts:
            continue
        parts = {
            part: {
                unit: float(np.median(values)) if (values := _known(efforts, part, unit)) else None
                for unit in ("wall_seconds", "cpu_seconds")
            }
            for part in ("embedding", "fitting", "predicting")
        }
        cpu = sum(p["cpu_seconds"] or 0.0 for p in parts.values())
        rows.append({"group": group, "parts": parts, "cpu": cpu})
    rows.sort(key=lambda row: -row["cpu"])
    return rows


def _known(efforts: Sequence[Mapping[str, Any]], part: str, unit: str) -> list[float]:
    return [v for e in efforts if (v := words.number((e.get(part) or {}).get(unit))) is not None]

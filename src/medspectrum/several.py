"""Several tasks on the same cases: one plan each, one table and one page for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medspectrum import __version__, registry, store
from medspectrum.errors import UserError
from medspectrum.plan import Plan, methods_for

FORMAT = 1
ORDER = ("general", "modality", "organ-task", "control")


def plans(plan: Plan) -> list[Plan]:
    """The plan of each task, with the methods that serve it and an equal share of the time.

    Raises UserError where a task is none of the methods'.
    """
    made = []
    for task in plan.tasks:
        methods = tuple(m for m in plan.methods if m in methods_for(task))
        if plan.methods and not methods:
            raise UserError(
                f"none of the methods {', '.join(plan.methods)} serves the task {task}; "
                f"there are: {', '.join(methods_for(task))}"
            )
        made.append(
            replace(plan, task=task, methods=methods, budget_minutes=plan.budget_minutes / len(plan.tasks))
        )
    return made


def levels(tasks: Sequence[Any]) -> str:
    """What is read off the encoders for these tasks, as ``Encoder.ensure`` takes it; maps stand last."""
    wanted = {task.level for task in tasks}
    return "+".join(level for level in ("pooled", "tokens", "maps") if level in wanted)


def by_encoder(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per encoder, and per task, its best trial on validation; general ones first, controls last.

    Rows are {"model", "level", "tasks": {task: {"id", "method", "labels", "cpu_seconds", "score"}}} with the
    task's primary score on the test patients.
    """
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for task, found in results.items():
        primary = found["task"]["primary"]
        for trial in found["trials"]:
            if not registry.find("method", trial["method"]).facts.get("needs_model", True):
                continue
            held = best.get((trial["model"], task))
            if held is None or _chosen(trial, primary) > _chosen(held, primary):
                best[trial["model"], task] = trial
    rows: dict[str, dict[str, Any]] = {}
    for (model, task), trial in best.items():
        row = rows.setdefault(model, {"model": model, "level": trial["level"], "tasks": {}})
        told = {name: trial[name] for name in ("id", "method", "labels", "cpu_seconds")}
        row["tasks"][task] = told | {"score": trial["scores"].get(results[task]["task"]["primary"])}
    return sorted(rows.values(), key=lambda row: (ORDER.index(row["level"]), row["model"]))


def _chosen(trial: Mapping[str, Any], primary: str) -> tuple[float, int]:
    value = trial["selection"].get(primary, {}).get("value")
    return (float("-inf") if value is None else value), trial["labels"]


def write(
    out: Path, plan: Plan, data: Path, results: Mapping[str, dict[str, Any]], embedding: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``out/results.json`` and ``out/report.html``; each task's own lie in ``out/TASK``."""
    from medspectrum.report import write_together

    first = next(iter(results.values()))
    left_out = {(x["source"], x["reason"]): x for found in results.values() for x in found["left_out"]}
    joint = {
        "format": FORMAT,
        "version": __version__,
        "data": first["data"],
        "tasks": {
            name: {
                "primary": found["task"]["primary"],
                "classes": found["task"]["classes"],
                "recommended": found["recommended"],
                "reason": found["reason"],
                "trial": next((t for t in found["trials"] if t["id"] == found["recommended"]), None),
                "folder": name,
            }
            for name, found in results.items()
        },
        "encoders": by_encoder(results),
        "embedding": dict(embedding),
        "left_out": list(left_out.values()),
        "settings": plan.as_dict(),
        "machine": first["machine"],
        "repeat": plan.command(data, out),
        "report": str(out / "report.html"),
    }
    store.write_json(out / "results.json", joint)
    write_together(out / "report.html", joint)
    return joint

"""What a finished run leaves: its tables, the recommended predictor, the report, and what was left out."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry, store
from medspectrum.budgets import Split
from medspectrum.case import Case, LazyImage, Task
from medspectrum.errors import UserError
from medspectrum.leakage.findings import accepted, of_overlaps, standing, why_withheld
from medspectrum.predictor import NO_MODEL
from medspectrum.progress import Progress
from medspectrum.recommend import pareto_front, recommend, summarise
from medspectrum.reference import Reference, make_reference, write_reference
from medspectrum.runner import Runner
from medspectrum.saliency.at_hand import explain_some
from medspectrum.standing import at_hand
from medspectrum.trial import Trial, read_predictions

THUMBNAIL_SIDE = 192
REMEMBERED = ("classify", "segment")  # tasks whose predictors remember their training


def write_outcome(
    out: Path,
    results: dict[str, Any],
    records: Sequence[Mapping[str, Any]],
    split: Split,
    task: Task,
    runner: Runner,
    progress: Progress,
) -> dict[str, Any]:
    """Decide, then write everything under ``out``; gives the content of results.json."""
    step = progress.step("writing the report")
    results["trials"] = sorted(
        records, key=lambda r: (r["model"], r["method"], r["labels"], r["draw"], r["id"])
    )
    results["summary"] = summarise(results["trials"], task.primary)
    results["front"] = pareto_front(results["trials"], task.primary)
    results["recommended"], results["reason"] = recommend(
        results["trials"], task.primary, _paired(split, task, runner)
    )
    _withhold(results)
    shown = [name for name in dict.fromkeys([results["recommended"], *results["front"]]) if name]
    predictions = {
        name: for_report(read_predictions(runner.folder(name), task, "test"), split.test, task)
        for name in shown
    }
    results["trials"] = [
        {**t, **task.in_detail(read_predictions(runner.folder(t["id"]), task, "test"), split.test)}
        if t["id"] in shown
        else t
        for t in results["trials"]
    ]
    recommended = next((r for r in results["trials"] if r["id"] == results["recommended"]), None)
    if recommended is not None:
        remembered = _remembered(recommended, runner, split, task) if task.name in REMEMBERED else None
        _hand_over(out / "predictor", recommended, runner, remembered)
        if remembered is not None:
            results["generalisation"] = at_hand(
                task,
                remembered,
                runner.model(recommended["model"], recommended["size"]),
                read_predictions(runner.folder(recommended["id"]), task, "test"),
                split.test,
            )
        count = int(results["settings"].get("explained") or 0)
        if count:
            results["explanations"] = explain_some(
                out / "predictor",
                runner.model(recommended["model"], recommended["size"]),
                task,
                split.test,
                count,
                out / "explanations",
                seed=int(results["settings"].get("seed") or 0),
            )
    elif results["withheld"]:
        shutil.rmtree(out / "predictor", ignore_errors=True)  # of an earlier run, before the audit failed
    results = plain({**results, "report": str(out / "report.html")})
    store.write_json(out / "results.json", results)
    _write_parquet(out / "results.parquet", results["trials"])
    write_left_out(out / "left_out.csv", results["left_out"])
    from medspectrum.report import write

    write(out / "report.html", results, predictions=predictions, thumbnails=Thumbnails(split.test))
    step(1, 1)
    return results


def _withhold(results: dict[str, Any]) -> None:
    """Take the recommendation back where the audit of the data failed and the user has not accepted why."""
    results["withheld"] = None
    chosen = next((t for t in results["trials"] if t["id"] == results["recommended"]), None)
    audit = results["data"].get("audit")
    if chosen is None or audit is None:
        return
    entry = registry.entries("model").get(chosen["model"])
    overlaps = entry.facts["card"].overlaps if entry is not None else ()
    seen = of_overlaps(chosen["model"], overlaps, audit["known_as"])
    told = [f.as_row() for f in accepted(seen, results["settings"]["accept"])]
    findings = [*told, *audit["findings"]]
    names = standing(findings)
    results["data"] = {**results["data"], "audit": {**audit, "findings": findings, "passed": not names}}
    if names:
        results["withheld"] = {"id": chosen["id"], "because": names}
        results["recommended"], results["reason"] = None, why_withheld(names)


def _paired(split: Split, task: Task, runner: Runner) -> Any:
    """First minus second in the primary score on validation, with its interval over patients."""

    def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, float, float]:
        first, second = (read_predictions(runner.folder(r["id"]), task, "val") for r in (a, b))
        value, low, high = task.difference(first, second, split.val)
        # One patient in validation, or one class: nothing is known of the difference, so nothing is claimed.
        return value or 0.0, -1.0 if low is None else low, 1.0 if high is None else high

    return difference


def for_report(predictions: Any, cases: Sequence[Case], task: Task) -> dict[str, Any]:
    """Predictions as the report takes them."""
    return {
        "case": np.array([c.id for c in cases]),
        "patient": np.array([c.patient for c in cases]),
        "centre": np.array([c.centre or "" for c in cases]),
        **task.shown(predictions, cases),
    }


def _hand_over(folder: Path, record: Mapping[str, Any], runner: Runner, remembered: Reference | None) -> None:
    """Copy the recommended trial's predictor; fit it again where its state was too large to keep.

    What it remembers of its training (see ``reference``) goes with it.
    """
    kept = runner.folder(record["id"]) / "predictor"
    if not (kept / "checksums.json").is_file():
        (runner.folder(record["id"]) / "record.json").unlink(missing_ok=True)
        runner.run(
            Trial(
                record["model"],
                None if record["model"] == NO_MODEL else record["size"],
                record["method"],
                record["settings"],
                record["budget"],
                record["draw"],
                record["seed"],
            )
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(kept, partial)
    if remembered is not None:
        write_reference(partial, remembered)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _remembered(record: Mapping[str, Any], runner: Runner, split: Split, task: Task) -> Reference:
    answers = read_predictions(runner.folder(record["id"]), task, "val") if task.name == "classify" else None
    return make_reference(
        runner.budgets[record["budget"], record["draw"]].cases,
        task,
        runner.model(record["model"], record["size"]),
        validation=split.val,
        answers=answers,
    )


def plain(value: Any) -> Any:
    """JSON values of NumPy numbers, tuples and paths; NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _write_parquet(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """The table of trials: one column per plain value and per score with its interval."""
    import polars

    rows = []
    for trial in trials:
        row = {k: v for k, v in trial.items() if isinstance(v, str | int | float | bool) or v is None}
        row["settings"] = json.dumps(trial["settings"], sort_keys=True)
        for step, seconds in trial["effort"].items():
            row |= {f"{step}_{name}": value for name, value in seconds.items()}
        for kind in ("scores", "selection"):
            for score, values in trial[kind].items():
                row |= {f"{kind}_{score}_{name}": values[name] for name in ("value", "low", "high")}
        rows.append(row)
    with store.atomic(path) as partial:
        polars.DataFrame(rows, infer_schema_length=None).write_parquet(partial)


def write_left_out(path: Path, left_out: Sequence[Mapping[str, str]]) -> None:
    """left_out.csv: source and reason of each file or case that was not used; removed where there is none."""
    if not left_out:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, ["source", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(left_out)
    store.write_bytes(path, text.getvalue().encode())


class Thumbnails(Mapping[str, bytes]):
    """PNG pictures of cases by id, made when one is asked for."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._images = {c.id: next(iter(c.images.values())) for c in cases if c.images}

    def __getitem__(self, case: str) -> bytes:
        return thumbnail(self._images[case])

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def thumbnail(lazy: LazyImage) -> bytes:
    """A small PNG of an image; of a volume, its middle slice. Small images are enlarged without smoothing."""
    from PIL import Image as Pillow

    image = lazy.load()
    if image.array.size == 0:
        raise UserError(f"{lazy.source}: holds no pixels")
    pixels = image.array[:, image.array.shape[1] // 2].astype(np.float32)
    low, high = np.nanpercentile(pixels, [0.5, 99.5])
    if image.array.dtype == np.uint8:
        low, high = 0.0, 255.0
    grey = np.nan_to_num(np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    shown = Pillow.fromarray(grey[0]) if len(grey) != 3 else Pillow.fromarray(np.moveaxis(grey, 0, -1))
    scale = THUMBNAIL_SIDE / max(shown.size)
    side = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    shown = shown.resize(side, Pillow.Resampling.NEAREST if scale > 2 else Pillow.Resampling.LANCZOS)
    written = io.BytesIO()
    shown.save(written, "PNG", optimize=True)
    return written.getvalue()

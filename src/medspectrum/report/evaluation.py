"""The report of one predictor on labelled cases: the same parts as the main report, for one predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.report import gather
from medspectrum.report.page import answers_context, render


def write_evaluation(
    path: Path,
    results: dict[str, Any],
    *,
    predictions: Mapping[str, Any] | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report of an evaluation to ``path`` and return it.

    results: ``task`` (name, primary, classes), ``scores``, ``per_class``, ``per_centre`` as in a trial of
    results.json; and where known ``data`` (of describe, or its ``path``), ``predictor`` (``name``, or
    ``method`` and ``model``), ``left_out``, ``machine``, ``repeat``. predictions: as for the main
    report. thumbnails: PNG bytes by
    case id.
    """
    classes = [str(name) for name in (results.get("task") or {}).get("classes") or ()]
    data, predictor = results.get("data") or {}, results.get("predictor") or {}
    context = {
        "title": str(data.get("name") or data.get("path") or "data"),
        "results": results,
        "data": data,
        "primary": gather.primary_of(results),
        "look": {
            "trial": results,
            "name": str(predictor.get("name") or gather.trial_name(predictor) or "predictor"),
            **answers_context(predictions, classes, thumbnails or {}, name="reliability"),
        },
    }
    store.write_bytes(Path(path), render("evaluation.html", context).encode())
    return Path(path)

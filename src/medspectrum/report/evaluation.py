"""The report of one predictor on labelled cases: the same parts as the main report, for one predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.report import gather
from medspectrum.report.page import answers_context, render


def write_evaluation(
    path: Path,
    results: dict[str, Any],
    *,
    predictions: Mapping[str, np.ndarray] | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the report of an evaluation to ``path`` and return it.

    results: ``task`` (name, primary, classes), ``scores``, ``per_class``, ``per_centre`` as in a trial of
    results.json; and where known ``data`` (of describe), ``predictor`` (any facts), ``left_out``,
    ``machine``, ``repeat``. predictions: arrays ``case``, ``patient``, ``centre``, ``truth``,
    ``probabilities`` as for the main report. thumbnails: PNG bytes by case id.
    """
    classes = [str(name) for name in (results.get("task") or {}).get("classes") or ()]
    context = {
        "title": str((results.get("data") or {}).get("name") or "data"),
        "results": results,
        "data": results.get("data") or {},
        "primary": gather.primary_of(results),
        "look": {
            "trial": results,
            "name": str((results.get("predictor") or {}).get("name") or "predictor"),
            **answers_context(predictions, classes, thumbnails or {}, name="reliability"),
        },
    }
    store.write_bytes(Path(path), render("evaluation.html", context).encode())
    return Path(path)

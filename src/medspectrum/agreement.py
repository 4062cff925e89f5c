"""What several readers say of the same cases: how far they agree, and what they agree on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import label_order, majority
from medspectrum.errors import UserError
from medspectrum.metrics import agreement as measures
from medspectrum.metrics.bootstrap import resampled

MOST_READERS = 12
"""Readers of whom every pair is compared; of more, only alpha is told."""


def agreement(
    data: Path,
    *,
    case: str = "case",
    label: str = "label",
    reader: str = "reader",
    readers: str = "",
    patient: str | None = None,
    scale: str = "nominal",
    consensus: str = "staple",
    patient_pattern: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Say how far several readers agree on the same cases, and write what they agree on.

    data: table with a row per case and reader, or a row per case and a column per reader; or a folder with a
        folder of masks for each reader, named alike.
    case: column with the case.
    label: column with the label (a row per case and reader).
    reader: column with the reader (a row per case and reader).
    readers: columns of the readers, separated by commas (a row per case); instead of reader and label.
    patient: column with the patient; each case counts as a patient of its own where not given.
    scale: nominal for classes, ordinal for grades, interval for numbers.
    consensus: of masks: staple, which weighs readers by what they seem to find, or majority.
    patient_pattern: of masks: regular expression whose first group is the patient in a file's name.
    out: CSV file for case, patient, readers, majority, tie, and the share of readers for each label; of masks
        a folder for the consensus of each case.
    seed: where the resampling of patients starts.
    quiet: show no progress.

    Returns Krippendorff's alpha and Cohen's kappa of each two readers, of masks Dice of each two and of each
    against the others' consensus, with intervals over patients. Raises
    UserError where no case has two readers, a column is missing, or a label is no number on an
    interval scale.
    """
    if Path(data).is_dir():
        from medspectrum.reader_masks import overlap_of_readers

        return overlap_of_readers(
            Path(data), consensus=consensus, patient_pattern=patient_pattern, out=out, seed=seed, quiet=quiet
        )
    if scale not in measures.SCALES:
        raise UserError(f"--scale {scale}: there are {', '.join(measures.SCALES)}")
    given, of_patient = _read(Path(data), case, label, reader, readers, patient)
    labels = sorted({word for own in given.values() for word in own.values()}, key=label_order)
    names = sorted({name for own in given.values() for name in own}, key=label_order)
    shared = [name for name, own in given.items() if len(own) > 1]
    if not shared:
        raise UserError(f"{data}: none of its {len(given)} cases was labelled by two readers")
    levels = _levels(labels, scale, data)
    place = {word: i for i, word in enumerate(labels)}
    ratings = np.array([[place.get(given[c].get(n, ""), -1) for n in names] for c in shared])
    patients = [of_patient[c] for c in shared]
    pairs = measures.coincidences(ratings, len(labels))

    def overall(weights: np.ndarray | None) -> dict[str, Any]:
        found = measures.alpha(pairs, levels, scale, weights), measures.observed(pairs, weights)
        return dict(
            zip(("alpha", "equal"), found if weights is not None else (f[0] for f in found), strict=True)
        )

    result: dict[str, Any] = {
        "cases": len(given),
        "cases_of_several": len(shared),
        "patients": len(set(patients)),
        "readers": names,
        "labels": labels,
        "scale": scale,
        **resampled(overall, patients, seed=seed),
        "pairs": _pairs(ratings, names, patients, levels, scale, seed) if len(names) <= MOST_READERS else [],
        "unanimous": sum(len(set(given[c].values())) == 1 for c in shared),
        "ties": sum(majority(given[c].values())[1] for c in shared),
    }
    if out is not None:
        store.write_bytes(Path(out), _table(given, of_patient, labels).encode())
        result["out"] = str(out)
    return _plain(result)


Given = dict[str, dict[str, str]]
"""Case -> reader -> label."""


def _read(
    data: Path, case: str, label: str, reader: str, readers: str, patient: str | None
) -> tuple[Given, dict[str, str]]:
    from medspectrum.datasets._files import label_of
    from medspectrum.datasets.table import read_table

    rows = read_table(data)
    columns = [name.strip() for name in readers.split(",") if name.strip()]
    wanted = [case, *(columns or [reader, label]), *([patient] if patient else [])]
    lacking = [name for name in wanted if name not in rows.columns]
    if lacking:
        raise UserError(
            f"{data}: has no column {', '.join(map(repr, lacking))}; it has {', '.join(rows.columns)}"
        )
    given: Given = defaultdict(dict)
    of_patient: dict[str, str] = {}
    for values in rows.iter_rows(named=True):
        name = str(values[case] or "").strip()
        if not name:
            continue
        of_patient.setdefault(name, str(values[patient]) if patient else name)
        told = {c: values[c] for c in columns} if columns else {str(values[reader]): values[label]}
        for who, word in told.items():
            text = label_of(word)
            if text is not None and given[name].setdefault(who, text) != text:
                raise UserError(
                    f"{data}: reader {who} gives case {name} two labels ({given[name][who]} and {text})"
                )
    return {name: own for name, own in given.items() if own}, of_patient


def _levels(labels: Sequence[str], scale: str, data: Path) -> np.ndarray:
    if scale != "interval":
        return np.arange(len(labels), dtype=float)
    try:
        return np.array([float(word) for word in labels])
    except ValueError:
        raise UserError(
            f"{data}: labels such as {labels[-1]!r} are no numbers; give --scale ordinal or nominal"
        ) from None


def _pairs(
    ratings: np.ndarray,
    names: Sequence[str],
    patients: Sequence[str],
    levels: np.ndarray,
    scale: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Cohen's kappa of each two readers on the cases that both labelled."""
    found = []
    for one, two in combinations(range(len(names)), 2):
        both = np.flatnonzero((ratings[:, one] >= 0) & (ratings[:, two] >= 0))
        if not len(both):
            continue
        told = measures.joint(ratings[both, one], ratings[both, two], len(levels))

        def several(weights: np.ndarray | None, told: np.ndarray = told) -> Mapping[str, Any]:
            value = measures.kappa(told, levels, scale, weights)
            return {"kappa": value if weights is not None else value[0]}

        own = [patients[int(i)] for i in both]
        shown = resampled(several, own, seed=seed)
        found.append({"readers": [names[one], names[two]], "cases": len(both), **shown})
    return found


def _table(given: Given, of_patient: Mapping[str, str], labels: Sequence[str]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "patient", "readers", "majority", "tie", *(f"share_{word}" for word in labels)])
    for name, own in given.items():
        counts = Counter(own.values())
        word, tie = majority(own.values())
        shares = [f"{counts[one] / len(own):.4f}" for one in labels]
        writer.writerow([name, of_patient[name], len(own), word, int(tie), *shares])
    return text.getvalue()


def _plain(value: Any) -> Any:
    """JSON values; NaN becomes None."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value

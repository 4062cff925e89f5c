"""Masks of several readers of the same cases: how far they overlap, and what they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import formats, store
from medspectrum.case import LeftOut
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.formats.masks import write_mask
from medspectrum.image import Image
from medspectrum.metrics.bootstrap import resampled
from medspectrum.progress import progress_for

CONSENSUS = ("staple", "majority")
MARGIN = 8
"""Voxels around what any reader outlined within which STAPLE looks: far background would drown the rest."""
SAME_PLACE = 1e-3  # of affines, mm


def overlap_of_readers(
    data: Path,
    *,
    consensus: str = "staple",
    patient_pattern: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> dict[str, Any]:
    """The facts that ``agreement`` tells of a folder with a folder of masks for each reader.

    Files of one path below the readers' folders, without suffix, are of one case. Dice is of each label, over
    the cases where one of both readers outlined it; ``others`` holds a reader against the consensus of those
    left. ``out``: folder for a consensus of each case on its own grid, and ``agreement.json``. Raises
    UserError where no case has masks of two readers.
    """
    from medspectrum.datasets import _files

    if consensus not in CONSENSUS:
        raise UserError(f"--consensus {consensus}: there are {', '.join(CONSENSUS)}")
    if consensus == "staple":
        from medspectrum.engine.align.itk import simpleitk

        simpleitk()  # says so at once where it is not installed
    folders = _files.subfolders(Path(data))
    files = {
        f.name: {_files.relative(str(Path(p).parent / _files.stem(p)), f): p for p in _files.images(f)}
        for f in folders
    }
    readers = [name for name, own in files.items() if own]
    cases = sorted({case for own in files.values() for case in own})
    several = [case for case in cases if sum(case in files[r] for r in readers) > 1]
    if not several:
        raise UserError(
            f"{data}: no mask stands under the same name in the folders of two readers "
            f"(folders: {', '.join(readers) or 'none'})"
        )
    told: list[dict[str, Any]] = []
    left_out: list[LeftOut] = []
    with progress_for(quiet=quiet) as progress:
        step = progress.step("comparing masks")
        for number, case in enumerate(several):
            try:
                told.append(
                    _one(case, {r: files[r][case] for r in readers if case in files[r]}, consensus, out)
                )
            except UnreadableFile as error:
                left_out.append(LeftOut(error.source, error.reason))
            except UserError as error:
                left_out.append(LeftOut(case, str(error)))
            step(number + 1, len(several))
    if not told:
        raise UserError(f"none of the {len(several)} cases can be compared; {left_out[0].reason}")
    people, _ = _files.patients([row["case"] for row in told], patient_pattern)
    labels = sorted({label for row in told for pair in row["pairs"].values() for label in pair})
    result: dict[str, Any] = {
        "cases": len(cases),
        "cases_of_several": len(told),
        "patients": len(set(people)),
        "readers": readers,
        "labels": labels,
        "consensus": consensus,
        "dice": _dice([_joined(row["pairs"].values()) for row in told], labels, people, seed),
        "pairs": [
            {"readers": [a, b], **_dice([row["pairs"].get((a, b), {}) for row in told], labels, people, seed)}
            for a, b in combinations(readers, 2)
            if any((a, b) in row["pairs"] for row in told)
        ],
        "others": [
            {
                "reader": r,
                **_dice([row["others"].get(r, {}) for row in told], labels, people, seed),
                "detected": _mean(row["detected"].get(r) for row in told),
            }
            for r in readers
            if any(r in row["others"] for row in told)
        ],
        "left_out": [asdict(x) for x in left_out],
    }
    if out is not None:
        result["out"] = str(out)
        store.write_json(Path(out) / "agreement.json", result)
    return result


def _one(case: str, paths: Mapping[str, str], way: str, out: Path | None) -> dict[str, Any]:
    """Dice by pair of readers, of each reader against the others' consensus; the consensus is written."""
    images = {reader: formats.read(path) for reader, path in paths.items()}
    first = next(iter(images.values()))
    for reader, image in images.items():
        if image.size != first.size or np.abs(image.affine - first.affine).max() > SAME_PLACE:
            raise UserError(
                f"the masks of {next(iter(images))} and {reader} lie on different grids "
                f"({first.size} and {image.size}); resample them onto one"
            )
    masks = {reader: _labels(image, paths[reader]) for reader, image in images.items()}
    joined, detected = agreed(list(masks.values()), way)
    if out is not None:
        write_mask(joined, first, Path(out) / case)
    others: dict[str, dict[int, float]] = {}
    for reader, mask in masks.items():
        rest = [m for name, m in masks.items() if name != reader]
        others[reader] = dice(mask, agreed(rest, way)[0] if len(rest) > 1 else rest[0])
    return {
        "case": case,
        "pairs": {(a, b): dice(masks[a], masks[b]) for a, b in combinations(masks, 2)},
        "others": others,
        "detected": dict(zip(masks, detected, strict=True)),
    }


def _labels(image: Image, source: str) -> np.ndarray:
    """(Z, Y, X) uint16. Raises UnreadableFile where values are no whole numbers of that range."""
    values = image.array
    if len(values) > 1 and (values != values[:1]).any():
        raise UnreadableFile(source, f"has {len(values)} channels; a mask has one label for each voxel")
    whole = values[0].astype(np.int64)
    if (whole != values[0]).any() or whole.min(initial=0) < 0 or whole.max(initial=0) >= 1 << 16:
        raise UnreadableFile(source, "is no mask: its values are no whole numbers from 0 to 65535")
    return whole.astype(np.uint16)


def agreed(masks: Sequence[np.ndarray], way: str = "staple") -> tuple[np.ndarray, list[float | None]]:
    """What readers agree on, (Z, Y, X), and how much of it each found, from 0 to 1 (None of nothing).

    majority: the label that most readers give; where labels tie, the lowest, so nothing before something.
    staple: Warfield, Zou and Wells, IEEE TMI 23 (2004), each reader weighed by what it seems to find and to
    get wrong, by SimpleITK; of several labels its extension by Rohlfing. Raises UserError without SimpleITK.
    """
    stacked = np.stack(masks)
    labels = np.unique(stacked)
    votes = np.stack([(stacked == label).sum(axis=0) for label in labels])
    joined = labels[votes.argmax(axis=0)]
    if way == "staple" and labels[labels > 0].size:
        box = _around(np.any(stacked, axis=0))
        joined = np.zeros_like(stacked[0])
        joined[box] = _staple(stacked[(slice(None), *box)], votes[(slice(None), *box)], labels)
    there = joined > 0
    found = [float((m == joined)[there].mean()) if there.any() else None for m in masks]
    return joined, found


def _staple(stacked: np.ndarray, votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from medspectrum.engine.align.itk import simpleitk

    itk = simpleitk()
    several = labels[labels > 0]
    if (stacked[0] == stacked).all():
        return stacked[0]
    if len(several) == 1:
        given = [itk.GetImageFromArray((m > 0).astype(np.uint8)) for m in stacked]
        likely = itk.GetArrayFromImage(itk.STAPLE(given, 1.0, 1.0, 200))
        return np.where(likely > 0.5, several[0], 0).astype(stacked.dtype)
    places = np.searchsorted(labels, stacked).astype(np.uint8 if len(labels) < 255 else np.uint16)
    undecided = len(labels)
    made = itk.MultiLabelSTAPLE([itk.GetImageFromArray(m) for m in places], undecided)
    found = itk.GetArrayFromImage(made)
    found = np.where(found == undecided, votes.argmax(axis=0), found)
    return labels[found].astype(stacked.dtype)


def _around(any_of: Any) -> tuple[slice, ...]:
    found = []
    for axis, length in enumerate(any_of.shape):
        along = np.flatnonzero(any_of.any(axis=tuple(i for i in range(3) if i != axis)))
        found.append(slice(max(0, int(along[0]) - MARGIN), min(length, int(along[-1]) + 1 + MARGIN)))
    return tuple(found)


def dice(one: np.ndarray, two: np.ndarray) -> dict[int, float]:
    """Dice by label, of those that one of both holds."""
    found = {}
    for label in np.union1d(np.unique(one), np.unique(two)):
        if label:
            a, b = one == label, two == label
            found[int(label)] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return found


def _joined(pairs: Any) -> dict[int, float]:
    """Means over the pairs of a case, by label."""
    found: dict[int, list[float]] = {}
    for pair in pairs:
        for label, value in pair.items():
            found.setdefault(label, []).append(value)
    return {label: float(np.mean(values)) for label, values in found.items()}


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return round(float(np.mean(known)), 4) if known else None


def _dice(
    rows: Sequence[Mapping[int, float]], labels: Sequence[int], people: Sequence[str], seed: int
) -> dict[str, Any]:
    """``cases``, and ``dice`` and ``per_label``: means over cases with their intervals over patients."""
    told = [[row.get(label, np.nan) for label in labels] for row in rows]
    table = np.array(told, float).reshape(len(rows), len(labels))
    has = ~np.isnan(table)

    def means(weights: np.ndarray | None) -> dict[str, Any]:
        w = np.ones((len(table), 1)) if weights is None else weights
        with np.errstate(invalid="ignore"):
            each = (np.nan_to_num(table).T @ w) / (has.T.astype(float) @ w)  # (labels, R)
            counted = (~np.isnan(each)).sum(axis=0)
            whole = np.nansum(each, axis=0) / np.where(counted, counted, np.nan)
        named = {"dice": whole, **dict(zip(map(str, labels), each, strict=True))}
        return {k: (v if weights is not None else v[0]) for k, v in named.items()}

    shown = resampled(means, people, seed=seed)
    rounded = {k: {n: None if v is None else round(v, 4) for n, v in s.items()} for k, s in shown.items()}
    return {"cases": int(has.any(axis=1).sum()), "dice": rounded.pop("dice"), "per_label": rounded}

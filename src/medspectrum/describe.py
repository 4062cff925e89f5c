"""What is in a data set, before anything is trained on it: the first thing to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import duplicates
from medspectrum.case import BoxTarget, Case, CaseSet, ClassTarget, LeftOut, MaskTarget, label_order
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.leakage.find import find_leaks, pictures_again
from medspectrum.mask_scan import look_at_masks, mask_warnings
from medspectrum.scan import FactStore, Scan, scan

if TYPE_CHECKING:
    from rich.console import RenderableType

SPLITS = ("train", "val", "test")
LISTED = 1000
"""Entries of a list that are written out; counts are always complete."""


def describe(
    data: Path,
    *,
    out: Path | None = None,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    mask: str | None = None,
    cache: Path | None = None,
    workers: int = 2,
    quiet: bool = True,
) -> dict[str, Any]:
    """Say what is in a data set: cases, patients, classes, sizes, duplicates, leaks, unreadable files.

    data: folder, table, archive or image; see ``medspectrum datasets`` for what is understood.
    out: JSON file to write the facts to.
    layout: name of the data's layout where it is not recognised by itself.
    image: column(s) with image paths, separated by commas (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    mask: column with the path of the label map (tables).
    cache: folder where facts are kept, so that a second look decodes nothing.
    workers: processes that read files.
    quiet: show no progress.

    Returns the facts as JSON values. Raises UserError where there is no data set; unreadable files are
    listed, not raised.
    """
    from medspectrum import store
    from medspectrum.progress import progress_for

    columns = {
        "image": image,
        "label": label,
        "mask": mask,
        "patient": patient,
        "centre": centre,
        "split": split,
    }
    case_set = load(data, layout=layout, cache=cache, patient_pattern=patient_pattern, **columns)
    with progress_for(quiet=quiet) as progress:
        facts = describe_cases(
            case_set, cache=cache, workers=workers, progress=progress.step("reading cases")
        )
        lost = {one["case"] for one in facts["unreadable"] if "case" in one}
        facts["masks"] = look_at_masks(
            [c for c in case_set.cases if c.id not in lost],
            cache=cache,
            progress=progress.step("reading masks"),
        )
    facts["warnings"] += mask_warnings(facts["masks"])
    if out is not None:
        store.write_json(Path(out), facts)
    return facts


def describe_cases(
    case_set: CaseSet,
    *,
    cache: str | Path | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    seen: Scan | None = None,
) -> dict[str, Any]:
    """The same of cases that are loaded already, and were perhaps scanned already (``seen``)."""
    seen = seen or scan(case_set, cache=cache, workers=workers, progress=progress)
    cases = case_set.cases
    twice = _duplicates(cases, seen, cache)
    leaks = _leaks(cases, twice)
    pairs = find_leaks(cases, twice)
    unreadable = [
        {"source": source, "reason": reason, "case": cases[index].id}
        for index, source, reason in seen.unreadable
    ]
    unreadable += [{"source": one.source, "reason": one.reason} for one in case_set.left_out]
    facts: dict[str, Any] = {
        "name": case_set.name,
        "layout": case_set.layout,
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "images": sum(len(case.images) for case in cases),
        "roles": dict(Counter(role for case in cases for role in case.images)),
        "centres": _counted(case.centre for case in cases if case.centre is not None),
        "missing_centres": sum(case.centre is None for case in cases),
        "modalities": dict(seen.modalities.most_common()),
        "sizes": _sizes(seen),
        "channels": {str(number): count for number, count in sorted(seen.channels.items())},
        "values": dict(seen.kinds.most_common()),
        "spacing_mm": _spacing(seen),
        "targets": _counted(_target_word(case) for case in cases),
        "classes": _classes(cases),
        "missing_labels": sum(case.target is None for case in cases),
        "unreadable": unreadable,
        "constant": int(seen.constant.sum()),
        "duplicates": twice,
        "split": _split(cases),
        "split_leaks": leaks[:LISTED],
        "split_leak_count": len(leaks),
        "leaks": pairs[:LISTED],
        "leak_count": len(pairs),
        "decoded": seen.decoded,
    }
    facts["warnings"] = [*case_set.warnings, *_warnings(facts, seen)]
    return facts


def usable(case_set: CaseSet, facts: Mapping[str, Any]) -> tuple[CaseSet, list[LeftOut]]:
    """The cases whose images could all be read, and everything that was left out, with reasons."""
    bad = {one["case"] for one in facts["unreadable"] if "case" in one}
    left_out = [LeftOut(one["source"], one["reason"]) for one in facts["unreadable"]]
    kept = tuple(case for case in case_set.cases if case.id not in bad)
    if not kept:
        raise UserError(
            f"{case_set.name}: none of its {len(case_set.cases)} cases can be read ({left_out[0].reason})"
        )
    return CaseSet(case_set.name, case_set.layout, kept, tuple(left_out), case_set.warnings), left_out


def labelled(cases: Sequence[Case], name: str = "the data set") -> tuple[Case, ...]:
    """The cases that have a class. Raises UserError where nothing can be learned from them.

    That is: no label at all, one class only, or one patient only.
    """
    kept = tuple(case for case in cases if isinstance(case.target, ClassTarget))
    if not kept:
        kinds = ", ".join(sorted({_target_word(case) for case in cases})) or "nothing"
        raise UserError(
            f"{name}: no case has a class label (found: {kinds}); name the column with --label, "
            "or put the pictures into one folder per class"
        )
    classes = {case.target.label for case in kept if isinstance(case.target, ClassTarget)}
    if len(classes) < 2:
        raise UserError(
            f"{name}: all {len(kept)} labelled cases are of one class ({next(iter(classes))}); "
            "two are needed at least"
        )
    if len({case.patient for case in kept}) < 2:
        raise UserError(
            f"{name}: all {len(kept)} labelled cases are of one patient; patients are never parted, "
            "so there is nothing left to test on"
        )
    return kept


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _target_word(case: Case) -> str:
    if isinstance(case.target, ClassTarget):
        return "class"
    if isinstance(case.target, MaskTarget):
        return "mask"
    return "boxes" if isinstance(case.target, BoxTarget) else "none"


def _classes(cases: Sequence[Case]) -> dict[str, int]:
    """Cases per class; for boxes and named masks, cases in which the class is present or possible."""
    found: Counter[str] = Counter()
    for case in cases:
        if isinstance(case.target, ClassTarget):
            found[case.target.label] += 1
        elif isinstance(case.target, BoxTarget):
            found.update(set(case.target.labels))
        elif isinstance(case.target, MaskTarget):
            found.update(name for value, name in case.target.labels.items() if value)
    return {label: found[label] for label in sorted(found, key=label_order)}


def _sizes(seen: Scan) -> dict[str, Any]:
    """Sizes as [Z, Y, X]."""
    if not len(seen.size):
        return {}
    different, counts = np.unique(seen.size, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:5]
    return {
        "smallest": seen.size.min(axis=0).tolist(),
        "median": np.median(seen.size, axis=0).astype(int).tolist(),
        "largest": seen.size.max(axis=0).tolist(),
        "different": len(different),
        "common": {" x ".join(map(str, different[n].tolist())): int(counts[n]) for n in order},
    }


def _spacing(seen: Scan) -> dict[str, Any]:
    """Spacing as [Z, Y, X] in mm over the images that tell it."""
    known = seen.spacing_mm[np.isfinite(seen.spacing_mm).all(axis=1)]
    out: dict[str, Any] = {"known": len(known), "unknown": len(seen.spacing_mm) - len(known)}
    if len(known):
        for word, value in (
            ("smallest", known.min(0)),
            ("median", np.median(known, 0)),
            ("largest", known.max(0)),
        ):
            out[word] = [round(float(side), 4) for side in value]
    return out


def _split(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    out = {}
    for split in SPLITS:
        inside = [case for case in cases if case.split == split]
        if inside:
            out[split] = {"cases": len(inside), "patients": len({case.patient for case in inside})}
    return out


def _duplicates(cases: Sequence[Case], seen: Scan, cache: str | Path | None) -> dict[str, Any]:
    """Groups and pairs of case ids; images of one and the same case are not held against it."""
    groups = duplicates.exact(seen.pixels)
    rows = np.ones(len(seen.case), bool)
    for group in groups:
        rows[group[1:]] = False
    rows &= ~seen.constant
    with closing(FactStore(cache)) as known:
        pairs, complete = duplicates.near(
            lambda wanted: known.thumbs(seen.keys[wanted]), np.flatnonzero(rows), seen.size
        )
    exact = []
    for group in groups:
        ids = list(dict.fromkeys(cases[int(seen.case[row])].id for row in group))
        if len(ids) > 1 and not seen.constant[group[0]]:
            exact.append(ids)
    near = [(cases[int(seen.case[p.first])].id, cases[int(seen.case[p.second])].id, p.kind) for p in pairs]
    near = [(one, two, kind) for one, two, kind in near if one != two]
    closer, unsearched = pictures_again(cases, seen, [(one, two) for one, two, _ in near], cache)
    near += closer
    return {
        "exact": exact[:LISTED],
        "near": [[one, two] for one, two, _ in near[:LISTED]],
        "kinds": [kind for _, _, kind in near[:LISTED]],
        "exact_groups": len(exact),
        "near_pairs": len(near),
        "complete": complete and max(len(exact), len(near)) <= LISTED,
        "unsearched": unsearched,
    }


def _leaks(cases: Sequence[Case], twice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Patients, and pictures, that stand on more than one side of the given split."""
    by_patient: dict[str, Counter[str]] = defaultdict(Counter)
    where: dict[str, str] = {}
    for case in cases:
        if case.split is not None:
            by_patient[case.patient][case.split] += 1
            where[case.id] = case.split
    if not where:
        return []
    leaks: list[dict[str, Any]] = [
        {"kind": "patient", "patient": patient, "splits": {s: sides[s] for s in SPLITS if sides[s]}}
        for patient, sides in by_patient.items()
        if len(sides) > 1
    ]
    groups = [("exact", group) for group in twice["exact"]]
    groups += list(zip(twice["kinds"], twice["near"], strict=True))
    for kind, group in groups:
        sides = sorted({where[name] for name in group if name in where}, key=SPLITS.index)
        if len(sides) > 1:
            leaks.append({"kind": "duplicate", "how": kind, "cases": list(group), "splits": sides})
    return leaks


def _warnings(facts: Mapping[str, Any], seen: Scan) -> list[str]:
    """What a careful reader should know, a sentence each."""
    said = []
    classes, cases = facts["classes"], facts["cases"]
    if facts["targets"].get("none", 0) == cases:
        said.append("no case has a label")
    elif facts["missing_labels"]:
        said.append(
            f"{facts['missing_labels']} of {cases} cases have no label; they are not used for training"
        )
    if len(classes) == 1 and "class" in facts["targets"]:
        said.append(f"there is one class only ({next(iter(classes))}); two are needed to classify")
    if classes and "class" in facts["targets"]:
        few = [label for label, count in classes.items() if count < 5]
        if few:
            said.append(f"{len(few)} classes have fewer than 5 cases: {', '.join(few[:10])}")
        if len(classes) > 1 and max(classes.values()) > 10 * min(classes.values()):
            said.append("classes are unbalanced by more than 10 to 1")
    if facts["patients"] == 1 and cases > 1:
        said.append("all cases are of one patient, so nothing can be tested on another")
    if facts["unreadable"]:
        said.append(_some(len(facts["unreadable"]), "file cannot", "files cannot") + " be used")
    if facts["constant"]:
        said.append(_some(facts["constant"], "image shows", "images show") + " one value only (blank)")
    twice = facts["duplicates"]
    if twice["exact_groups"]:
        said.append(
            _some(twice["exact_groups"], "group of cases has", "groups of cases have") + " equal pixels"
        )
    if twice["near_pairs"]:
        kinds = Counter(twice["kinds"])
        words = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        pairs = _some(twice["near_pairs"], "pair of cases shows", "pairs of cases show")
        said.append(f"{pairs} nearly the same picture ({words})")
    if not twice["complete"]:
        said.append("so many images are alike that not all duplicates are listed")
    said += twice["unsearched"]
    by_kind = Counter(leak["kind"] for leak in facts["split_leaks"])
    crossing = {
        "patient": ("patient stands", "patients stand"),
        "duplicate": ("group of duplicates stands", "groups of duplicates stand"),
    }
    for kind, (one, more) in crossing.items():
        if by_kind[kind]:
            said.append(f"{_some(by_kind[kind], one, more)} in more than one part of the given split")
    for words, count in seen.remarks.most_common(10):
        first = seen.remarked_first.get(words, "")
        said.append(
            f"{first}: {words}" if count == 1 and first else f"{count} images: {words}; first {first}"
        )
    return said


def _some(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def describe_text(facts: Mapping[str, Any]) -> RenderableType:
    """The facts as tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table(box=None, show_header=False, pad_edge=False)
    head.add_column(style="bold")
    head.add_column()
    for word, value in _lines(facts):
        head.add_row(word, Text(value))
    parts: list[Any] = [head]
    if facts["classes"]:
        table = Table(title="Classes", title_justify="left")
        table.add_column("class")
        table.add_column("cases", justify="right")
        table.add_column("share", justify="right")
        for label, count in facts["classes"].items():
            table.add_row(Text(label), f"{count:,}", f"{count / facts['cases']:.1%}")
        parts.append(table)
    lost = [*facts["unreadable"], *facts.get("masks", {}).get("unfit", [])]
    if lost:
        table = Table(title="Left out", title_justify="left")
        table.add_column("file", overflow="fold")
        table.add_column("why", overflow="fold")
        for one in lost[:20]:
            table.add_row(Text(one["source"]), Text(one["reason"]))
        if len(lost) > 20:
            table.add_row(f"and {len(lost) - 20} more", "(all of them with --json)")
        parts.append(table)
    parts += [Text(f"! {words}", style="yellow") for words in facts["warnings"]]
    return Group(*parts)


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes, spacing, twice = facts["sizes"], facts["spacing_mm"], facts["duplicates"]
    lines = [
        ("data set", f"{facts['name']} (layout {facts['layout']})"),
        ("cases", f"{facts['cases']:,} with {facts['images']:,} images of {facts['patients']:,} patients"),
        ("centres", _few(facts["centres"]) or "not known"),
        ("modalities", _few(facts["modalities"])),
    ]
    if sizes:
        common = ", ".join(f"{size} ({count:,})" for size, count in sizes["common"].items())
        lines.append(("sizes (Z x Y x X)", f"{sizes['different']:,} different, most often {common}"))
    if "median" in spacing:
        middle = " x ".join(f"{side:g}" for side in spacing["median"])
        lines.append(("spacing", f"median {middle} mm; not known for {spacing['unknown']:,} images"))
    else:
        lines.append(("spacing", "not known"))
    lines.append(("labels", f"{_few(facts['targets'])}; missing {facts['missing_labels']:,}"))
    if facts["split"]:
        sides = (f"{side} {n['cases']:,} ({n['patients']:,} patients)" for side, n in facts["split"].items())
        lines.append(("given split", ", ".join(sides)))
        lines.append(
            ("leaks", f"{facts['split_leak_count']:,}" if facts["split_leak_count"] else "none found")
        )
    if facts["leak_count"]:
        kinds = Counter(leak["kind"] for leak in facts["leaks"])
        lines.append(
            ("pairs to keep together", ", ".join(f"{kind} {n:,}" for kind, n in kinds.most_common()))
        )
    lines.append(
        ("duplicates", f"{twice['exact_groups']:,} exact groups, {twice['near_pairs']:,} near pairs")
    )
    return lines


def _few(counts: Mapping[str, int], most: int = 6) -> str:
    shown = ", ".join(f"{word} {count:,}" for word, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")

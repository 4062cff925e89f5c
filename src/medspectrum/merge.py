"""Join data sets of one modality whose tables of labels differ into one that our layouts read again."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, formats, store
from medspectrum.case import Case, CaseSet, ClassTarget, LazyImage, LeftOut, MaskTarget
from medspectrum.datasets._mask_words import LABELS, UNSEEN, labels_words, unseen_words
from medspectrum.errors import UserError
from medspectrum.mapping import BACKGROUND, NameMap, Shown, class_of, kept_names, read_mapping, shown_by
from medspectrum.outcome import plain, write_left_out
from medspectrum.progress import Progress, progress_for


@dataclass(frozen=True)
class Joined:
    """A case of the new set. source: where it is from. shown: how its mask values become ours."""

    case: Case
    source: str
    label: str | None
    shown: Shown | None


def merge(
    data: list[Path],
    *,
    mapping: Path,
    out: Path,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Join data sets of one modality with different tables of labels into one, by a small mapping file.

    data: the data sets; each is called by the last part of its path, without suffix.
    mapping: TOML file: labels, classes, synonyms, parents, and a table for each source that needs one.
    out: folder for cases.csv, the masks with the joined values, and merge.json.
    cache: folder where facts are kept, so that a second look decodes nothing.
    quiet: show no progress.

    Returns the content of merge.json. Raises UserError where the sources are of different modalities or
    nothing remains of one.
    """
    from medspectrum.describe import describe_cases, usable

    places = [Path(d) for d in ([data] if isinstance(data, str | Path) else data)]
    names = [place.name.partition(".")[0] if place.is_file() else place.resolve().name for place in places]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two data sets are called {twice[0]!r}; rename the folder or file of one of them")
    if len(places) < 2:
        raise UserError(
            f"there is only {places[0] if places else 'nothing'} to join; give two data sets or more"
        )
    asked = read_mapping(Path(mapping), names)
    left_out: list[LeftOut] = []
    sets: dict[str, CaseSet] = {}
    facts: dict[str, dict[str, Any]] = {}
    with progress_for(quiet=quiet) as progress:
        for name, place in zip(names, places, strict=True):
            case_set = _loaded(place, asked.of(name).read, cache)
            facts[name] = describe_cases(case_set, cache=cache, progress=progress.step(f"reading {name}"))
            sets[name], lost = usable(case_set, facts[name])
            left_out += lost
        _one_modality(facts, asked.modality)
        joined, labels, lost, said = _joined(sets, asked)
        left_out += lost
        joined, same = _patients_of_twins(joined, cache, progress)
        rows = _write_cases(joined, Path(out), labels, left_out, progress)
    results = plain(
        {
            "format": 1,
            "version": __version__,
            "cases": len(rows),
            "patients": len({row["patient"] for row in rows}),
            "labels": {name: value + 1 for value, name in enumerate(labels)},
            "classes": dict(Counter(row["class"] for row in rows if row["class"])),
            "sources": _told(sets, facts, joined, labels),
            "same_picture": same,
            "warnings": said,
            "left_out": [asdict(x) for x in left_out],
            "data": str(Path(out) / "cases.csv"),
        }
    )
    store.write_json(Path(out) / "merge.json", results)
    write_left_out(Path(out) / "left_out.csv", results["left_out"])
    return results


def _loaded(place: Path, read: Mapping[str, str], cache: Path | None) -> CaseSet:
    from medspectrum.datasets import load

    settings = {name: value for name, value in read.items() if name != "layout"}
    return load(place, layout=read.get("layout"), cache=cache, **settings)


def _one_modality(facts: Mapping[str, Mapping[str, Any]], stated: str) -> None:
    """Raise UserError where two sources are known to be of different modalities."""
    known = {name: sorted(set(own["modalities"]) - {"unknown", ""}) for name, own in facts.items()}
    known = {name: found for name, found in known.items() if found}
    if not stated and len({tuple(found) for found in known.values()}) > 1:
        told = "; ".join(f"{name}: {', '.join(found)}" for name, found in known.items())
        raise UserError(
            f"the data sets are of different modalities ({told}); join those of one modality, or say in the "
            'mapping what all of them are, such as modality = "MR"'
        )
    flat = {name: own["sizes"]["largest"][0] == 1 for name, own in facts.items() if own["sizes"]}
    if len(set(flat.values())) > 1:
        volumes = ", ".join(name for name, is_flat in flat.items() if not is_flat)
        raise UserError(
            f"some data sets are pictures and some volumes ({volumes}); join those that are alike"
        )


def _joined(
    sets: Mapping[str, CaseSet], asked: NameMap
) -> tuple[list[Joined], tuple[str, ...], list[LeftOut], list[str]]:
    """All cases under our names: with the labels that are kept, what had to go, and what to know."""
    names = {source: _mask_names(own, asked, source) for source, own in sets.items()}
    labels = kept_names(
        asked.labels,
        (
            asked.ours(name, source)
            for source, own in names.items()
            for value, name in sorted(own.items())
            if value != 0 and name.lower() not in BACKGROUND
        ),
    )
    words = {source: own.labels() for source, own in sets.items()}
    classes = kept_names(asked.classes, (asked.ours(w, source) for source, own in words.items() for w in own))
    said: list[str] = []
    joined: list[Joined] = []
    left_out: list[LeftOut] = []
    splits = all(case.split is not None for own in sets.values() for case in own.cases)
    if not splits and any(case.split is not None for own in sets.values() for case in own.cases):
        said.append(
            "not all sources have a split, so none is kept; a new one is made by patient where needed"
        )
    for source, own in sets.items():
        shown = shown_by(asked, source, names[source], labels) if names[source] else None
        if shown is not None and shown.dropped:
            said.append(f"{source}: not kept from its masks: {', '.join(shown.dropped)}")
        for case in own.cases:
            target, mask = case.asked(ClassTarget), case.asked(MaskTarget)
            label = None if target is None else class_of(asked, source, target.label, classes)
            if mask is None and label is None:
                why = "has neither mask nor class" if target is None else (
                    f"its class {target.label!r} is none of {', '.join(classes)}, nor part of one"
                )  # fmt: skip
                left_out.append(LeftOut(f"{source}: {case.id}", why))
                continue
            patient = case.patient if asked.same_patients else f"{source}:{case.patient}"
            named = replace(
                case,
                id=f"{source}/{case.id}",
                patient=patient,
                centre=case.centre or source,
                split=case.split if splits else None,
            )
            joined.append(Joined(named, source, label, shown if mask is not None else None))
        if not any(one.source == source for one in joined):
            raise UserError(
                f"{source}: nothing remains of its {len(own.cases)} cases; check the mapping's names"
            )
    outlined = {n for one in joined if one.shown is not None for n in labels if n not in one.shown.unseen}
    nowhere = [name for name in labels if name not in outlined]
    if nowhere:
        raise UserError(f"no source outlines {', '.join(nowhere)}; correct labels or synonyms in the mapping")
    return joined, labels, left_out, said


def _mask_names(own: CaseSet, asked: NameMap, source: str) -> dict[int, str]:
    """What the values of a source's masks stand for. Raises UserError where that is not known."""
    masks = [m for case in own.cases if (m := case.asked(MaskTarget)) is not None]
    found = {value: name for mask in masks for value, name in mask.labels.items()}
    found |= asked.of(source).values
    if masks and not found:
        raise UserError(
            f"{source}: its masks' values have no names; give them in the mapping, such as "
            f'[source.{source}] with values = {{1 = "liver"}}'
        )
    return found


def _patients_of_twins(
    joined: list[Joined], cache: Path | None, progress: Progress
) -> tuple[list[Joined], list[dict[str, str]]]:
    """Cases of two sources that show the same picture become one patient's, so that no split parts them."""
    from medspectrum.describe import describe_cases

    whole = CaseSet("merged", "merge", tuple(one.case for one in joined))
    facts = describe_cases(whole, cache=cache, progress=progress.step("looking for the same pictures"))
    by_id = {one.case.id: one for one in joined}
    renamed: dict[str, str] = {}

    def now(patient: str) -> str:
        while patient in renamed:
            patient = renamed[patient]
        return patient

    same = []
    twice = facts["duplicates"]
    for group in (*twice["exact"], *twice["near"]):
        first = by_id[group[0]]
        for name in group[1:]:
            other = by_id[name]
            if other.source == first.source:
                continue
            same.append({"case": name, "as": group[0]})
            if now(other.case.patient) != now(first.case.patient):
                renamed[now(other.case.patient)] = now(first.case.patient)
    return [replace(one, case=replace(one.case, patient=now(one.case.patient))) for one in joined], same


def _write_cases(
    joined: Sequence[Joined], out: Path, labels: Sequence[str], left_out: list[LeftOut], progress: Progress
) -> list[dict[str, str]]:
    """cases.csv, and the masks with our values; gives the rows. What cannot be written is left out."""
    step = progress.step("writing masks")
    roles = list(dict.fromkeys(role for one in joined for role in one.case.images))
    named = labels_words({value + 1: name for value, name in enumerate(labels)})
    rows: list[dict[str, str]] = []
    for done, one in enumerate(joined, start=1):
        case = one.case
        try:
            images = {role: _file_of(image, out / "images") for role, image in case.images.items()}
            mask = case.asked(MaskTarget)
            masked = (
                "" if mask is None or one.shown is None else _write_mask(case, mask, one.shown, out / "masks")
            )
        except UserError as error:
            left_out.append(LeftOut(f"{one.source}: {case.id}", str(error)))
            continue
        rows.append(
            {
                "id": case.id,
                **{role: images.get(role, "") for role in roles},
                "class": one.label or "",
                "mask": masked,
                LABELS: named if masked else "",
                UNSEEN: unseen_words(one.shown.unseen) if masked and one.shown is not None else "",
                "patient": case.patient,
                "centre": case.centre or "",
                "split": case.split or "",
                "source": one.source,
            }
        )
        step(done, len(joined))
    if not rows:
        raise UserError(f"no case could be written ({left_out[-1].source}: {left_out[-1].reason})")
    used = [name for name in rows[0] if any(row[name] for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    store.write_bytes(out / "cases.csv", text.getvalue().encode())
    return rows


def _file_of(image: LazyImage, folder: Path) -> str:
    """The file or DICOM folder that the image is read from; written anew where it is no file of its own."""
    files = formats.paths_of(image)
    if len(files) == 1:
        return files[0]
    if len(files) > 1 and len({Path(f).parent for f in files}) == 1:
        here = Path(files[0]).parent
        if sum(f.is_file() for f in here.iterdir()) == len(files):
            return str(here)
    made = image.load()
    flat = not made.is_volume and not made.spacing_known and made.array.dtype == np.uint8
    path = folder / f"{image.key()}{'.png' if flat else '.nii.gz'}"
    if not path.exists():
        if flat:
            from PIL import Image as Pillow

            pixels = made.array[:, 0]
            picture = Pillow.fromarray(pixels[0] if len(pixels) != 3 else np.moveaxis(pixels, 0, -1))
            written = io.BytesIO()
            picture.save(written, "PNG")
            store.write_bytes(path, written.getvalue())
        else:
            from medspectrum.formats import nifti

            nifti.write(made, path)
    return str(path.resolve())


def _write_mask(case: Case, mask: MaskTarget, shown: Shown, folder: Path) -> str:
    """The mask with our values on its image's grid; a file that is there already is of the same content."""
    from medspectrum.formats.mask_grid import on_grid, read_mask
    from medspectrum.formats.masks import mask_suffix, write_mask
    from medspectrum.tasks.segment import grid_of

    lazy = grid_of(case)
    image = lazy.load()
    name = store.digest("merged mask", lazy.key(), mask.mask.key(), sorted(shown.table.items()))
    path = folder / f"{name}{mask_suffix(image)}"
    if not path.exists():
        values = on_grid(read_mask(mask.mask), image, mask.mask.source, lazy.source)
        found = np.unique(values)
        strange = [int(v) for v in found if int(v) not in shown.table]
        if strange:
            raise UserError(
                f"{mask.mask.source}: holds the value {strange[0]}, which has no name; name it in the "
                "mapping under values, or correct the mask"
            )
        ours = np.array([shown.table[int(v)] for v in found], np.uint8)[np.searchsorted(found, values)]
        write_mask(ours, image, path)
    return str(path.resolve())


def _told(
    sets: Mapping[str, CaseSet],
    facts: Mapping[str, Mapping[str, Any]],
    joined: Sequence[Joined],
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """What became of each source."""
    told = []
    for source, own in sets.items():
        mine = [one for one in joined if one.source == source]
        shown = next((one.shown for one in mine if one.shown is not None), None)
        told.append(
            {
                "name": source,
                "layout": own.layout,
                "modalities": facts[source]["modalities"],
                "cases": len(mine),
                "patients": len({one.case.patient for one in mine}),
                "classes": dict(Counter(one.label for one in mine if one.label)),
                "outlines": [] if shown is None else [n for n in labels if n not in shown.unseen],
                "unseen": {} if shown is None else dict(shown.unseen),
            }
        )
    return told

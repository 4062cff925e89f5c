"""All leaks of a data set: pairs of cases that a fair test may not part, each with what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.case import Case, LazyImage
from medspectrum.errors import UnreadableFile
from medspectrum.leakage import identity
from medspectrum.leakage.looks import grey
from medspectrum.leakage.pictures import MOST, MOST_FOR_CROPS, again
from medspectrum.scan import FactStore, Scan, thumbnail

VERSION = 5
MOST_PLANES = 4000
MOST_HEADERS = 20_000


def pictures_again(
    cases: Sequence[Case], seen: Scan, known: Sequence[tuple[str, str]], cache: str | Path | None
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Pairs of case ids with what was done to the picture, and what could not be searched.

    known: pairs of ids that ``duplicates`` has found already. The result is kept in the cache by the
    pictures' digests, so that a second look costs nothing.
    """
    rows = np.flatnonzero(~seen.constant)
    _, first = np.unique(seen.pixels[rows], axis=0, return_index=True)
    rows = np.sort(rows[first])
    if len(rows) > MOST:
        return [], [
            f"{len(rows):,} pictures are too many to look at closely (limit {MOST:,}): copies that were "
            "cropped, written on or strongly changed may be left"
        ]
    told = []
    if len(rows) > MOST_FOR_CROPS:
        told.append(f"parts of pictures were not searched among {len(rows):,} (limit {MOST_FOR_CROPS:,})")
    patients = np.unique([c.patient for c in cases], return_inverse=True)[1] if cases else np.zeros(0, int)
    owner = patients[seen.case[rows]]
    names = [cases[int(i)].id for i in seen.case]
    with closing(FactStore(cache)) as facts:
        name = store.digest(
            "again", VERSION, seen.keys[rows].tobytes(), np.ascontiguousarray(owner).tobytes(), sorted(known)
        )
        kept = facts.note(name)
        if kept is not None:
            return [(a, b, kind) for a, b, kind in json.loads(kept)], told
        thumbs = facts.thumbs(seen.keys[rows])
        found = _search(cases, seen, rows, thumbs, owner, known, names)
        facts.put_note(name, json.dumps(found))
    return found, told


def _search(
    cases: Sequence[Case],
    seen: Scan,
    rows: np.ndarray,
    thumbs: np.ndarray,
    owner: np.ndarray,
    known: Sequence[tuple[str, str]],
    names: Sequence[str],
) -> list[tuple[str, str, str]]:
    images = _images(cases, seen)
    planes = list(_planes(seen, rows, images)) if _mixed(seen, rows) else []
    volumes = [row for row, _, _ in planes]
    place = {int(row): i for i, row in enumerate(rows)}
    by_name: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_name.setdefault(names[int(row)], []).append(i)
    taken = [(a, b) for one, two in known for a in by_name.get(one, ()) for b in by_name.get(two, ())]
    count = len(rows)

    def load(i: int) -> np.ndarray:
        if i >= count:
            return planes[i - count][2]
        try:
            array = images[int(rows[i])].load().array
        except UnreadableFile:
            return np.zeros((64, 64), np.float32)
        return grey(array[:, array.shape[1] // 2])

    sides = seen.size[rows][:, 1:].min(axis=1)
    if planes:
        thumbs = np.concatenate([thumbs, np.stack([thumb for _, thumb, _ in planes])])
        owner = np.concatenate([owner, [owner[place[row]] for row in volumes]])
        sides = np.concatenate([sides, np.full(len(planes), sides.max())])
    volume = np.concatenate([(seen.size[rows][:, 0] > 1) & bool(planes), np.ones(len(planes), bool)])
    pairs = again(thumbs, load, owner, sides=sides, known=taken, planes=volume)
    out: dict[tuple[str, str], str] = {}
    for pair in pairs:
        one, two = (
            names[int(rows[i]) if i < count else volumes[i - count]] for i in (pair.first, pair.second)
        )
        cut = max(pair.first, pair.second) >= count
        if one != two:
            out.setdefault((one, two), "plane of a volume" if cut else pair.kind)
    return [(one, two, kind) for (one, two), kind in out.items()]


def _mixed(seen: Scan, rows: np.ndarray) -> bool:
    deep = seen.size[rows][:, 0] > 1
    return bool(deep.any() and not deep.all())


def _planes(
    seen: Scan, rows: np.ndarray, images: Sequence[LazyImage]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(row, thumb, grey) of every plane of the volumes, along all three axes, up to ``MOST_PLANES``."""
    left = MOST_PLANES
    for row in rows[seen.size[rows][:, 0] > 1]:
        array = images[int(row)].load().array
        for axis in (1, 2, 3):
            for place in range(array.shape[axis]):
                plane = np.take(array, place, axis=axis)
                thumb, constant = thumbnail(plane[:, None])
                if not constant and left > 0:
                    left -= 1
                    yield int(row), thumb, grey(plane).astype(np.float16)


def _images(cases: Sequence[Case], seen: Scan) -> list[LazyImage]:
    """The image of each row of the scan."""
    lost = {(index, source) for index, source, _ in seen.unreadable}
    return [
        image
        for index, case in enumerate(cases)
        for image in case.images.values()
        if (index, image.source) not in lost
    ]


def find_leaks(cases: Sequence[Case], twice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs that stand in different parts of the given split or, where none is given, of different patients.

    twice: ``duplicates`` of ``describe``. Each has ``kind`` (copy, mirrored, recompressed, same patient...),
    ``cases``, ``files``, ``splits``, ``patients``, ``centres`` and ``labels`` (two each), and ``crosses``:
    ``split`` where a given split parts them, else ``patients``: a split by patient may part them.
    """
    place = {case.id: index for index, case in enumerate(cases)}
    pairs: list[identity.Pair] = []
    for group in twice["exact"]:
        members = [place[name] for name in group]
        for k, other in enumerate(members[1:], 1):
            apart = (i for i in members[:k] if cases[i].split != cases[other].split)
            pairs.append((next(apart, members[0]), other, "copy"))
    for (one, two), kind in zip(twice["near"], twice["kinds"], strict=True):
        pairs.append((place[one], place[two], kind))
    pairs += identity.same_patient(cases)
    pairs += identity.alike_patients(cases)
    if len(cases) <= MOST_HEADERS:
        pairs += identity.same_dicom(cases)
    pairs += identity.same_name(cases)
    for group in identity.patients_in_names(cases).values():
        pairs += [(group[0], other, "same patient by file name") for other in group[1:]]
    given = any(case.split is not None for case in cases)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for a, b, kind in pairs:
        one, two = cases[a], cases[b]
        parted = one.split is not None and two.split is not None and one.split != two.split
        if not parted and (given or one.patient == two.patient):
            continue
        found.setdefault(
            (min(a, b), max(a, b)),
            {
                "kind": kind,
                "crosses": "split" if parted else "patients",
                "cases": [one.id, two.id],
                "files": [_file(one), _file(two)],
                "splits": [one.split, two.split],
                "patients": [one.patient, two.patient],
                "centres": [one.centre, two.centre],
                "labels": [_label(one), _label(two)],
            },
        )
    return list(found.values())


def _file(case: Case) -> str:
    return next((image.source for image in case.images.values()), "")


def _label(case: Case) -> str | None:
    from medspectrum.case import ClassTarget

    target = case.asked(ClassTarget)
    return target.label if target else None

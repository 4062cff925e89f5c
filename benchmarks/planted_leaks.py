"""Leaks planted by a script in public sets: how many of 50 kinds the audit finds, and false alarms.

    python benchmarks/planted_leaks.py --work /tmp/planted [--bases bccd,hippocampus,malaria,dsb2018]

Each kind is planted alone in 150 cases of a base set (every patient once, split 60/20/20). A kind is found
where the audit fails under the name that belongs to it and, for copies, lists two of the three planted pairs
at least. The thresholds were set while looking at covid_cxr, wbc_seg, pneumoniamnist, malaria and dsb2018;
bccd and hippocampus (middle planes) were not looked at. Sets without classes are given one: whether there
are platelets, more nuclei, or a larger anterior hippocampus than in the median picture. Finished parts are
kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from _hands import HANDS, framed, written
from measurement import save

CASES, PLANTED = 150, 3
DATA = Path(__import__("os").environ.get("MEDSPECTRUM_DATA", "../shared/data"))
LOOKED_AT = ("covid_cxr", "malaria", "dsb2018")


@dataclass(frozen=True)
class Made:
    """One case to write. name: of the file, without suffix. how: suffix, or ``dcm``."""

    picture: Image.Image
    label: str
    patient: str
    split: str
    name: str
    how: str = "png"
    columns: dict = field(default_factory=dict)


def base(name: str, seed: int = 0) -> tuple[list[Made], list[Image.Image]]:
    """150 cases of different patients with their classes, and 30 spare pictures."""
    pictures = list(
        {
            "malaria": malaria,
            "bccd": bccd,
            "dsb2018": dsb2018,
            "covid_cxr": covid,
            "hippocampus": hippocampus,
        }[name](seed)
    )
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(pictures))
    chosen, spare = order[:CASES], order[CASES : CASES + 30]
    splits = np.array(["train"] * 90 + ["val"] * 30 + ["test"] * 30)[rng.permutation(CASES)]
    splits = splits[: len(chosen)]
    cases = [
        Made(pictures[i][0], pictures[i][1], f"N{1000 + 7 * k}", str(split), f"case{k:03d}")
        for k, (i, split) in enumerate(zip(chosen, splits, strict=True))
    ]
    return cases, [pictures[i][0] for i in spare] or [cases[0].picture]


def malaria(seed: int):
    with np.load(DATA / "malaria_cells" / "malaria_cells_50x50.npz") as held:
        patients, labels, images = held["patient"], held["labels"], held["images"]
    rng = np.random.default_rng(seed)
    for patient in np.unique(patients):
        index = int(rng.choice(np.flatnonzero(patients == patient)))
        yield Image.fromarray(images[index]), f"class{labels[index]}"


def bccd(_: int):
    for path in sorted((DATA / "bccd" / "JPEGImages").glob("*.jpg")):
        text = (DATA / "bccd" / "Annotations" / f"{path.stem}.xml").read_text()
        small = Image.open(path).convert("RGB").resize((320, 240), Image.Resampling.LANCZOS)
        yield small, "platelets" if "Platelets" in text else "none"


def dsb2018(_: int):
    rows = [line.split(",") for line in (DATA / "dsb2018_nuclei" / "index.csv").read_text().splitlines()[1:]]
    rows = [r for r in rows if r[-1] == "fluorescence"]
    middle = np.median([int(r[6]) for r in rows])
    for row in rows:
        picture = Image.open(DATA / "dsb2018_nuclei" / "images" / f"{row[0]}.png").convert("L")
        yield picture, "many" if int(row[6]) > middle else "few"


def covid(_: int):
    import polars

    seen = set()
    for row in polars.read_csv(DATA / "covid_cxr" / "metadata.csv", infer_schema=False).iter_rows(named=True):
        if row["patientid"] not in seen and row["finding"] not in (None, "todo"):
            seen.add(row["patientid"])
            picture = Image.open(DATA / "covid_cxr" / "images" / row["image"]).convert("L")
            yield picture, "covid" if row["finding"].startswith("COVID") else "other"


def hippocampus(_: int):
    from medspectrum import formats

    found = []
    for path in sorted((DATA / "msd_hippocampus" / "images").glob("*.nii.gz")):
        array = formats.read(path).array[0].astype(np.float32)
        mask = formats.read(DATA / "msd_hippocampus" / "labels" / path.name).array
        plane = array[array.shape[0] // 2] / np.percentile(array, 99.5)
        found.append((Image.fromarray((plane.clip(0, 1) * 255).astype(np.uint8)), int((mask == 1).sum())))
    middle = np.median([volume for _, volume in found])
    for picture, volume in found:
        yield picture, "large" if volume > middle else "small"


def write(cases: list[Made], folder: Path, volumes: list | None = None) -> Path:
    """The cases as files below a folder, and their table."""
    names = sorted({key for c in cases for key in c.columns})
    lines = [",".join(["image", "label", "patient", "split", *names])]
    for c in cases:
        path = folder / c.split / f"{c.name}.{c.how}"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_one(c, path)
        lines.append(
            ",".join(
                [
                    f"{c.split}/{path.name}",
                    c.label,
                    c.patient,
                    c.split,
                    *(str(c.columns.get(n, "")) for n in names),
                ]
            )
        )
    for name, volume, label, split in volumes or ():
        import nibabel

        path = folder / split / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), path)
        lines.append(",".join([f"{split}/{path.name}", label, name.upper(), split, *("" for _ in names)]))
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def _write_one(c: Made, path: Path) -> None:
    if c.how == "dcm":
        from medspectrum.datasets.dicom import write_slice
        from medspectrum.store import digest

        grey = np.asarray(c.picture.convert("L")).astype(np.int16)
        number = int(digest(c.name)[:4], 16)  # two pictures never share an instance UID, a study they may
        write_slice(path, grey, patient=c.columns.get("made_of", c.patient), place=number, centre="A")
    elif c.how == "jpg":
        c.picture.save(path, quality=95)
    elif c.how == "u16.png":
        Image.fromarray(np.asarray(c.picture.convert("L")).astype(np.uint16) * 200).save(path)
    else:
        c.picture.save(path)


Plant = Callable[
    [list[Made], list[Image.Image], np.random.Generator], tuple[list[Made], list, set[str], list]
]
"""(cases, spare pictures, rng) -> cases, volumes, names of which one must fail, planted pairs of stems."""


def copies(hand, **changes) -> Plant:
    """Three training pictures come back among the test cases, of other patients, after a hand went over."""

    def plant(cases, _, rng):
        train = [c for c in cases if c.split == "train"]
        chosen = [train[i] for i in rng.permutation(len(train))[:PLANTED]]
        other = {"label": sorted({c.label for c in cases})} if changes.get("label") == "other" else {}
        added = []
        for k, c in enumerate(chosen):
            kept = {n: v for n, v in changes.items() if n not in ("label", "same_name", "uid", "columns")}
            label = next(x for x in other["label"] if x != c.label) if other else c.label
            name = c.name if changes.get("same_name") else f"again{k}"
            columns = dict(changes.get("columns", {}))
            if changes.get("uid"):
                columns["made_of"] = c.patient
            added.append(
                replace(
                    c, picture=hand(c.picture, rng), patient=f"Q{500 + 3 * k}", split="test", name=name,
                    label=label, columns={**c.columns, **columns}, **kept,
                )
            )  # fmt: skip
        pairs = [(c.name, a.name) for c, a in zip(chosen, added, strict=True)]
        return [*cases, *added], [], {"copies-across-parts"}, pairs

    return plant


def patients(spell: Callable[[str], str]) -> Plant:
    """Three training patients come with another picture among the test cases."""

    def plant(cases, spare, rng):
        train = [c for c in cases if c.split == "train"]
        chosen = [train[i] for i in rng.permutation(len(train))[:PLANTED]]
        added = [
            replace(
                c, picture=spare[k % len(spare)], patient=spell(c.patient), split="test", name=f"again{k}"
            )
            for k, c in enumerate(chosen)
        ]
        pairs = [(c.name, a.name) for c, a in zip(chosen, added, strict=True)]
        return [*cases, *added], [], {"patients-across-parts"}, pairs

    return plant


def study(cases, spare, rng):
    """All DICOM; three studies stand under two patients with different pictures."""
    made, _, names, pairs = patients(lambda p: f"Q{p[1:]}")(cases, spare, rng)
    origin = {b: a for a, b in pairs}
    uid = {c.name: c.patient for c in cases}
    return (
        [replace(c, how="dcm", columns={"made_of": uid[origin.get(c.name, c.name)]}) for c in made],
        [],
        names,
        pairs,
    )


def dicom_copy(cases, spare, rng):
    """All DICOM; three come back mirrored, under other patients and with new identifiers."""
    made, _, names, pairs = copies(HANDS["mirrored"])(cases, spare, rng)
    return [replace(c, how="dcm", columns={"made_of": c.name}) for c in made], [], names, pairs


def telling_name(cases, spare, rng):
    """Accession numbers as names; three come back among the test cases under the same name, cut small."""
    cut = lambda p, _: p.crop((p.width // 3, p.height // 3, p.width * 3 // 4, p.height * 3 // 4))  # noqa: E731
    named = [replace(c, name=f"ACC{20200000 + 137 * k}") for k, c in enumerate(cases)]
    return copies(cut, same_name=True)(named, spare, rng)


def plane(cases, spare, rng):
    """Six volumes in the training part; a plane of three of them stands as a picture in the test part."""
    side = (48, 48)
    volumes, added = [], []
    for k in range(6):
        stack = [np.asarray(p.convert("L").resize(side)) for p in spare[4 * k : 4 * k + 4]]
        volumes.append((f"vol{k}", np.stack(stack), cases[k].label, "train"))
        if k < PLANTED:
            picture = Image.fromarray(stack[2])
            added.append(Made(picture, cases[k].label, f"Q{k}00", "test", f"again{k}"))
    pairs = [(f"vol{k}", f"again{k}") for k in range(PLANTED)]
    return [*cases, *added], volumes, {"copies-across-parts"}, pairs


def by_class(name: str, change: Callable[[Made, bool, np.random.Generator], Made]) -> Plant:
    """Something differs between the first class and the others."""

    def plant(cases, _, rng):
        first = sorted({c.label for c in cases})[0]
        return [change(c, c.label == first, rng) for c in cases], [], {name}, []

    return plant


def column(name: str, values: Callable[[bool, np.random.Generator], object]):
    return lambda c, is_first, rng: replace(c, columns={**c.columns, name: values(is_first, rng)})


def drawn(hand: Callable[[Image.Image], Image.Image]):
    return lambda c, is_first, _: replace(c, picture=hand(c.picture)) if is_first else c


def disc(picture: Image.Image) -> Image.Image:
    made, r = picture.copy(), max(2, picture.height // 18)
    x, y = round(picture.width * 0.85), round(picture.height * 0.08)
    ImageDraw.Draw(made).ellipse((x, y, x + 2 * r, y + 2 * r), fill=255 if made.mode == "L" else (255,) * 3)
    return made


def windowed(picture: Image.Image) -> Image.Image:
    return picture.point(lambda v: 20 + v * 0.5)


def wider(picture: Image.Image) -> Image.Image:
    return picture.resize((round(picture.width * 1.25), picture.height), Image.Resampling.LANCZOS)


def smaller(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)


def _day(year: int, rng: np.random.Generator) -> str:
    return f"{year}-0{rng.integers(1, 10)}-1{rng.integers(10)}"


KINDS: dict[str, Plant] = {f"copy, {name}": copies(hand) for name, hand in HANDS.items()}
KINDS |= {
    "copy, as TIFF": copies(HANDS["renamed"], how="tif"),
    "copy, 16 bit": copies(HANDS["renamed"], how="u16.png"),
    "copy, other channels": copies(lambda p, _: p.convert("RGB" if p.mode == "L" else "L")),
    "copy, from another centre": copies(HANDS["JPEG 80"], columns={"hospital": "elsewhere"}),
    "copy, with another label": copies(HANDS["renamed"], label="other"),
    "patient on both sides": patients(lambda p: p),
    "patient, spelt differently": patients(lambda p: f"n-0{p[1:]}"),
    "accession number on both sides": telling_name,
    "DICOM study under two patients": study,
    "DICOM copy, mirrored, new identifiers": dicom_copy,
    "plane of a volume": plane,
    "centre is class": by_class("centre-is-class", column("hospital", lambda f, _: ("south", "north")[f])),
    "centre is class in 95 %": by_class(
        "centre-is-class", column("hospital", lambda f, rng: ("south", "north")[f ^ (rng.random() < 0.05)])
    ),
    "scanner is class": by_class(
        "scanner-is-class", column("scanner", lambda f, rng: ("CD", "AB")[f][rng.integers(2)])
    ),
    "date is class": by_class("date-is-class", column("date", lambda f, rng: _day(2018 if f else 2020, rng))),
    "size is class": by_class("size-is-class", drawn(smaller)),
    "shape is class": by_class("size-is-class", drawn(wider)),
    "frame is class": by_class("border-is-class", drawn(lambda p: framed(p, 0.06))),
    "writing is class": by_class("marks-is-class", drawn(written)),
    "marker is class": by_class("marks-is-class", drawn(disc)),
    "file format is class": by_class(
        "format-is-class", lambda c, f, _: replace(c, how="jpg" if f else "png")
    ),
    "grey window is class": by_class("intensity-is-class", drawn(windowed)),
}


def clean(name: str, cases: list[Made], rng: np.random.Generator) -> list[Made]:
    """Sets without a leak: as they are, or with facts and marks dealt without regard to the class."""
    if name == "as it is":
        return cases
    if name == "centres, scanners and dates at random":
        made = cases
        for key, values in {
            "hospital": ("north", "south", "east"),
            "scanner": "ABCD",
            "date": [f"20{y}-0{m}-11" for y in (18, 19, 20) for m in range(1, 10)],
        }.items():
            made = [replace(c, columns={**c.columns, key: values[rng.integers(len(values))]}) for c in made]
        return made
    if name == "frames, writing, sizes and formats at random":
        hands = (written, disc, smaller, wider, lambda p: framed(p, 0.06), windowed)
        made = [
            replace(c, picture=hands[rng.integers(6)](c.picture)) if rng.random() < 0.5 else c for c in cases
        ]
        return [replace(c, how="jpg") if rng.random() < 0.4 else c for c in made]
    hand = HANDS["JPEG 80"]  # a patient may come twice on one side
    return [
        *cases,
        *(replace(c, name=f"{c.name}b", picture=hand(c.picture, rng)) for c in cases[::3]),
    ]


CLEAN = (
    "as it is",
    "centres, scanners and dates at random",
    "frames, writing, sizes and formats at random",
    "some patients twice on one side",
)
REAL = {
    "pneumoniamnist": ("pneumoniamnist/pneumoniamnist.npz", {}),
    "malaria_cells": ("malaria_cells/malaria_cells_50x50.npz", {}),
    "wbc_seg": ("wbc_seg/labels.csv", {"image": "{site}/{id:0>3}_image.png"}),
    "covid_cxr": ("covid_cxr/metadata.csv", {}),
    "bccd": ("bccd", {}),
    "dsb2018_nuclei": ("dsb2018_nuclei", {}),
    "msd_hippocampus": ("msd_hippocampus", {}),
}


def judged(table: Path, names: set[str], pairs: list, cache: Path) -> dict:
    import medspectrum

    start = time.perf_counter()
    found = medspectrum.audit(table, cache=cache, quiet=True)
    listed = {frozenset(Path(f).name.partition(".")[0] for f in leak["files"]) for leak in found["leaks"]}
    hit = [frozenset(pair) in listed for pair in pairs]
    failing = [f["name"] for f in found["findings"] if f["fails"]]
    return {
        "found": bool(names & set(failing)) and sum(hit) >= min(2, len(hit)),
        "failing": failing,
        "pairs": f"{sum(hit)}/{len(hit)}" if hit else "",
        "others": len(found["leaks"]) - sum(hit),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bases", default="bccd,hippocampus,malaria,dsb2018")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many, to go on later")
    given = parser.parse_args()
    begun, done = time.monotonic(), {}
    ledger = given.work / "ledger.json"
    if ledger.is_file():
        done = json.loads(ledger.read_text())

    def once(key: str, run: Callable[[], dict]) -> None:
        if key in done or time.monotonic() - begun > given.seconds:
            return
        done[key] = run()
        given.work.mkdir(parents=True, exist_ok=True)
        ledger.write_text(json.dumps(done, indent=1))
        print(key, done[key], flush=True)

    for name in given.bases.split(","):
        cases, spare = base(name)

        def planted(kind: str, cases=cases, spare=spare) -> dict:
            place = given.work / "set"
            shutil.rmtree(place, ignore_errors=True)
            rng = np.random.default_rng([7, list(KINDS).index(kind)])
            made, volumes, names, pairs = KINDS[kind](cases, spare, rng)
            return judged(write(made, place, volumes), names, pairs, given.work / "cache")

        def without(kind: str, cases=cases) -> dict:
            place = given.work / "set"
            shutil.rmtree(place, ignore_errors=True)
            made = clean(kind, cases, np.random.default_rng([8, CLEAN.index(kind)]))
            return judged(write(made, place), set(), [], given.work / "cache")

        for kind in CLEAN:
            once(f"clean/{name}/{kind}", lambda kind=kind: without(kind))
        for kind in KINDS:
            once(f"planted/{name}/{kind}", lambda kind=kind: planted(kind))
    for name, (path, columns) in REAL.items():
        once(
            f"real/{name}",
            lambda path=path, columns=columns: real(DATA / path, columns, given.work / "cache"),
        )
    wanted = len(given.bases.split(",")) * (len(KINDS) + len(CLEAN)) + len(REAL)
    if len(done) >= wanted:
        save("planted_leaks", summary(done))


def real(path: Path, columns: dict, cache: Path) -> dict:
    import medspectrum

    start = time.perf_counter()
    found = medspectrum.audit(path, cache=cache, quiet=True, **columns)
    return {
        "findings": [{k: f[k] for k in ("name", "fails", "sentence", "pairs")} for f in found["findings"]],
        "seconds": round(time.perf_counter() - start, 1),
    }


def summary(done: dict) -> dict:
    """Found of 50 by base, false alarms by clean set, and what is said of whole public sets."""
    bases = list(dict.fromkeys(k.split("/")[1] for k in done if k.startswith("planted/")))
    return {
        "kinds": len(KINDS),
        "found": {
            b: sum(v["found"] for k, v in done.items() if k.startswith(f"planted/{b}/")) for b in bases
        },
        "thresholds_set_on": [b for b in bases if b in LOOKED_AT],
        "missed": {
            b: {
                k.split("/")[2]: v
                for k, v in done.items()
                if k.startswith(f"planted/{b}/") and not v["found"]
            }
            for b in bases
        },
        "false_alarms": {
            k.partition("/")[2]: v["failing"] for k, v in done.items() if k.startswith("clean/")
        },
        "other_pairs_listed": sum(
            v["others"] for k, v in done.items() if k.startswith(("clean/", "planted/"))
        ),
        "pairs_listed_in_clean_sets": {
            k.partition("/")[2]: v["others"] for k, v in done.items() if k.startswith("clean/")
        },
        "real": {k.partition("/")[2]: v for k, v in done.items() if k.startswith("real/")},
    }


if __name__ == "__main__":
    main()

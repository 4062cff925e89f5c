"""``merge``: names become one table, masks get its values, and what one did not outline stays unknown."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from medspectrum.case import ClassTarget, MaskTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.mapping import NameMap, Source, read_mapping, shown_by
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

SIZE = (30, 34)


def write_set(
    folder: Path, values: dict[str, int], *, count: int = 4, seed: int = 0, names: bool = True
) -> Path:
    """Pictures with a liver that holds a tumour, and a spleen apart; the masks show what ``values`` names.

    In nnU-Net's layout, which has names, or as plain pairs, which have none.
    """
    rng = np.random.default_rng(seed)
    image, mask = ("imagesTr", "labelsTr") if names else ("images", "labels")
    for number in range(count):
        labels = np.zeros(SIZE, np.uint8)
        y, x = rng.integers(3, 9, 2)
        for name, place in (
            ("liver", np.s_[y : y + 12, x : x + 12]),
            ("tumour", np.s_[y + 4 : y + 8, x + 3 : x + 7]),
            ("spleen", np.s_[y + 2 : y + 9, x + 15 : x + 20]),
        ):
            if name in values:
                labels[place] = values[name]
        pixels = np.clip(rng.normal(90, 20, SIZE), 0, 255).astype(np.uint8)
        for part, array, name in ((image, pixels, f"p{number}_0000.png"), (mask, labels, f"p{number}.png")):
            path = folder / part / (name if names else f"p{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(array).save(path)
    if names:
        about = {
            "channel_names": {"0": "picture"},
            "labels": {"background": 0, **values},
            "numTraining": count,
            "file_ending": ".png",
        }
        (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def sources(tmp_path):
    """Three sources: liver and tumour, in Latin; a whole liver and a spleen; spleens without a name."""
    first = write_set(tmp_path / "latin", {"liver": 1, "tumour": 2}, seed=1)
    about = (first / "dataset.json").read_text()
    (first / "dataset.json").write_text(about.replace('"liver"', '"hepar"'))
    second = write_set(tmp_path / "whole", {"liver": 2, "spleen": 1}, seed=2)
    third = write_set(tmp_path / "plain", {"spleen": 7}, seed=3, names=False)
    (tmp_path / "map.toml").write_text(
        'labels = ["liver", "tumour", "spleen"]\n'
        '[synonyms]\nhepar = "liver"\n'
        '[parents]\ntumour = "liver"\n'
        '[source.plain]\nvalues = { 7 = "spleen" }\n'
    )
    return tmp_path, [first, second, third]


def masks_of(case) -> np.ndarray:
    return case.target.mask.load().array[0, 0]


def test_masks_get_one_table_of_values_and_say_what_they_do_not_show(sources):
    folder, places = sources
    found = medspectrum.merge(places, mapping=folder / "map.toml", out=folder / "out", quiet=True)
    assert found["labels"] == {"liver": 1, "tumour": 2, "spleen": 3}
    cases = load(folder / "out" / "cases.csv").cases
    assert len(cases) == found["cases"] == 12
    by_source: dict[str, list] = {}
    for case in cases:
        assert isinstance(case.target, MaskTarget)
        assert case.target.labels == {1: "liver", 2: "tumour", 3: "spleen"}
        by_source.setdefault(case.record["source"], []).append(case)
    unseen = {name: own[0].target.unseen for name, own in by_source.items()}
    assert unseen == {
        "latin": {"spleen": ""},
        "whole": {"tumour": "liver"},
        "plain": {"liver": "", "tumour": ""},
    }
    assert set(np.unique(masks_of(by_source["latin"][0]))) == {0, 1, 2}
    old = np.asarray(Pillow.open(places[1] / "labelsTr" / "p0.png"))
    assert np.array_equal(masks_of(by_source["whole"][0]), np.array([0, 3, 1])[old])
    old = np.asarray(Pillow.open(places[2] / "labels" / "p0.png"))
    assert np.array_equal(masks_of(by_source["plain"][0]), np.where(old == 7, 3, 0))
    assert [row["unseen"] for row in found["sources"]] == list(unseen.values())


def test_the_joined_set_is_read_scored_and_split_by_patient(sources):
    folder, places = sources
    medspectrum.merge(places, mapping=folder / "map.toml", out=folder / "out", quiet=True)
    cases = load(folder / "out" / "cases.csv").cases
    task = Segment.of(cases)
    assert task.classes == ("liver", "tumour", "spleen")
    assert not any(task.lacking(c) for c in cases)
    table = task.tables([own_map(task, c) for c in cases], cases)["dice"]
    known = ~np.isnan(table)
    assert known.sum(axis=0).tolist() == [8, 4, 8]
    assert (table[known] == 1).all()
    assert len({c.patient for c in cases}) == 12  # p0 of one hospital is not p0 of another
    assert {c.centre for c in cases} == {"latin", "whole", "plain"}


def own_map(task, case):
    from medspectrum.labelmap import LabelMap

    return LabelMap.of(task.target(case))


def test_a_run_again_writes_the_same_and_nothing_twice(sources):
    folder, places = sources
    medspectrum.merge(places, mapping=folder / "map.toml", out=folder / "out", quiet=True)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "out" / "masks").iterdir()}
    next(iter(before)).unlink()  # as if it had been stopped before
    medspectrum.merge(places, mapping=folder / "map.toml", out=folder / "out", quiet=True)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (folder / "out" / "masks").iterdir()}
    assert {p: content for p, (content, _) in before.items()} == {p: c for p, (c, _) in after.items()}
    assert sum(before[p][1] == after[p][1] for p in before) == len(before) - 1


def write_classes(folder: Path, classes: list[str], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for label in classes:
        for number in range(3):
            path = folder / label / f"{label[:1]}{number}_{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            blocks = np.kron(rng.normal(128, 50, (6, 6)), np.ones((6, 6))) + rng.normal(0, 10, (36, 36))
            Pillow.fromarray(np.clip(blocks, 0, 255).astype(np.uint8)).save(path)
    return folder


def test_classes_become_the_larger_ones_that_are_kept(tmp_path):
    first = write_classes(tmp_path / "fine", ["healthy", "bacterial", "viral"], 1)
    second = write_classes(tmp_path / "coarse", ["normal", "pneumonia", "fracture"], 2)
    again = second / "pneumonia" / "p0_2.png"
    again.write_bytes((first / "viral" / "v0_1.png").read_bytes())
    (tmp_path / "map.toml").write_text(
        'classes = ["normal", "pneumonia"]\n'
        '[synonyms]\nhealthy = "normal"\n'
        '[parents]\nbacterial = "pneumonia"\nviral = "pneumonia"\n'
    )
    found = medspectrum.merge(
        [first, second], mapping=tmp_path / "map.toml", out=tmp_path / "out", quiet=True
    )
    assert found["classes"] == {"normal": 6, "pneumonia": 9}
    assert len(found["left_out"]) == 3
    assert all("fracture" in one["reason"] for one in found["left_out"])
    cases = {c.id: c for c in load(tmp_path / "out" / "cases.csv").cases}
    same = found["same_picture"]
    assert len(same) == 1
    one, two = (cases[same[0][k]] for k in ("case", "as"))
    assert one.patient == two.patient  # no split may part the two
    assert {t.label for c in cases.values() if (t := c.asked(ClassTarget))} == {"normal", "pneumonia"}
    facts = medspectrum.describe(tmp_path / "out" / "cases.csv")
    assert facts["classes"] == {"normal": 6, "pneumonia": 9}
    assert facts["patients"] == 14


def test_parts_alone_do_not_show_the_whole():
    asked = NameMap(parents={"left lung": "lung", "right lung": "lung"})
    names = {1: "left lung", 2: "right lung"}
    coarse = shown_by(asked, "a", names, ["lung"])
    assert coarse.unseen == {"lung": ""}
    assert coarse.table == {0: 0, 1: 0, 2: 0}
    told = NameMap(parents=asked.parents, sources={"a": Source(outlined=("lung", "left lung", "right lung"))})
    whole = shown_by(told, "a", names, ["lung"])
    assert whole.table == {0: 0, 1: 1, 2: 1}
    assert whole.unseen == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels = 3", "labels is a list"),
        ("label = ['liver']", "did you mean 'labels'"),
        ("[source.hospital]", "speaks of the source 'hospital'"),
        ("[parents]\na = 'b'\nb = 'a'", "is part of"),
        ("labels = [", "cannot be read as TOML"),
        ("labels = ['a;b']", "holds one of"),
        ("[source.whole]\nvalues = { x = 'liver' }", "values names mask values"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(tmp_path, text, words):
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_mapping(tmp_path / "map.toml", ["whole", "latin"])


def test_sets_that_do_not_go_together_are_refused(sources):
    folder, places = sources
    with pytest.raises(UserError, match="two data sets or more"):
        medspectrum.merge(places[:1], mapping=folder / "map.toml", out=folder / "out", quiet=True)
    (folder / "none.toml").write_text("")
    with pytest.raises(UserError, match="plain: its masks' values have no names"):
        medspectrum.merge(places, mapping=folder / "none.toml", out=folder / "out", quiet=True)
    (folder / "brain.toml").write_text('labels = ["brain"]\n[source.plain]\nvalues = { 7 = "spleen" }')
    with pytest.raises(UserError, match="no source outlines brain"):
        medspectrum.merge(places, mapping=folder / "brain.toml", out=folder / "out", quiet=True)
    (folder / "spleen.toml").write_text('labels = ["spleen"]\n[source.plain]\nvalues = { 7 = "spleen" }')
    found = medspectrum.merge(places[1:], mapping=folder / "spleen.toml", out=folder / "out", quiet=True)
    assert found["warnings"] == ["whole: not kept from its masks: liver"]
    volumes = find("dataset", "msd").facts["fake"](folder / "volumes", 0)
    with pytest.raises(UserError, match="different modalities"):
        medspectrum.merge([places[0], volumes], mapping=folder / "none.toml", out=folder / "out", quiet=True)
    (folder / "none.toml").write_text('modality = "MR"')
    with pytest.raises(UserError, match="pictures and some volumes"):
        medspectrum.merge([places[0], volumes], mapping=folder / "none.toml", out=folder / "out", quiet=True)


def test_a_mask_with_a_strange_value_is_left_out_by_the_command(sources):
    folder, places = sources
    path = places[0] / "labelsTr" / "p2.png"
    labels = np.asarray(Pillow.open(path)).copy()
    labels[0, 0] = 9
    Pillow.fromarray(labels).save(path)
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", "merge", *map(str, places), "--quiet",
         "--mapping", str(folder / "map.toml"), "--out", str(folder / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    with (folder / "out" / "left_out.csv").open() as opened:
        left = list(csv.DictReader(opened))
    assert len(left) == 1
    assert "p2" in left[0]["source"]
    assert "value 9" in left[0]["reason"]


def test_archives_of_pictures_become_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        images = np.kron(rng.integers(0, 255, (6, 7, 7)), np.ones((4, 4))).astype(np.uint8)
        parts = {"train": slice(0, 4), "val": slice(4, 5), "test": slice(5, 6)}
        arrays = {f"{part}_images": images[own] for part, own in parts.items()}
        labels = np.array([0, 1, 0, 1, 0, 1])[:, None]
        np.savez(
            tmp_path / f"{name}.npz",
            allow_pickle=False,
            **arrays,
            **{f"{p}_labels": labels[own] for p, own in parts.items()},
        )
    (tmp_path / "map.toml").write_text("")
    found = medspectrum.merge(
        [tmp_path / "one.npz", tmp_path / "two.npz"], mapping=tmp_path / "map.toml", out=tmp_path / "out",
        quiet=True,
    )  # fmt: skip
    assert found["cases"] == 12
    cases = load(tmp_path / "out" / "cases.csv").cases
    assert {c.split for c in cases} == {"train", "val", "test"}
    with np.load(tmp_path / "one.npz") as held:
        first = next(c for c in cases if c.record["source"] == "one" and c.split == "test")
        assert np.array_equal(first.images["image"].load().array[0, 0], held["test_images"][0])

"""Registration inside explore: pairs of cases, methods, report, predictor, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import medspectrum
from made_phantom import brightness, centred, labels_at, phantom, wave
from medspectrum import formats, registered, registry
from medspectrum.case import Case, MaskTarget, PairTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats import nifti
from medspectrum.labelmap import LabelMap
from medspectrum.models import efficientnet_lite0
from medspectrum.registered import Registered
from medspectrum.tasks.register import Register, patients_of

SIZE = (16, 24, 22)
AFFINE = centred(SIZE, (2.0, 1.4, 1.5))
METHODS = {n: e for n, e in registry.entries("method").items() if e.facts.get("task") == "register"}


def somebody(number: int):
    """How the balls of that person lie: a shift and a wave of its own."""
    rng = np.random.default_rng(number)
    shift, height = rng.uniform(-2.5, 2.5, 3), rng.uniform(-2, 2)
    return lambda p: p + shift + wave(p, height_mm=height)


def write_people(folder: Path, count: int) -> Path:
    for number in range(count):
        back = somebody(number)
        image = phantom(SIZE, affine=AFFINE, back=back, kind=np.int16)
        labels = phantom(SIZE, affine=AFFINE, back=back, of=labels_at, kind=np.uint8)
        nifti.write(image, folder / "images" / f"p{number:02d}.nii.gz")
        nifti.write(labels, folder / "labels" / f"p{number:02d}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people") / "people", 11)


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    results = medspectrum.explore(
        people,
        out=place / "out",
        cache=place / "cache",
        task="register",
        methods="unregistered,rigid,convex_adam",
        budget_minutes=0,
        quiet=True,
    )
    return place, results


def test_results_speak_the_words_of_the_contract(run):
    place, results = run
    assert results["task"]["name"] == "register"
    assert results["task"]["primary"] == "dice"
    assert results["task"]["classes"] == [str(i) for i in range(1, 8)]
    by_name = {t["method"]: t for t in results["trials"]}
    assert set(by_name) == {"unregistered", "rigid", "convex_adam"}
    assert all(t["budget"] == "full" and t["labels"] == 0 and t["model"] == "none" for t in by_name.values())
    dice = {name: t["scores"]["dice"]["value"] for name, t in by_name.items()}
    assert dice["convex_adam"] > dice["rigid"] + 0.02 > dice["unregistered"] + 0.1
    assert by_name["convex_adam"]["scores"]["folding"]["value"] < 0.005
    assert by_name["unregistered"]["level"] == "control"
    assert by_name["convex_adam"]["ms_per_prediction"] > 0
    best = next(t for t in results["trials"] if t["id"] == results["recommended"])
    assert best["method"] == "convex_adam"
    assert "without a label" in results["reason"]
    assert any("only the full budget" in note for note in results["notes"])
    assert results["split"]["test"]["cases"] >= 2
    assert json.loads((place / "out" / "results.json").read_text())["reason"] == results["reason"]


def test_the_report_shows_before_and_after(run):
    text = (run[0] / "out" / "report.html").read_text()
    assert "middle: moving before; right: after" in text
    assert text.count("data:image/png;base64,") >= 2
    assert "folding share" in text


def test_a_predictor_registers_pairs_of_a_table(run, people, tmp_path):
    place, _ = run
    rows = ["moving,fixed"]
    rows += [f"{people}/images/p0{a}.nii.gz,{people}/images/p0{b}.nii.gz" for a, b in ((0, 1), (0, 2))]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    told = medspectrum.predict(
        place / "out" / "predictor",
        tmp_path / "pairs.csv",
        out=tmp_path / "done",
        cache=place / "cache",
        quiet=True,
    )
    assert told["cases"] == 2
    folder = tmp_path / "done" / "p00_onto_p02"
    assert {p.name for p in folder.iterdir()} == {
        "warped.nii.gz",
        "field.nii.gz",
        "transform.mat",
        "registration.json",
    }
    alone = medspectrum.register(
        people / "images" / "p00.nii.gz",
        people / "images" / "p02.nii.gz",
        out=tmp_path / "alone",
        predictor=place / "out" / "predictor",
        labels=people / "labels" / "p00.nii.gz",
        fixed_labels=people / "labels" / "p02.nii.gz",
        cache=place / "cache",
    )
    np.testing.assert_array_equal(
        formats.read(tmp_path / "alone" / "warped.nii.gz").array, formats.read(folder / "warped.nii.gz").array
    )
    assert np.mean(list(alone["dice"].values())) > 0.6
    with pytest.raises(UserError, match="not both"):
        medspectrum.register(
            people / "images" / "p00.nii.gz",
            people / "images" / "p02.nii.gz",
            out=tmp_path / "both",
            method="rigid",
            predictor=place / "out" / "predictor",
        )


def test_a_predictor_is_judged_on_pairs_of_other_cases(run, tmp_path):
    place, _ = run
    others = write_people(tmp_path / "others", 4)
    judged = medspectrum.evaluate(
        place / "out" / "predictor", others, out=tmp_path / "judged", cache=place / "cache", quiet=True
    )
    assert judged["scores"]["dice"]["value"] > 0.5
    assert judged["scores"]["dice"]["low"] < judged["scores"]["dice"]["value"]
    with (tmp_path / "judged" / "predictions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 12
    assert float(rows[0]["dice"]) > 0
    assert rows[0]["pair"].count(" onto ") == 1


def test_single_images_are_no_pairs(run, people, tmp_path):
    with pytest.raises(UserError, match="is no pair; registration takes pairs: a table"):
        medspectrum.predict(
            run[0] / "out" / "predictor",
            people / "images",
            out=tmp_path / "x",
            cache=run[0] / "cache",
            quiet=True,
        )


# -- pairs ----------------------------------------------------------------------------------------


def test_pairs_are_drawn_evenly_and_again_the_same(people):
    cases = load(people).cases
    task = Register.of(cases)
    pairs = task.paired(cases, seed=3)
    assert len(pairs) == task.pairs
    assert [p.id for p in pairs] == [p.id for p in task.paired(cases, seed=3)]
    assert [p.id for p in pairs] != [p.id for p in task.paired(cases, seed=4)]
    assert len({p.id for p in pairs}) == len(pairs)
    for side in (0, 1):
        times = [sum(patients_of(p)[side] == c.patient for p in pairs) for c in cases]
        assert max(times) - min(times) <= 1
    assert all(patients_of(p)[0] != patients_of(p)[1] for p in pairs)
    few = task.paired(cases[:2], seed=0)
    assert len(few) == 2
    with pytest.raises(UserError, match="a part holds one case only"):
        task.paired(cases[:1], seed=0)


def test_pairs_of_a_part_stay_in_it(people, tmp_path):
    """Patients of test pairs are test patients: nothing of them is seen in training pairs."""
    from medspectrum.budgets import PARTS, make_split

    cases = load(people).cases
    task = Register.of(cases)
    split = make_split(cases, seed=0, stratum=task.stratum, strata=task.strata)
    seen = [
        {p for case in task.paired(getattr(split, part), seed=0) for p in patients_of(case)} for part in PARTS
    ]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_outcomes_come_back_as_packed():
    rng = np.random.default_rng(0)
    facts = dict.fromkeys(registered.FACTS, 0.25)
    given = [
        Registered(
            LabelMap.of(rng.integers(0, 3, (2, 3, 4))), None, np.zeros((3, 4), np.uint8), (0, 1), facts
        ),
        Registered(None, rng.normal(size=(5, 3)), np.full((7, 2), 9, np.uint8), (2, 4), facts),
    ]
    again = registered.unpack({k: v.copy() for k, v in registered.pack(given).items()})
    np.testing.assert_array_equal(again[0].labels.array(), given[0].labels.array())
    assert again[0].points_mm is None
    assert again[1].labels is None
    np.testing.assert_array_equal(again[1].points_mm, given[1].points_mm)
    np.testing.assert_array_equal(again[1].picture, given[1].picture)
    assert again[1].plane == (2, 4)
    assert dict(again[0].facts) == facts
    assert registered.unpack(registered.pack([])) == []


# -- methods --------------------------------------------------------------------------------------


def some_pairs(people, count=1):
    cases = load(people).cases
    task = Register.of(cases)
    return task, task.paired(cases, seed=1)[:count]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_comes_back_the_same(name, people, tmp_path):
    entry = METHODS[name]
    if "available" in entry.facts and (why := entry.facts["available"]()):
        pytest.skip(why)
    task, pairs = some_pairs(people)
    model = efficientnet_lite0.tiny(cache=tmp_path) if entry.facts.get("needs_model", True) else None
    predictor = entry.thing(model, pairs, task, seed=2)
    found = predictor.predict(pairs)
    arrays, settings = predictor.state()
    restored = entry.facts["restore"](
        model, {n: a.copy() for n, a in arrays.items()}, json.loads(json.dumps(settings))
    )
    again = restored.predict(pairs)
    np.testing.assert_array_equal(again[0].labels.array(), found[0].labels.array())
    np.testing.assert_array_equal(again[0].picture, found[0].picture)
    assert found[0].labels.shape == SIZE
    assert restored.classes == task.classes
    assert predictor.trained_parameters == 0
    assert entry.facts["trains"] == "nothing"
    assert entry.facts["uses_labels"] is False
    scores = task.score(found, pairs, resamples=0)["scores"]
    still = METHODS["unregistered"].thing(None, (), task).predict(pairs)
    if name not in ("unregistered", "convex_adam_features"):  # a random network's maps help nobody
        assert scores["dice"]["value"] > task.score(still, pairs, resamples=0)["scores"]["dice"]["value"]


def test_no_method_sees_a_label(people):
    """The same pair with other masks gives the same picture."""
    task, pairs = some_pairs(people)
    case = pairs[0]
    target = case.asked(PairTarget)
    swapped = Case(
        case.id, case.patient, case.images, PairTarget(target.patients, (target.masks[1], target.masks[0]))
    )
    predictor = METHODS["convex_adam"].thing(None, (), task)
    first, second = predictor.predict([case, swapped])
    assert first.facts["alike_after"] == second.facts["alike_after"]
    assert first.facts["folding"] == second.facts["folding"]


def test_landmarks_decide_where_there_is_no_mask(tmp_path):
    spots = np.array([(-10, -6, -7), (9, -8, 2), (-4, 9, 6), (7, 7, -8), (0, 0, 0)], float)
    shift = np.array([3.0, -2.0, 1.5])
    fixed_image = phantom((30, 34, 36), back=lambda p: p + shift)
    nifti.write(phantom((30, 34, 36)), tmp_path / "moving.nii.gz")
    nifti.write(fixed_image, tmp_path / "fixed.nii.gz")
    inverse = np.linalg.inv(fixed_image.affine)
    voxels = [p @ inverse[:3, :3].T + inverse[:3, 3] for p in (spots, spots - shift)]
    case = Case(
        "one",
        "p",
        {role: formats.lazy(tmp_path / f"{role}.nii.gz") for role in ("moving", "fixed")},
        PairTarget(("p", "p"), None, tuple(tuple(map(tuple, v)) for v in voxels)),
    )
    task = Register.of([case])
    assert task.primary == "landmark_gain"
    assert task.lacking(case) == ""
    assert task.paired([case], seed=0) == (case,)
    found = {n: METHODS[n].thing(None, (), task).predict([case]) for n in ("unregistered", "rigid")}
    scores = {n: task.score(f, [case])["scores"] for n, f in found.items()}
    assert scores["unregistered"]["landmark_error_mm"]["value"] == pytest.approx(
        np.linalg.norm(shift), abs=1e-4
    )
    assert scores["unregistered"]["landmark_gain"]["value"] == pytest.approx(0, abs=1e-5)
    assert scores["rigid"]["landmark_gain"]["value"] > 0.85
    assert scores["rigid"]["landmark_gain"]["low"] is None  # one patient tells nothing of others
    again = task.unpack(task.pack(found["rigid"]))
    assert task.score(again, [case])["scores"] == scores["rigid"]


# -- bad input --------------------------------------------------------------------------------------


def test_blank_cases_are_left_out_by_name(tmp_path):
    folder = write_people(tmp_path / "people", 11)
    nifti.write(
        phantom(SIZE, affine=AFFINE, of=lambda p: 0 * brightness(p)), folder / "images" / "p03.nii.gz"
    )
    results = medspectrum.explore(
        folder,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        task="register",
        methods="unregistered",
        budget_minutes=0,
        quiet=True,
    )
    told = [x for x in results["left_out"] if "p03" in x["source"]]
    assert told
    assert "same value everywhere" in told[0]["reason"]


def test_data_without_masks_or_landmarks_are_refused(people, tmp_path):
    with pytest.raises(UserError, match="neither masks nor landmarks"):
        medspectrum.explore(people / "images", out=tmp_path / "out", task="register", quiet=True)


def test_headers_far_apart_are_put_middle_on_middle(people, tmp_path):
    """A case whose header lies elsewhere is still registered, and judged."""
    _, pairs = some_pairs(people)
    image = formats.read(pairs[0].images["moving"].source)
    affine = image.affine.copy()
    affine[:3, 3] += 700
    nifti.write(type(image)(image.array, affine, "MR"), tmp_path / "away.nii.gz")
    task = Register(["a"], [1])
    images = {"moving": formats.lazy(tmp_path / "away.nii.gz"), "fixed": pairs[0].images["fixed"]}
    found = METHODS["rigid"].thing(None, (), task).predict([Case("far", "p", images)])
    assert found[0].facts["alike_after"] < found[0].facts["alike_before"]
    assert found[0].labels is None


def test_masks_that_do_not_fit_are_named(people):
    task, pairs = some_pairs(people)
    target = pairs[0].asked(PairTarget)
    case = Case(
        "pair",
        "p",
        pairs[0].images,
        PairTarget(target.patients, (MaskTarget(_small(), {}), target.masks[1])),
    )
    assert task.lacking(case).startswith("small.nii.gz: spacing or direction")


def _small():
    from medspectrum.case import LazyImage

    return LazyImage("small.nii.gz", lambda: phantom((5, 5, 5), of=labels_at, kind=np.uint8), lambda: "00")


def test_intervals_of_pairs_go_over_both_patients():
    """Pairs that share a patient come and go together: more pairs of the same people add little."""
    from medspectrum.metrics.bootstrap import resampled

    rng = np.random.default_rng(0)
    people = [f"p{i}" for i in range(12)]
    worth = rng.normal(size=12)
    pairs = [(a, b) for a in range(12) for b in range(12) if a != b]
    values = np.array([worth[a] + worth[b] for a, b in pairs])

    def several(weights):
        if weights is None:
            return {"mean": values.mean()}
        return {"mean": (weights * values[:, None]).sum(axis=0) / weights.sum(axis=0)}

    found = resampled(several, [people[a] for a, _ in pairs], partners=[people[b] for _, b in pairs])["mean"]
    alone = resampled(several, [str(i) for i in range(len(pairs))])["mean"]
    width = found["high"] - found["low"]
    assert width > 2 * (alone["high"] - alone["low"])
    few = resampled(lambda w: {"mean": 1.0 if w is None else w.sum(axis=0)}, ["a", "b"], partners=["b", "a"])[
        "mean"
    ]
    assert few["low"] is None  # two people make one pair, again and again

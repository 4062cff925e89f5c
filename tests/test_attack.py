"""Attacks on predictors: what over-fits is caught, what does not is not, and scores are by definition."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import medspectrum
from fake_encoder import Projection, cases_of
from medspectrum.attributes import told
from medspectrum.case import ClassTarget
from medspectrum.errors import UserError
from medspectrum.methods.knn import knn
from medspectrum.methods.private_probe import private_probe
from medspectrum.methods.ridge import ridge
from medspectrum.metrics.classification import auc
from medspectrum.metrics.membership import best_threshold, log_odds, log_ratios, roc, worth
from medspectrum.shadows import at_hand, membership, people, refitted
from medspectrum.tasks.classify import Classify

TASK = Classify(["a", "b"])


def doubted(cases, seed=7):
    """A third of the labels are wrong, so that a case cannot be answered rightly but by remembering it."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(cases)) < 1 / 3
    return [
        replace(c, target=ClassTarget("ab"["ab".index(c.target.label) ^ int(w)]))
        for c, w in zip(cases, wrong, strict=True)
    ]


def attacked(method, *, shadows=16, seed=0, learned_anew=False, **settings):
    """An attack on what learned from 60 patients, some with several cases, beside as many others.

    learned_anew: the predictor learned from patients drawn without regard to who counts as learned from.
    """
    cases = doubted(
        [
            *cases_of({"a": 50, "b": 34}, each=2),
            *cases_of({"a": 10, "b": 8}, first=500),
            *cases_of({"a": 90, "b": 70}, first=5000, each=2),
            *cases_of({"a": 20, "b": 20}, first=9000),
        ]
    )
    some = people(cases[:102], cases[102:], TASK, seed=seed)
    assert some.member.sum() == 60
    assert {c.id for c, p in zip(some.cases, some.owner, strict=True) if some.member[p]} == {
        c.id for c in cases[:102]
    }
    model = at_hand(Projection(width=200), some.cases)
    inside = some.drawn(np.random.default_rng([seed, 5])) if learned_anew else some.member
    own = [c for c, p in zip(some.cases, some.owner, strict=True) if inside[p]]
    predictor = method(model, own, TASK, seed=1000 + seed, **settings)
    odds, drawn = refitted(method, "method", settings, model, some, TASK, shadows=shadows, seed=seed)
    truth = np.array([TASK.target(c) for c in some.cases])
    asked = log_odds(predictor.predict(some.cases), truth)
    return membership(asked, odds, drawn, some, seed=seed)["attacks"]


def test_what_over_fits_is_caught_and_what_is_held_back_much_less():
    nearest = attacked(knn, neighbours=1)
    loose, tight = attacked(ridge, penalty=1e-3), attacked(ridge, penalty=3e4)
    for found in (nearest, loose):
        assert found["online"]["advantage"]["low"] > 0.2
        assert found["loss_threshold"]["advantage"]["low"] > 0
    assert tight["online"]["advantage"]["value"] < 0.5 * loose["online"]["advantage"]["value"]
    assert tight["online"]["auc"]["value"] < loose["online"]["auc"]["value"] - 0.1


def test_a_private_head_is_not_caught():
    found = attacked(private_probe, epsilon=0.3, steps=100)
    for own in found.values():
        assert own["advantage"]["low"] <= 0


def test_an_attack_with_nothing_to_find_finds_nothing_in_the_mean():
    """The same over-fitted head, but learned from patients whom nobody asks about."""
    runs = [attacked(ridge, penalty=1e-3, seed=s, learned_anew=True) for s in range(12)]
    for name in ("online", "offline", "loss_threshold"):
        values = [r[name]["advantage"]["value"] for r in runs]
        assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5 + 0.02
    assert sum(r["online"]["advantage"]["low"] > 0 for r in runs) <= 2


def test_refits_have_as_many_patients_of_each_class_and_keep_patients_whole(tmp_path):
    learned, others = cases_of({"a": 12, "b": 30}, each=3), cases_of({"a": 60, "b": 12}, first=900, each=3)
    some = people(learned, others, TASK)
    assert some.member.sum() == 14
    assert (~some.member).sum() == 4 + 4  # as many of a, all there are of b
    asked = []

    def method(model, cases, task, *, seed):
        asked.append((seed, {c.id for c in cases}))
        return ridge(model, cases, task, seed=seed)

    model = at_hand(Projection(), some.cases)
    odds, inside = refitted(method, "m", {}, model, some, TASK, shadows=6, seed=3, cache=tmp_path)
    for (_, ids), own in zip(asked, inside, strict=True):
        assert ids == {c.id for c, p in zip(some.cases, some.owner, strict=True) if own[p]}
        assert np.bincount(some.stratum[own]).tolist() == [4, 10]
    assert len({seed for seed, _ in asked}) == 6
    kept = sorted((tmp_path / "attacks").rglob("*.npy"))
    assert len(kept) == 6
    kept[4].unlink()  # stopped in between: that one alone is computed again
    again, _ = refitted(method, "m", {}, model, some, TASK, shadows=6, seed=3, cache=tmp_path)
    assert len(asked) == 7
    assert asked[6] == asked[4]
    np.testing.assert_array_equal(again, odds)


def test_log_ratios_are_those_of_two_normal_distributions():
    rng = np.random.default_rng(2)
    inside = rng.random((4000, 3)) < 0.5
    refits = np.where(
        inside, rng.normal([2, 0, 1], [1, 2, 1], (4000, 3)), rng.normal([0, 0, 1], 1, (4000, 3))
    )
    asked = np.array([1.5, 3.0, 2.0])

    def density(x, mean, deviation):
        return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)

    wanted = density(asked, [2, 0, 1], [1, 2, 1]) - density(asked, [0, 0, 1], [1, 1, 1])
    np.testing.assert_allclose(log_ratios(refits, inside, asked), wanted, atol=0.25)
    inside[:, 1] = True
    assert np.isnan(log_ratios(refits, inside, asked)).tolist() == [False, True, False]


def test_curve_and_scores_are_those_of_the_definition():
    rng = np.random.default_rng(4)
    members = rng.random(80) < 0.4
    scores = np.round(rng.normal(members * 0.8, 1), 1)  # with ties
    found = worth(scores, members, [str(i) for i in range(80)], threshold=0.35)
    assert found["auc"]["value"] == pytest.approx(
        auc(np.stack([-scores, scores], axis=1), members.astype(int))
    )
    by_hand = (scores[members] > 0.35).mean() - (scores[~members] > 0.35).mean()
    assert found["advantage"]["value"] == pytest.approx(by_hand)
    highest = scores[~members].max()
    assert found["tpr_at_1_fpr"]["value"] == pytest.approx((scores[members] > highest).mean())
    weights = rng.integers(0, 3, (80, 2)).astype(float)
    false, true = roc(scores, members, weights)
    many = np.repeat(np.arange(80), weights[:, 1].astype(int))
    false_by_hand, _ = roc(scores[many], members[many], np.ones((len(many), 1)))
    assert set(np.round(false_by_hand[:, 0], 9)) <= set(np.round(false[:, 1], 9))
    assert true[-1].tolist() == [1, 1]
    threshold = best_threshold(
        np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, False, True])
    )
    assert threshold in (1.5, 3.5)


def test_a_centre_is_told_beyond_the_class_only_where_answers_carry_it():
    rng = np.random.default_rng(1)
    cases = cases_of({"a": 60, "b": 60}, each=2)
    cases = [replace(c, centre="north" if int(c.patient.split("p")[1]) % 3 else "south") for c in cases]
    north = np.array([c.centre == "north" for c in cases])
    share = np.clip(0.4 + 0.2 * rng.random(120), 0, 1)
    rows = rng.normal(size=(120, 90))
    rows[:, 3] += 3 * north
    for shift, seen in ((0.0, False), (0.3, True)):
        answers = np.stack([1 - share - shift * north, share + shift * north], axis=1)
        found = told(cases, answers, rows, TASK, None)
        assert found["values"] == {"north": 80, "south": 40}
        assert (found["auc_beyond_class"]["answers"]["low"] > 0) == seen
        assert found["from"]["features"]["auc"]["value"] > 0.85
        assert abs(found["from"]["class"]["auc"]["value"] - 0.5) < 0.15
    assert told([replace(c, centre=None) for c in cases], answers, rows, TASK, None) is None
    with pytest.raises(UserError, match="no case has a column 'scanner'"):
        told(cases, answers, rows, TASK, "scanner")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a head on pictures of two centres."""
    root = tmp_path_factory.mktemp("attack")
    rng = np.random.default_rng(3)
    (root / "data").mkdir()
    rows = [["image", "label", "patient", "centre", "weight"]]
    for i in range(72):
        label, centre = ("lit" if i % 3 == 0 else "dim"), ("north" if rng.random() < 0.5 else "south")
        pixels = rng.normal(120 if label == "lit" else 112, 25, (32, 32))
        pixels[:, ::4] += 30 if centre == "north" else 0
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "data" / f"c{i:03d}.png")
        rows.append([f"c{i:03d}.png", label, f"p{i // 2 if i < 20 else i}", centre, str(50 + i)])
    with (root / "data" / "cases.csv").open("w") as opened:
        csv.writer(opened).writerows(rows)
    medspectrum.explore(
        root / "data" / "cases.csv", out=root / "run", models="efficientnet-lite0", methods="ridge",
        budgets="full", size=32, explained=0, accept="", cache=root / "cache", quiet=True,
    )  # fmt: skip
    return root


def attack(root, predictor, out, **settings):
    return medspectrum.attack(
        predictor, root / "data" / "cases.csv", out=out, cache=root / "cache", quiet=True,
        **{"shadows": 12, **settings},
    )  # fmt: skip


def test_the_verb_says_it_in_a_page_and_beside_the_predictor(run, tmp_path):
    predictor = tmp_path / "predictor"
    shutil.copytree(run / "run" / "predictor", predictor)
    found = attack(run, predictor, tmp_path / "out")
    assert found == json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["data"]["known_by"] == "predictor"
    split = json.loads((run / "run" / "results.json").read_text())["split"]
    judged, lost = found["membership"]["patients"], found["membership"]["not_judged"]
    assert judged["learned_from"] + lost >= split["train"]["patients"] >= judged["learned_from"]
    assert found["attribute"]["from"]["features"]["auc"]["low"] > 0.6
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Can the centre be told?" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    kept = json.loads((predictor / "attack.json").read_text())
    assert kept["membership"]["advantage"] == found["membership"]["attacks"]["online"]["advantage"]
    assert "patients" not in json.dumps(kept)
    judged = medspectrum.evaluate(
        predictor, run / "data" / "cases.csv", out=tmp_path / "e", cache=run / "cache", quiet=True
    )
    assert judged["predictor"]["attack"] == kept
    assert "who was learned from (advantage" in (tmp_path / "e" / "report.html").read_text()
    (predictor / "attack.json").write_text(json.dumps({**kept, "membership": {"told": False}}))
    with pytest.raises(UserError, match="altered"):
        attack(run, predictor, tmp_path / "out")


def test_without_memory_the_split_of_the_run_says_who_was_learned_from(run, tmp_path):
    predictor = tmp_path / "predictor"
    shutil.copytree(run / "run" / "predictor", predictor)
    known = attack(run, predictor, tmp_path / "out")
    (predictor / "reference.safetensors").unlink()
    found = attack(run, predictor, tmp_path / "out")
    assert found["data"]["known_by"] == "split"
    assert found["membership"] == known["membership"]
    card = json.loads((predictor / "predictor.json").read_text())
    sums = json.loads((predictor / "checksums.json").read_text())
    from medspectrum.predictor import file_sum

    (predictor / "predictor.json").write_text(json.dumps({**card, "labels": 17}))
    sums["predictor.json"] = file_sum(predictor / "predictor.json")
    (predictor / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(UserError, match="learned from 17 cases"):
        attack(run, predictor, tmp_path / "out")


def test_what_cannot_be_attacked_is_told(run, tmp_path):
    predictor = run / "run" / "predictor"
    with pytest.raises(UserError, match="8 refits at least"):
        attack(run, predictor, tmp_path, shadows=2)
    with pytest.raises(UserError, match="has 72 values"):
        attack(run, predictor, tmp_path, attribute="weight")
    (tmp_path / "few").mkdir()
    lines = (run / "data" / "cases.csv").read_text().splitlines()
    (tmp_path / "few" / "cases.csv").write_text("\n".join(lines[:9]) + "\n")
    for i in range(8):
        shutil.copy(run / "data" / f"c{i:03d}.png", tmp_path / "few")
    with pytest.raises(UserError, match="patients that the predictor learned from"):
        medspectrum.attack(
            predictor, tmp_path / "few" / "cases.csv", out=tmp_path, cache=run / "cache", quiet=True
        )

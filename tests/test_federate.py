"""Statistics of sites give the head of all their cases, and nothing of a case travels."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medspectrum.case import Case, ClassTarget, Features
from medspectrum.errors import UserError
from medspectrum.federate.curve import at_nodes, through_nodes
from medspectrum.federate.dealing import dealt, sites_by_centre
from medspectrum.federate.packet import Holding, Packet, load_packet, save_packet
from medspectrum.federate.plans import PLANS, in_one_process
from medspectrum.methods._probabilities import log_loss
from medspectrum.methods.prototype import prototype
from medspectrum.methods.ridge import ridge
from medspectrum.tasks.classify import Classify


class Shown:
    """A model whose features of a case are given."""

    key = "shown"

    def __init__(self, rows):
        self.rows = rows

    def embed(self, images, level="pooled"):
        return Features(np.stack([self.rows[i] for i in images]).astype(np.float32))


def made(cases=150, width=40, classes=3, patients=60, seed=3) -> Any:
    """Overlapping classes of unequal size, several cases of a patient, features far from zero."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, cases, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    people = rng.integers(patients, size=cases)
    rows = rng.normal(size=(cases, width)) * rng.uniform(0.1, 4, width) + rng.normal(size=width) * 3
    rows[:, :4] += 1.5 * labels[:, None]
    rows += rng.normal(size=(patients, width))[people] * 0.5
    rows[:, 7] = 2.5  # never changes
    names = [f"kind {c}" for c in range(classes)]
    images: list[Any] = list(range(cases))
    found = [
        Case(f"c{i}", f"p{people[i]}", {"image": images[i]}, ClassTarget(names[labels[i]]))
        for i in range(cases)
    ]
    return Shown(rows), found, Classify(names)


def held(model, cases, task):
    rows = model.embed([c.images["image"] for c in cases]).pooled
    return Holding(rows, tuple(task.stratum(c) for c in cases), tuple(c.patient for c in cases), model.key)


def learn(holdings, method="ridge", **settings):
    sent = []
    *_, state = in_one_process(PLANS[method], holdings, settings, sent)
    return PLANS[method].learned(state), sent


@pytest.mark.parametrize(("width", "classes", "sites"), [(40, 3, 3), (40, 2, 4), (400, 3, 3), (40, 5, 12)])
def test_one_round_equals_central_training(width, classes, sites):
    model, cases, task = made(width=width, classes=classes)
    shares = dealt(cases, sites, stratum=task.stratum, seed=1, skew=0.5)
    central = ridge(model, cases, task)
    (arrays, settings), _ = learn({n: held(model, own, task) for n, own in shares.items()})
    assert settings["chosen_penalty"] == central.settings["chosen_penalty"]
    scale = np.abs(central.weights).max()
    assert np.abs(arrays["weights"] - central.weights).max() < 1e-6 * scale
    assert np.abs(arrays["intercepts"] - central.intercepts).max() < 1e-6 * max(
        1, np.abs(central.intercepts).max()
    )
    _, others, _ = made(width=width, classes=classes, seed=4)
    found = replace(central, weights=arrays["weights"], intercepts=arrays["intercepts"])
    fresh = others[:50]
    assert np.abs(found.predict(fresh) - central.predict(fresh)).max() < 1e-6


def test_prototypes_over_sites_are_those_of_all_cases():
    model, cases, task = made(classes=3)
    shares = dealt(cases, 4, stratum=task.stratum, seed=1, skew=0.5)
    for seed in (0, 5):
        central = prototype(model, cases, task, seed=seed)
        (arrays, settings), _ = learn(
            {n: held(model, o, task) for n, o in shares.items()}, "prototype", seed=seed
        )
        assert np.abs(arrays["centre"] - central.centre).max() < 1e-6
        assert np.abs(arrays["directions"] - central.directions).max() < 1e-6
        assert 0.7 < settings["sharpness"] / central.sharpness < 1.4
        found = replace(central, centre=arrays["centre"], directions=arrays["directions"])
        assert np.abs(found.predict(cases) - central.predict(cases)).max() < 1e-6
        (_, alone), _ = learn({"all": held(model, cases, task)}, "prototype", seed=seed)
        assert alone["sharpness"] == pytest.approx(central.sharpness, rel=1e-4)


def test_a_class_of_one_patient_is_not_held_out_by_prototypes():
    model, cases, task = made()
    rare = next(c for c in cases if task.stratum(c) == task.classes[0])
    cases = [c for c in cases if task.stratum(c) != task.classes[0] and c.patient != rare.patient] + [rare]
    central = prototype(model, cases, task)
    (arrays, settings), _ = learn({"all": held(model, cases, task)}, "prototype")
    assert settings["sharpness"] == pytest.approx(central.sharpness, rel=1e-4)
    assert np.abs(arrays["directions"] - central.directions).max() < 1e-6


def test_a_class_that_one_site_lacks_is_learned_from_the_others():
    model, cases, task = made()
    rare = task.classes[0]
    of_rare = {c.patient for c in cases if task.stratum(c) == rare}
    shares = {"a": [c for c in cases if c.patient in of_rare]}
    shares["b"] = [c for c in cases if c.patient not in of_rare]
    assert rare not in {task.stratum(c) for c in shares["b"]}
    (arrays, settings), _ = learn({n: held(model, own, task) for n, own in shares.items()})
    central = ridge(model, cases, task)
    assert settings["classes"] == list(task.classes)
    assert np.allclose(arrays["weights"], central.weights, rtol=0, atol=1e-6 * np.abs(central.weights).max())


def test_every_patient_alone_in_a_class_takes_the_usual_penalty():
    model, cases, task = made(cases=2, classes=2, patients=50, seed=8)
    cases = [replace(c, target=ClassTarget(task.classes[i])) for i, c in enumerate(cases)]
    assert cases[0].patient != cases[1].patient
    (arrays, settings), _ = learn({c.id: held(model, [c], task) for c in cases})
    central = ridge(model, cases, task)
    assert settings["chosen_penalty"] == central.settings["chosen_penalty"] == 1.0
    assert np.allclose(arrays["weights"], central.weights, atol=1e-6 * np.abs(central.weights).max())


def test_what_travels_is_no_row_of_features_and_no_patient():
    model, cases, task = made(width=43)
    shares = dealt(cases, 3, stratum=task.stratum, seed=1, skew=None)
    _, sent = learn({n: held(model, own, task) for n, own in shares.items()})
    from_sites = [s for s in sent if s.direction == "from the site"]
    assert [s.packet.purpose for s in from_sites[::3]] == ["table", "statistics", "choice"]
    size = {n: len(own) for n, own in shares.items()}
    assert len(set(size.values()) & {3, 13, 43, 97, 946}) == 0, "no shape would be taken for another"
    for one in sent:
        assert all(size[one.site] not in a.shape for a in one.packet.arrays.values())
        told = json.dumps([one.packet.purpose, dict(one.packet.facts)])
        assert not any(f'"{c.patient}"' in told or f'"{c.id}"' in told for c in cases)
        raw = [a.tobytes() for a in one.packet.arrays.values()]
        for row in held(model, shares[one.site], task).rows:
            for kind in (np.float32, np.float64):
                assert not any(row.astype(kind).tobytes() in held_by for held_by in raw)


def test_sites_with_other_models_or_broken_numbers_are_refused():
    model, cases, task = made()
    shares = dealt(cases, 2, stratum=task.stratum, seed=1, skew=None)
    own = {n: held(model, c, task) for n, c in shares.items()}
    with pytest.raises(UserError, match="different models"):
        learn({**own, "site2": replace(own["site2"], model_key="other")})
    bad = own["site2"].rows.copy()
    bad[5, 1] = np.nan
    with pytest.raises(UserError, match="site site2: sums holds values that are not finite"):
        learn({**own, "site2": replace(own["site2"], rows=bad)})
    with pytest.raises(UserError, match="only the class kind 1"):
        learn({"a": replace(own["site1"], labels=("kind 1",) * len(own["site1"].labels))})


def test_a_loss_told_at_nodes_is_the_loss_everywhere():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)) * 8, rng.integers(4, size=30)
    weights = rng.uniform(0.2, 3, 30)
    told = through_nodes(at_nodes(logits, labels, weights))
    for x in np.linspace(-2.99, 2.99, 41):
        assert told(x) == pytest.approx(log_loss(x, logits, labels, weights), rel=1e-10)


def test_dealing_keeps_patients_whole_and_skew_parts_classes():
    _, cases, task = made(cases=600, patients=300)
    counts = {}
    for skew in (0.1, 100.0):
        shares = dealt(cases, 4, stratum=task.stratum, seed=2, skew=skew)
        assert sorted(c.id for own in shares.values() for c in own) == sorted(c.id for c in cases)
        owners = [{c.patient for c in own} for own in shares.values()]
        assert sum(map(len, owners)) == len(set().union(*owners))
        part = np.array(
            [[sum(task.stratum(c) == k for c in own) for k in task.classes] for own in shares.values()]
        )
        counts[skew] = (part / part.sum(axis=0)).std(axis=0).mean()
        assert (part.sum(axis=1) > 0).all()
    assert counts[0.1] > 3 * counts[100.0]
    with pytest.raises(UserError, match="cannot be dealt to 9 sites"):
        dealt(cases[:5], 9, stratum=task.stratum, seed=0, skew=None)


def test_small_centres_make_one_site_and_a_patient_is_in_one():
    _, cases, _ = made(cases=200, patients=20)
    number = [int(c.patient[1:]) for c in cases]
    names = ["Large" if n < 10 else "Middle" if n < 15 else "Small" if n < 18 else None for n in number]
    cases = [replace(c, centre=n) for c, n in zip(cases, names, strict=True)]
    moved = cases[number.index(3)]  # one picture of a patient of Large was made elsewhere
    cases = [replace(c, centre="Small") if c is moved else c for c in cases]
    assert set(sites_by_centre(cases, None)) == {"Large", "Middle", "Small", "others"}
    shares = sites_by_centre(cases, 3)
    assert {c.patient for c in shares["Large"]} == {f"p{n}" for n in range(10)}
    assert {c.patient for c in shares["Middle"]} == {f"p{n}" for n in range(10, 15)}
    assert {c.patient for c in shares["others"]} == {f"p{n}" for n in range(15, 20)}


def test_a_state_is_kept_whole(tmp_path):
    packet = Packet(
        "choice", {"a": np.arange(6.0).reshape(2, 3).T, "b": np.zeros((0, 2))}, {"classes": ["x", "ü"]}
    )
    save_packet(tmp_path / "state.safetensors", packet)
    again = load_packet(tmp_path / "state.safetensors")
    assert again.purpose == "choice"
    assert again.facts == packet.facts
    assert all(np.array_equal(again.arrays[n], packet.arrays[n]) for n in packet.arrays)
    (tmp_path / "state.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="holds no state of a federation"):
        load_packet(tmp_path / "state.safetensors")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Pictures of two classes at two hospitals, learned over them."""
    from PIL import Image

    import medspectrum

    place = tmp_path_factory.mktemp("federated")
    rng = np.random.default_rng(5)
    lines = ["image,diagnosis,patient,hospital"]
    for n in range(60):
        kind = int(rng.integers(2))
        hospital = ("North", "Harbour")[n % 2]
        picture = rng.integers(40, 120, (24, 24))
        picture[4:12, 3:20] += (25 if hospital == "North" else 10) * kind
        Image.fromarray(picture.astype(np.uint8)).save(place / f"scan{n}.png")
        lines.append(
            f"scan{n}.png,{('ill', 'well')[kind]},Zwetschke{n // 2},{hospital if n % 3 else 'North'}"
        )
    (place / "cases.csv").write_text("\n".join(lines) + "\n")
    settings = {"label": "diagnosis", "patient": "patient", "centre": "hospital", "size": 64, "quiet": True}
    settings |= {"model": "efficientnet-lite0-random", "cache": place / "cache"}
    return place, settings, medspectrum.federate.simulate(place / "cases.csv", out=place / "out", **settings)


def test_simulation_equals_pooled_training_and_says_what_it_sent(simulated):
    place, _, result = simulated
    assert result == json.loads((place / "out" / "federation.json").read_text())
    assert result["sites_by"] == "centre"
    assert set(result["alone"]) == {"North", "Harbour"}
    assert result["pooled"]["low"] <= result["pooled"]["value"] <= result["pooled"]["high"]
    assert result["largest_difference"] < 1e-6
    assert result["federated"]["value"] == pytest.approx(result["pooled"]["value"], abs=1e-6)
    assert result["rounds"] == 1
    told = (place / "out" / "messages.csv").read_text()
    rows = [line.rsplit(",", 1) for line in told.splitlines()[1:]]
    assert sum(int(size) for _, size in rows) == result["bytes_sent"] > 0
    assert "Zwetschke" not in told
    assert sum(own["cases"] for own in result["alone"].values()) == result["split"]["train"]["cases"]


def test_the_predictor_of_a_federation_is_one_like_others(simulated):
    import medspectrum

    place, settings, _ = simulated
    facts = medspectrum.evaluate(
        place / "out" / "predictor", place / "cases.csv", out=place / "judged", label="diagnosis",
        patient="patient", cache=settings["cache"], quiet=True,
    )  # fmt: skip
    assert facts["predictor"]["method"] == "ridge"
    assert b"Zwetschke" not in b"".join(p.read_bytes() for p in (place / "out" / "predictor").iterdir())


def test_both_ways_of_asking_give_the_same_and_bad_settings_one_sentence(simulated):
    import subprocess
    import sys

    import medspectrum

    place, settings, _ = simulated
    given = {"sites": 4, "by": "patient", "skew": 0.5, "seed": 2}
    here = medspectrum.federate.simulate(place / "cases.csv", out=place / "dealt", **settings, **given)
    words = [f"--{k}={v}" for k, v in {**settings, **given}.items() if k != "quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", "federate", "simulate", str(place / "cases.csv"), *words,
         "--quiet", "--json", "--out", str(place / "dealt")], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert {**there, "cpu_seconds": 0} == {**here, "cpu_seconds": 0}
    assert set(here["alone"]) == {"site1", "site2", "site3", "site4"}
    for wrong, said in (
        ({"method": "knn"}, "knn cannot be learned over sites; there are: ridge, prototype"),
        ({"method": "prototype", "penalty": 1.0}, "--penalty is for ridge"),
        ({"sites": 1}, "two sites or more"),
        ({"least_cases": 1000}, "lower --least-cases"),
        ({"by": "scanner"}, "by is centre or patient"),
        ({"skew": 0.0}, "skew must be above 0"),
        ({"skew": 0.3}, "give it with --by patient"),
    ):
        with pytest.raises(UserError, match=said):
            medspectrum.federate.simulate(place / "cases.csv", out=place / "wrong", **settings, **wrong)


def test_a_site_says_nothing_of_a_class_of_too_few_cases():
    from medspectrum.federate.simulation import _spoken_of

    _, cases, task = made(cases=120)
    names = {k: [c for c in cases if task.stratum(c) == k] for k in task.classes}
    shares = {
        "a": names["kind 0"][:9] + names["kind 1"][:10] + names["kind 2"][:20],
        "b": names["kind 0"][9:10],
    }
    kept, notes = _spoken_of(shares, task, 10)
    assert {k: len(own) for k, own in kept.items()} == {"a": 30}
    assert {task.stratum(c) for c in kept["a"]} == {"kind 1", "kind 2"}
    assert notes == [
        "a says nothing of kind 0: it holds 9 cases",
        "b says nothing of kind 0: it holds 1 cases",
    ]
    assert _spoken_of(shares, task, 1) == (shares, [])

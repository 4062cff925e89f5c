"""``synthesise``: copies are caught, the measures mean what they say, and a run from end to end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medspectrum
from made_cases import PATTERN, make_folder, words
from made_pipeline import SIDE, made_pipeline
from medspectrum.budgets import Budget
from medspectrum.case import Case, ClassTarget
from medspectrum.datasets import load
from medspectrum.engine import descend, diffusion, generating, pipeline_folder
from medspectrum.engine.gan import changed, largest_singular
from medspectrum.engine.generating import learn
from medspectrum.errors import UserError
from medspectrum.gain import gain
from medspectrum.metrics.generated import kid, memorised, precision_recall
from medspectrum.synthesise import seen_small, squared
from medspectrum.tasks.classify import Classify
from tiny_encoder import tiny_encoder


def blobs(count: int, seed: int, side: int = 28) -> np.ndarray:
    """(n, 1, side, side) uint8: a bright spot at a random place over a ramp, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    made = np.zeros((count, 1, side, side))
    for i in range(count):
        for _ in range(3):
            cy, cx, wide = rng.uniform(4, side - 4), rng.uniform(4, side - 4), rng.uniform(2, 5)
            made[i, 0] += 90 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * wide**2))
        made[i, 0] += 2 * x + rng.normal(0, 5, (side, side))
    return np.clip(made, 0, 255).astype(np.uint8)


def test_a_memoriser_is_caught_and_other_patients_are_not():
    train, held, fresh = blobs(300, 0), blobs(120, 1), blobs(200, 2)
    patients = np.array([f"p{i // 2}" for i in range(300)])
    rng = np.random.default_rng(3)
    noisy = np.clip(train[:200] + rng.normal(0, 8, train[:200].shape), 0, 255).astype(np.uint8)
    rows, usual = seen_small(train), seen_small(held)
    clean = memorised(rows, patients, usual, seen_small(fresh))
    caught = memorised(rows, patients, usual, seen_small(noisy))
    assert clean["copies"]["share"] <= clean["copies"]["limit"]
    assert caught["copies"]["share"] > 0.9
    assert caught["copies"]["share"] > caught["copies"]["limit"]
    assert (caught["rows"]["nearest"] == np.arange(200)).mean() > 0.99
    some = memorised(rows, patients, usual, np.concatenate([seen_small(fresh), seen_small(noisy[:60])]))
    assert some["copies"]["share"] > some["copies"]["limit"]  # not only when all are copies


def test_verdicts_by_chance_are_rare():
    """Of 300 generators that draw from the truth itself, few may be accused."""
    rng = np.random.default_rng(0)
    accused = 0
    for _ in range(300):
        train, held, made = (rng.normal(size=(n, 6)) for n in (100, 60, 80))
        found = memorised(train, np.arange(100).astype(str), held, made)
        accused += found["copies"]["share"] > found["copies"]["limit"]
    assert accused <= 4


def test_kernel_distance_and_reach():
    rng = np.random.default_rng(1)
    real, same, far = rng.normal(size=(200, 5)), rng.normal(size=(200, 5)), rng.normal(2, 1, (200, 5))
    assert abs(kid(real, same)) < 0.05 < 1 < kid(real, far)
    narrow = np.concatenate([real[:5] + rng.normal(0, 0.01, (5, 5)) for _ in range(40)])
    precision, recall = precision_recall(real, same)
    assert precision > 0.7
    assert recall > 0.7
    assert precision_recall(real, narrow)[0] > 0.9
    assert precision_recall(real, narrow)[1] < 0.2
    assert precision_recall(real, far)[0] < 0.3
    assert np.isnan(precision_recall(real[:3], same)[0])


def test_gain_is_seen_where_pictures_tell_more_and_loss_where_labels_are_wrong():
    rng = np.random.default_rng(2)
    centre = np.array([[1.0] * 8, [-1.0] * 8])

    def drawn(count):
        labels = np.arange(count) % 2
        return centre[labels] + rng.normal(0, 2.5, (count, 8)), labels

    train, labels = drawn(40)
    seen, truth = drawn(200)
    made, told = drawn(600)
    cases = [Case(f"a{i}", f"a{i}", {}, ClassTarget("xy"[c])) for i, c in enumerate(labels)]
    test = [Case(f"t{i}", f"t{i}", {}, ClassTarget("xy"[c])) for i, c in enumerate(truth)]
    row = {c.id: r for c, r in zip([*cases, *test], [*train, *seen], strict=True)}
    budgets = [Budget("2", d, tuple(cases[4 * d : 4 * d + 4])) for d in range(5)]
    task = Classify(("x", "y"), counts=(20, 20))

    def found(given):
        return gain(
            budgets,
            test,
            task,
            lambda some: np.stack([row[c.id] for c in some]),
            made,
            given,
            counts=(20, 20),
        )["budgets"][0]["over_real"]["synthetic"]["auc"]

    better, worse = found(told), found(1 - told)
    assert better["low"] > 0
    assert worse["high"] < -0.1


def test_augmentation_keeps_the_gradient_and_moves_what_it_says():
    import torch

    picture = torch.zeros(1, 1, 32, 32, requires_grad=True)
    still = torch.tensor([[0.5, 0.5, 0.4999, 0.4999, 0.0, 0.0]])
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    out = changed(ramp, still)[0, 0]
    assert torch.allclose(out[16:, 16:], ramp[0, 0, 16:, 16:])
    assert not torch.allclose(out[:4, :4], ramp[0, 0, :4, :4] + 1)
    changed(picture, still).sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().sum() > 100


def test_the_largest_singular_value():
    import torch

    matrix = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.matrix_norm(matrix, 2)
    assert 0.8 < float(largest_singular(matrix) / exact) <= 1.0001


@pytest.mark.parametrize("kind", ["diffusion", "gan"])
def test_a_killed_training_goes_on_to_the_same_pictures(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion, "DRAWN_IN", 4)
    pictures = blobs(40, 0, 28).astype(np.float32) / 127.5 - 1
    labels = np.arange(40) % 2
    settings = {"seconds": 1.0, "steps": 8, "batch_cases": 2}
    whole = learn(kind, pictures, labels, 2, tmp_path / "whole", **settings)

    def stop(_, done, __):
        if done == 6:
            raise KeyboardInterrupt

    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/training.json").write_text((tmp_path / "whole/training.json").read_text())
    with pytest.raises(KeyboardInterrupt):
        learn(kind, pictures, labels, 2, tmp_path / "cut", progress=stop, **settings)
    begun: list[int] = []
    learn(kind, pictures, labels, 2, tmp_path / "cut", progress=lambda _, d, __: begun.append(d), **settings)
    assert begun[0] == 6  # the fifth was kept
    again = learn(kind, pictures, labels, 2, tmp_path / "cut", **settings)
    monkeypatch.setattr(descend, "_to_training", lambda *_: pytest.fail("trained again"))
    assert learn(kind, pictures, labels, 2, tmp_path / "cut", **settings).steps == 8
    wanted = np.array([0, 1, 1])
    np.testing.assert_array_equal(again.sample(wanted, 5), whole.sample(wanted, 5))
    assert not np.array_equal(again.sample(wanted, 6), whole.sample(wanted, 5))
    assert whole.sample(wanted, 5).shape == (3, 1, 28, 28)
    monkeypatch.setattr(generating, "AT_ONCE", 2)
    parts: list[tuple[int, int]] = []
    several = whole.sample(wanted, 7, lambda done, total: parts.append((done, total)))
    assert parts == [(2, 3), (3, 3)]
    kept = sorted((tmp_path / "whole/made").glob("*.npy"), key=lambda p: p.stat().st_mtime)
    kept[-1].unlink()  # as if it had been killed before the last part
    before = {p: p.stat().st_mtime_ns for p in kept[:-1]}
    np.testing.assert_array_equal(whole.sample(wanted, 7), several)
    assert {p: p.stat().st_mtime_ns for p in kept[:-1]} == before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesise")
    make_folder(folder / "scans", patients=60, each=2)
    settings = {
        "n": 3, "kind": "gan", "steps": 6, "size": 28, "models": tiny_encoder(folder / "cache"),
        "cache": folder / "cache", "patient_pattern": PATTERN, "budgets": "1,full", "draws": 2, "quiet": True,
    }  # fmt: skip
    found = medspectrum.synthesise(folder / "scans", class_="fine", out=folder / "out", **settings)
    return folder, settings, found


def test_pictures_labels_and_audit_are_written(run):
    folder, _, found = run
    out = folder / "out"
    assert json.loads((out / "audit.json").read_text()) == found
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert [r["class"] for r in rows] == ["fine"] * 3
    assert {r["split"] for r in rows} == {"train"}
    again = load(out / "labels.csv")
    assert [t.label for c in again.cases if (t := c.asked(ClassTarget))] == ["fine"] * 3
    assert next(iter(again.cases[0].images.values())).load().array.shape == (1, 1, 28, 28)
    assert found["gain"]["test"]["cases"] == found["data"]["split"]["test"]["cases"]
    assert found["memorisation"]["held_out"] == found["data"]["split"]["val"]["cases"]
    trained = {c["case"] for c in found["memorisation"]["nearest"]}
    assert all(name.startswith(("fine/", "coarse/")) for name in trained)
    assert [row["budget"] for row in found["gain"]["budgets"]] == ["1", "full"]
    page = (out / "report.html").read_text()
    assert 'src="http' not in page
    assert page.count("data:image/webp") >= 8 + 3 + 3


def test_the_command_line_gives_the_same(run):
    folder, settings, found = run
    given = [
        str(folder / "scans"),
        "--class",
        "fine",
        "--out",
        str(folder / "out"),
        "--json",
        *words(settings),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", "synthesise", *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clock = ("seconds", "generator")
    assert {k: v for k, v in json.loads(done.stdout).items() if k not in clock} == {
        k: v for k, v in found.items() if k not in clock
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"class_": "finest"}, "no training case is of the class 'finest'; there are coarse, fine"),
        ({"kind": "vae"}, "there are diffusion, gan"),
        ({"n": 0}, "make one picture at least"),
        ({"size": 50}, "size is 50"),
        ({"minutes": 0}, "minutes and steps must be above 0"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, given, said):
    folder, settings, _ = run
    with pytest.raises(UserError, match="\\A[^\n]*" + said):
        medspectrum.synthesise(folder / "scans", out=tmp_path, **{**settings, **given})
    assert not Path(tmp_path / "audit.json").exists()


def test_the_middle_square_is_taken():
    from medspectrum.image import Image

    array = np.zeros((1, 1, 28, 60), np.uint8)
    array[..., 16:44] = 200
    array[..., 16:30] = 100
    made = squared(Image(array), 28, 3)
    assert made.shape == (3, 28, 28)
    assert (made[:, :, :14] == 100).all()
    assert (made[:, :, 14:] == 200).all()


def test_explore_learns_from_made_pictures_and_judges_on_none(run, tmp_path):
    folder, settings, _ = run
    given = {k: settings[k] for k in ("models", "cache", "patient_pattern", "quiet")}
    given |= {"methods": "ridge", "budgets": "5,full", "draws": 1, "explained": 0, "size": 32}
    plain = medspectrum.explore(folder / "scans", out=tmp_path / "plain", **given)
    more = medspectrum.explore(
        folder / "scans", out=tmp_path / "more", synthetic=str(folder / "out"), **given
    )
    assert more["split"] == plain["split"]
    count = plain["split"]["train"]["cases"]
    for without, with_made in zip(plain["trials"], more["trials"], strict=True):
        assert with_made["labels"] == without["labels"]
        assert "synthetic" not in without
        assert with_made["synthetic"] == 3
        assert with_made["id"] != without["id"]
    assert max(t["labels"] for t in more["trials"]) == count
    assert any("3 made pictures" in note for note in more["notes"])


def test_explore_refuses_pictures_whose_generator_knew_the_judges(run, tmp_path):
    folder, settings, _ = run
    with pytest.raises(UserError, match=r"its generator learned from .* of the validation and test cases"):
        medspectrum.explore(
            folder / "scans", out=tmp_path, synthetic=str(folder / "out"), seed=1, methods="majority",
            patient_pattern=PATTERN, cache=settings["cache"], quiet=True,
        )  # fmt: skip
    with pytest.raises(UserError, match=r"holds no labels\.csv"):
        medspectrum.explore(
            folder / "scans", out=tmp_path, synthetic=str(tmp_path), methods="majority",
            patient_pattern=PATTERN, cache=settings["cache"], quiet=True,
        )  # fmt: skip


def test_a_published_latent_diffusion_draws_what_it_is_told(run, tmp_path):
    folder, settings, _ = run
    model = made_pipeline(tmp_path / "model")
    told = {"guidance": 2.0, "steps": 2, "seed": 0}
    one = pipeline_folder.draw(model, ["effusion", "effusion", "normal"], **told)
    assert one.shape == (3, 3, SIDE, SIDE)
    np.testing.assert_array_equal(
        one, pipeline_folder.draw(model, ["effusion", "effusion", "normal"], **told)
    )
    assert not np.array_equal(one[0], one[1])
    other = pipeline_folder.draw(model, ["normal", "effusion", "normal"], **told)
    assert not np.array_equal(one[0], other[0])  # the text is heard
    np.testing.assert_array_equal(one[1:], other[1:])
    given = {**settings, "kind": "diffusion", "steps": 2, "out": tmp_path / "out", "budgets": "full"}
    found = medspectrum.synthesise(
        folder / "scans", class_="fine", model=model, prompt="a {class} grain", **given
    )
    assert found["generator"]["prompts"] == ["a fine grain"]
    assert found["size"] == [1, SIDE, SIDE]  # the data are grey
    assert not (tmp_path / "out/generator").exists()
    assert len(list((tmp_path / "out/images").iterdir())) == 3


def test_a_folder_that_is_no_such_model_is_one_sentence(run, tmp_path):
    folder, settings, _ = run
    given = {**settings, "out": tmp_path / "out"}
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        medspectrum.synthesise(folder / "scans", model=tmp_path, **given)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="is a FluxPipeline; models of the layout StableDiffusionPipeline"):
        medspectrum.synthesise(folder / "scans", model=tmp_path, **given)
    model = made_pipeline(tmp_path / "model")
    (model / "unet" / "config.json").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        pipeline_folder.draw(model, ["a"], guidance=1.0, steps=1, seed=0)

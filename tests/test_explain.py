"""Explanations: maps lie where the cue was planted, right side up, and their tests can fail."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from medspectrum.case import Case
from medspectrum.datasets import load
from medspectrum.engine.attribution import attention, erasing, inputs, randomised
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.methods.full import full
from medspectrum.methods.knn import knn
from medspectrum.methods.linear_probe import linear_probe
from medspectrum.methods.majority import majority
from medspectrum.methods.prototype import prototype
from medspectrum.methods.ridge import ridge
from medspectrum.models import resolve
from medspectrum.predictor import load_predictor, save_predictor
from medspectrum.saliency import checks, overlay
from medspectrum.saliency.at_hand import cheap
from medspectrum.saliency.maps import Maps
from medspectrum.saliency.seen import Seen, View, see
from medspectrum.tasks.classify import Classify
from tiny_encoder import tiny_encoder

SIZE = (44, 60)  # height, width: not square, so that a swap of axes shows


def plant(folder: Path, count: int) -> Path:
    """Grey noise; every second picture has a chequered mark at a place by chance, which is its mask too."""
    rng = np.random.default_rng(7)
    rows = [["image", "kind", "mask", "split", "patient"]]
    (folder / "masks").mkdir(parents=True)
    for n in range(count):
        pixels = rng.normal(110, 12, SIZE).clip(0, 255).astype(np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        y, x = rng.integers(2, SIZE[0] - 12), rng.integers(2, SIZE[1] - 12)
        mask[y : y + 9, x : x + 9] = 1
        if n % 2:
            chequered = (np.add.outer(np.arange(9) // 2, np.arange(9) // 2) % 2) * 255
            pixels[y : y + 9, x : x + 9] = chequered
        Pillow.fromarray(pixels).save(folder / f"{n:03d}.png")
        Pillow.fromarray(mask).save(folder / "masks" / f"{n:03d}.png")
        part = "train" if n < count // 2 else "test"
        rows.append([f"{n:03d}.png", "marked" if n % 2 else "plain", f"masks/{n:03d}.png", part, f"p{n}"])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def table(place):
    return plant(place / "data", 40)


@pytest.fixture(scope="module")
def cases(table):
    return load(table, label="kind", mask="mask").cases


@pytest.fixture(scope="module")
def encoder(place):
    return resolve("efficientnet-lite0", size=96, cache=place / "cache")


def handed_over(folder: Path, encoder, predictor, method: str, name: str | None = None) -> Path:
    facts = {
        "task": "classify", "task_settings": {"classes": ["marked", "plain"]}, "method": method,
        "model": name or (encoder.card.name if encoder else "none"),
        "model_key": encoder.key if encoder else "", "size": encoder.size[-1] if encoder else None,
    }  # fmt: skip
    save_predictor(folder, predictor, facts)
    return folder


@pytest.fixture(scope="module")
def predictor(place, encoder, cases):
    learned = [c for c in cases if c.split == "train"]
    fitted = linear_probe(encoder, learned, Classify(["marked", "plain"]))
    return handed_over(place / "predictor", encoder, fitted, "linear_probe")


def explained(predictor, table, out, place, **settings):
    chosen = {"label": "kind", "mask": "mask", "part": "test", "cases": 6, "of": "marked"} | settings
    return medspectrum.explain(predictor, table, out=out, cache=place / "cache", quiet=True, **chosen)


@pytest.fixture(scope="module")
def result(predictor, table, place):
    return explained(
        predictor,
        table,
        place / "out",
        place,
        methods="layer_cam,integrated_gradients,occlusion",
        train=table,
    )


def test_maps_point_at_what_was_planted_and_those_of_shuffled_weights_do_not(result):
    marked = [row for row in result["cases"] if row["truth"] == "marked"]
    assert len(marked) == 3
    for method in ("layer_cam", "integrated_gradients", "occlusion"):
        tests = [row["methods"][method]["tests"] for row in marked]
        assert np.mean([t["hit"] for t in tests]) > 0.6
        assert np.mean([t["hit_randomised"] for t in tests]) < 0.5
        assert result["methods"][method]["checks"]["randomised"]["passed"]
    for method in result["methods"].values():
        assert set(method["checks"]) == set(checks.CHECKS)
        assert method["passed"] == (not method["failed"])


def test_what_is_written_lies_where_it_is_said_to(result, place):
    out = place / "out"
    assert json.loads((out / "explanations.json").read_text()) == result
    row = result["cases"][0]
    stored = np.asarray(Pillow.open(place / "data" / row["case"]))
    for method in row["methods"].values():
        drawn = Pillow.open(out / method["overlays"][0])
        assert drawn.size == (SIZE[1], SIZE[0])
    plain = np.asarray(Pillow.open(out / row["picture"][0]))
    away = np.abs(plain[..., 0].astype(int) - stored) == 0
    assert away.mean() > 0.9  # all but the line around the mask, and not turned
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 6 * 4
    assert "http" not in page.replace("http-equiv", "")
    assert len(page) < 2_000_000


def test_the_most_alike_labelled_cases_are_other_patients_of_the_training_part(result, cases):
    train = {c.id for c in cases if c.split == "train"}
    for row in result["cases"]:
        near = row["nearest"]
        assert len(near) == 5
        assert {n["case"] for n in near} <= train
        assert [n["nearness"] for n in near] == sorted((n["nearness"] for n in near), reverse=True)
    alike = [row["nearest"][0]["label"] == row["truth"] for row in result["cases"]]
    assert np.mean(alike) > 0.7


def test_stopped_work_goes_on_with_the_next_case(predictor, table, place, monkeypatch):
    out = place / "stopped"
    whole = explained(predictor, table, out, place, cases=3, methods="hires_cam")
    kept = sorted((out / "cases").iterdir())
    assert len(kept) == 3
    kept[1].unlink()
    asked = []
    original = checks.Tested.test

    def counted(self, method):
        asked.append(method)
        return original(self, method)

    monkeypatch.setattr(checks.Tested, "test", counted)
    again = explained(predictor, table, out, place, cases=3, methods="hires_cam")
    assert asked == ["hires_cam"]
    for one, other in zip(whole["cases"], again["cases"], strict=True):
        assert one["methods"]["hires_cam"]["tests"] == other["methods"]["hires_cam"]["tests"]


def test_bad_input_is_told_in_a_sentence(predictor, table, cases, encoder, place, tmp_path):
    with pytest.raises(UserError, match="no method of explaining is called grad_kam"):
        explained(predictor, table, tmp_path, place, methods="grad_kam")
    with pytest.raises(UserError, match="knows no class 'round'"):
        explained(predictor, table, tmp_path, place, of="round")
    with pytest.raises(UserError, match="allows no attention_rollout"):
        explained(predictor, table, tmp_path, place, cases=1, methods="attention_rollout")
    with pytest.raises(UserError, match="no case stands in the part 'exam'"):
        explained(predictor, table, tmp_path, place, part="exam")
    blind = majority(None, cases, Classify(["marked", "plain"]))
    with pytest.raises(UserError, match="has no network behind its answers"):
        explained(handed_over(tmp_path / "majority", None, blind, "majority"), table, tmp_path, place)


def test_a_broken_mask_leaves_its_case_out(predictor, place, tmp_path):
    table = plant(tmp_path / "data", 8)
    (tmp_path / "data" / "masks" / "005.png").write_bytes(b"no picture")
    found = explained(predictor, table, tmp_path / "out", place, cases=0, methods="hires_cam")
    assert [row["case"] for row in found["cases"]] == ["004.png", "006.png", "007.png"]
    assert "005.png" in found["left_out"][0]["source"]
    assert (tmp_path / "out" / "left_out.csv").is_file()


@pytest.mark.parametrize("method", [linear_probe, ridge, prototype, knn])
def test_what_is_differentiated_answers_as_the_predictor_does(method, encoder, cases):
    settings = {"neighbours": 1} if method is knn else {}
    fitted = method(encoder, cases[:20], Classify(["marked", "plain"]), **settings)
    for case in cases[20:24]:
        seen = see(fitted, case, 1)
        sure = float(seen.sureness(seen.batch).detach())
        answer = fitted.predict([case])[0, 1]
        if method is knn:
            assert (sure > 0.5) == (answer > 0.5)
        else:
            assert sure == pytest.approx(answer, abs=0.03)  # the cache may hold bf16


def test_a_tuned_transformer_is_explained_by_its_attention_too(place, cases):
    name = tiny_encoder(place / "cache")
    encoder = resolve(name, size=64, cache=place / "cache")
    tuned = full(encoder, cases[:8], Classify(["marked", "plain"]), least_steps=2, most_steps=2)
    seen = see(tuned, cases[21], 0)
    sure = float(seen.sureness(seen.batch).detach())
    assert sure == pytest.approx(tuned.predict([cases[21]])[0, 0], abs=1e-3)
    maps = Maps(seen)
    assert maps.possible() == [
        "grad_cam", "hires_cam", "layer_cam", "attention_rollout", "attention_relevance",
        "integrated_gradients", "occlusion",
    ]  # fmt: skip
    for method in maps.possible():
        found = maps.map(method)
        assert found.shape == (1, 64, 64)
        assert (found >= 0).all()
        if method.startswith(("attention", "integrated")):  # others may find nothing that speaks for it
            assert np.ptp(found) > 0


def test_the_report_takes_the_map_that_points_best_in_networks_of_that_kind(place, cases, predictor):
    from medspectrum.saliency.asked import Asked

    def asked(one):
        return [Asked(cases[21], "marked", "marked", 0.9, "marked", lambda: see(one, cases[21], 0))]

    encoder = resolve(tiny_encoder(place / "cache"), size=64, cache=place / "cache")
    tuned = full(encoder, cases[:8], Classify(["marked", "plain"]), least_steps=2, most_steps=2)
    assert cheap(asked(tuned)) == "hires_cam"
    assert cheap(asked(load_predictor(predictor, cache=place / "cache").predictor)) == "layer_cam"
    seen = see(tuned, cases[21], 0)
    alone = [replace(asked(tuned)[0], see=lambda: seen.by(seen.module, None))]
    assert cheap(alone) == "integrated_gradients"


def test_attention_is_caught_without_changing_the_answer():
    import timm
    import torch

    network = timm.create_model("test_vit", num_classes=0).eval()
    batch = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    given, held = attention.caught(lambda: network(batch))
    assert torch.allclose(given, network(batch), atol=1e-5)
    assert len(held) == len(network.blocks)  # type: ignore[arg-type]
    assert torch.allclose(held[0].sum(-1), torch.ones(held[0].shape[:-1]))
    tokens = held[0].shape[-1]
    first = torch.nn.functional.one_hot(torch.zeros(2, dtype=torch.long), tokens).float()
    rolled = attention.rollout([h.detach() for h in held], first)
    assert rolled.shape == (2, 10, 10)
    assert (rolled.flatten(1).sum(1) < 1).all()  # the rest stays with the class token


def square(encoder, image: Image, views) -> tuple[Seen, np.ndarray]:
    """The image's own brightness as the network sees it, taken for a map."""
    made = encoder.prepare(image)
    made = made if made.ndim == 4 else made[None]
    case = Case("made", "p", {})
    seen = Seen(case, None, None, None, tuple(views), {"image": image}, 0)  # type: ignore[arg-type]
    return seen, made.mean(axis=1)


def test_maps_come_back_to_the_pixels_they_were_seen_at(encoder):
    pixels = np.zeros((1, 1, *SIZE), np.uint8)
    pixels[..., 5:11, 40:52] = 255  # high up, on the right
    seen, looked = square(encoder, Image(pixels), [View("image", 0, 0)])
    back = seen.back(looked)["image"][0]
    assert back.shape == SIZE
    away = pixels[0, 0] == 0
    assert back[~away].min() > back[away].mean() + 1
    assert np.corrcoef(back.ravel(), pixels[0, 0].ravel())[0, 1] > 0.95


def test_maps_of_slices_come_back_into_the_volume(encoder):
    volume = np.zeros((1, 20, 18, 6), np.uint8)
    volume[:, 3:9, 11:16, 4] = 255
    affine = np.diag([5.0, 1.0, 1.0, 1.0])  # cut along x
    image = Image(volume, affine)
    seen, looked = square(encoder, image, [View("image", 2, i) for i in range(6)])
    back = seen.back(looked)["image"]
    assert back.shape == (20, 18, 6)
    assert np.corrcoef(back.ravel(), volume.ravel())[0, 1] > 0.95
    thinned = replace(seen, views=tuple(View("image", 2, i) for i in (0, 4)))
    between = thinned.back(looked[[0, 4]])["image"]
    middle = between[5, 13]
    assert middle[0] < middle[2] < middle[4]
    assert middle[2] == pytest.approx((middle[0] + middle[4]) / 2, abs=1e-5)
    assert middle[5] == middle[4]


def test_planes_of_a_volume_are_shown_as_radiologists_look():
    volume = np.zeros((1, 12, 10, 8), np.float32)
    heat = np.zeros((12, 10, 8), np.float32)
    # stored towards Left, Posterior, Inferior: low indices are the patient's right, front and head
    affine = np.diag([-1.0, -1.0, -1.0, 1.0])
    heat[1, 2, 3] = 1.0
    volume[:, 1, 2, 3] = 100.0
    drawn = overlay.drawn(Image(volume, affine), heat)
    places = {n: np.unravel_index(int(p.sum(axis=2).argmax()), p.shape[:2]) for n, p in drawn.items()}
    assert drawn["axial"].shape == (10, 8, 3)
    assert places["axial"] == (2, 3)  # front at the top, right side at the left
    assert places["coronal"] == (1, 3)  # head at the top
    assert places["sagittal"] == (1, 2)  # front at the left
    turned = overlay.drawn(Image(volume[:, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0])), heat[::-1])
    assert all(np.array_equal(turned[n], drawn[n]) for n in drawn)


def test_a_map_of_the_right_places_beats_chance_and_its_opposite_does_not():
    import torch

    batch = torch.zeros(1, 1, 1, 28, 28)
    batch[..., 3:9, 18:24] = 1
    good = batch[0, 0, 0].numpy()

    def score(given):
        return given[:, 0, 0, 3:9, 18:24].mean(dim=(1, 2))

    blank = torch.zeros_like(batch)
    best = erasing.areas(score, batch, blank, good[None], channels=2)
    worst = erasing.areas(score, batch, blank, 1 - good[None], channels=2)
    chance = erasing.areas(
        score, batch, blank, erasing.by_chance((1, 28, 28), np.random.default_rng(0)), channels=2
    )
    assert best[0] < chance[0] < worst[0]
    assert best[1] > chance[1] > worst[1]
    covered = inputs.occlusion(score, batch, blank, channels=2)[0, 0].numpy()
    summed = inputs.integrated_gradients(score, batch, blank, channels=2)[0, 0].numpy()
    for found in (covered, summed):
        assert checks.pointing(found[None], good[None] > 0)[0] == 1


def test_pointing_knows_rows_from_columns_and_a_flat_map_hits_nothing():
    inside = np.zeros((1, 20, 30), bool)
    inside[0, 2:6, 20:28] = True
    heat = np.zeros((1, 20, 30), np.float32)
    heat[0, 3, 25] = 1
    assert checks.pointing(heat, inside)[0] == 1
    heat = np.zeros((1, 20, 30), np.float32)
    heat[0, 15, 3] = 1
    assert checks.pointing(heat, inside)[0] == 0
    assert checks.pointing(np.ones_like(heat), inside) == (0, 0, pytest.approx(32 / 600))


def test_shuffling_keeps_the_weights_and_loses_what_they_know():
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    before = {n: p.clone() for n, p in module.named_parameters()}
    other = randomised.randomised(module, 3)
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    mine = dict(other.named_parameters())["0.weight"].detach().flatten()
    theirs = before["0.weight"].flatten()
    assert not torch.equal(mine, theirs)
    assert torch.equal(mine.sort().values, theirs.sort().values)
    ramp = np.arange(50.0)
    assert randomised.likeness(ramp, ramp**3) == pytest.approx(1)
    assert randomised.likeness(ramp, -ramp) == pytest.approx(-1)
    assert randomised.likeness(ramp, np.zeros(50)) == 0


def test_a_check_passes_fails_or_says_that_it_cannot_be_told():
    patients = [f"p{i}" for i in range(12)]
    rng = np.random.default_rng(0)

    def told(gain, likeness):
        return [{"deletion": gain + rng.normal(0, 0.02), "randomised": likeness} for _ in patients]

    good = checks.verdict(told(0.3, 0.1), patients, seed=0)
    assert good["passed"] is True
    assert not good["failed"]
    same = checks.verdict(told(0.3, 0.9), patients, seed=0)
    assert same["failed"] == ["randomised"]
    chance = checks.verdict(told(0.0, 0.1), patients, seed=0)
    assert chance["failed"] == ["deletion"]
    one = checks.verdict(told(0.3, 0.1)[:3], ["p0"] * 3, seed=0)
    assert one["passed"] is None
    assert one["checks"]["deletion"]["passed"] is None


def test_the_report_of_an_exploration_explains_a_few_test_cases(table, place, tmp_path):
    given = {
        "label": "kind", "mask": "mask", "task": "classify", "models": "efficientnet-lite0",
        "methods": "linear_probe", "budgets": "full", "draws": 1, "size": 96, "cache": place / "cache",
        "quiet": True,
        # the audit finds what was planted
        "accept": "intensity-is-class,levels-is-class,noise-is-class,compression-is-class,marks-is-class",
    }  # fmt: skip
    found = medspectrum.explore(table, out=tmp_path / "run", explained=2, **given)
    told = found["explanations"]
    assert json.loads((tmp_path / "run" / "explanations" / "explanations.json").read_text()) == told
    assert len(told["cases"]) == 2
    assert list(told["methods"]) == ["layer_cam"]
    assert {"randomised", "deletion", "insertion"} <= set(told["methods"]["layer_cam"]["checks"])
    test = {f"{n:03d}.png" for n in range(20, 40)}
    assert {row["case"] for row in told["cases"]} <= test
    page = (tmp_path / "run" / "report.html").read_text()
    section = page[page.index('<section id="explanations">') :].partition("</section>")[0]
    assert section.count("data:image/jpeg") == 4
    assert ("did not pass" in section) == (told["methods"]["layer_cam"]["passed"] is False)
    off = medspectrum.explore(table, out=tmp_path / "off", explained=0, **given)
    assert "explanations" not in off
    assert 'id="explanations"' not in (tmp_path / "off" / "report.html").read_text()


def test_time_that_is_up_begins_no_further_case(predictor, table, place, tmp_path):
    from medspectrum.saliency import asked, rows

    saved = load_predictor(predictor, cache=place / "cache")
    cases = [c for c in load(table, label="kind", mask="mask").cases if c.split == "test"]
    chosen, _ = asked.drawn(saved, Classify(["marked", "plain"]), cases, "", 4, 0)
    seen = []
    made, failed = rows.explained(
        saved, chosen, ["layer_cam"], tmp_path, 0, lambda done, total: seen.append((done, total)), seconds=0.0
    )
    assert not failed
    assert len(made) < len(chosen) == 4
    assert seen[-1] == (len(made), 4)


def test_what_would_take_long_or_cannot_be_followed_is_said_in_the_report(
    predictor, encoder, table, place, tmp_path, monkeypatch
):
    from medspectrum.saliency import at_hand, rows

    cases = [c for c in load(table, label="kind", mask="mask").cases if c.split == "test"]
    task = Classify(["marked", "plain"])

    def some():
        return at_hand.explain_some(predictor, encoder, task, cases, 2, tmp_path / "out", seed=0)

    monkeypatch.setattr(type(encoder), "seconds_per_image", lambda self, level: (1.0, 1.0))
    long = some()
    assert not long["cases"]
    assert "180 s of processor time" in long["why"]
    monkeypatch.setattr(type(encoder), "seconds_per_image", lambda self, level: (0.0, 0.0))

    def broken(*given, **settings):
        raise RuntimeError("no such layer")

    monkeypatch.setattr(rows, "explained", broken)
    assert "no such layer" in some()["why"]
    assert not (tmp_path / "out").exists()

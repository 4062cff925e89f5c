"""Explanations of outlines, boxes and volumes: the score is the answer's own, and maps come back in place."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

import medspectrum
from made_boxes import boxed, write_coco
from made_outlines import outlined, write_pairs
from medspectrum.case import Case, LazyImage
from medspectrum.datasets import load
from medspectrum.engine import heads
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.methods.dense_knn import dense_knn
from medspectrum.methods.dense_probe import dense_probe
from medspectrum.methods.detector import detector
from medspectrum.methods.linear_probe import linear_probe
from medspectrum.models import resolve
from medspectrum.models._volumes import taking
from medspectrum.predictor import save_predictor
from medspectrum.registry import entries
from medspectrum.saliency import checks, dense
from medspectrum.saliency.maps import Maps
from medspectrum.saliency.seen import see
from medspectrum.tasks.classify import Classify
from medspectrum.tasks.detect import Detect
from medspectrum.tasks.segment import Segment


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("explain_dense")


@pytest.fixture(scope="module")
def encoder(place):
    return resolve("efficientnet-lite0", size=96, cache=place / "cache")


def saved(folder, encoder, predictor, task, method):
    facts = {
        "task": task.name, "task_settings": task.settings(), "method": method, "model": encoder.card.name,
        "model_key": encoder.key, "size": encoder.size[-1],
    }  # fmt: skip
    save_predictor(folder, predictor, facts)
    return folder


@pytest.fixture(scope="module")
def pairs(place):
    return write_pairs(place / "pairs", 8)


@pytest.fixture(scope="module")
def probe(pairs, encoder):
    """(cases, task, predictor)"""
    cases = load(pairs).cases
    task = Segment.of(cases)
    return cases, task, dense_probe(encoder, cases[:5], task, pixels=3000)


def test_an_outline_is_explained_from_the_verb_to_the_page(place, pairs, probe, encoder):
    _, task, predictor = probe
    folder = saved(place / "probe", encoder, predictor, task, "dense_probe")
    found = medspectrum.explain(
        folder, pairs, out=place / "out", cases=2, methods="layer_cam", cache=place / "cache", quiet=True
    )
    assert found["task"]["name"] == "segment"
    assert "outlined" in found["score"]
    assert len(found["cases"]) == 2
    tests = [row["methods"]["layer_cam"]["tests"] for row in found["cases"]]
    assert np.mean([t["overlap"] for t in tests]) > 0.1  # far more of it lies in the ring than by chance
    assert np.mean([t["insertion"] for t in tests]) > 0
    for row in found["cases"]:
        assert Pillow.open(place / "out" / row["picture"][0]).size == (44, 36)
    assert (place / "out" / "report.html").stat().st_size < 1_000_000


def test_the_score_of_an_outline_is_the_mean_of_its_own_logits(probe):
    import torch

    cases, _, predictor = probe
    [found] = predictor.predict(cases[7:])
    for label in (1, 2):
        seen = dense.see_outline(predictor, cases[7], found, label)
        with torch.inference_mode():
            logits = seen.module(seen.batch)
        assert logits.shape == (1, 3)
        assert int(logits.argmax()) == label  # where it was outlined, its own score is the highest
    assert dense.largest(found) == int(np.bincount(found.array().ravel())[1:].argmax()) + 1


def test_a_volume_is_explained_in_the_slice_that_holds_most(encoder):
    cases = outlined(4, kind="volume")
    task = Segment.of(cases)
    predictor = dense_probe(encoder, cases[:3], task, pixels=3000)
    [found] = predictor.predict(cases[3:])
    seen = dense.see_outline(predictor, cases[3], found, 2)
    [view] = seen.views
    counts = np.moveaxis(found.array() == 2, view.axis, 0).sum(axis=(1, 2))
    assert counts[view.place] == counts.max()
    heat = seen.back(Maps(seen).map("layer_cam"))["image"]
    assert heat.shape == found.array().shape
    others = np.delete(heat, view.place, axis=view.axis)
    assert others.max() == 0
    assert seen.told_of(heat).max() > 0
    inside = checks.marked(cases[3], "ring")
    assert inside is not None
    assert np.array_equal(inside, cases[3].target.mask.load().array[0] == 2)  # type: ignore[union-attr]


def test_a_box_is_explained_by_its_own_score(place, encoder):
    cases = boxed(10)
    task = Detect.of(cases)
    predictor = detector(encoder, cases[:8], task, least_steps=25, most_steps=25)
    [found] = predictor.predict(cases[9:])
    label = int(found.labels[0])
    seen = dense.see_box(predictor, cases[9], found, label)
    sure = float(seen.sureness(seen.batch).detach())
    assert sure == pytest.approx(float(found.scores[0]), abs=0.03)
    data = write_coco(place / "coco", 6)
    folder = saved(place / "detector", encoder, predictor, task, "detector")
    told = medspectrum.explain(
        folder, data, out=place / "boxes", cases=2, methods="layer_cam", cache=place / "cache", quiet=True
    )
    assert len(told["cases"]) == 2
    assert all(0 < row["probability"] <= 1 for row in told["cases"])
    assert {"pointing", "overlap"} <= set(told["methods"]["layer_cam"]["checks"])


def test_what_cannot_be_followed_is_said_in_a_sentence(probe, encoder):
    cases, task, looked = probe
    predictor = dense_knn(encoder, cases[:4], task)
    [found] = looked.predict(cases[5:6])
    with pytest.raises(UserError, match="cannot be followed back into the picture"):
        dense.see_outline(predictor, cases[5], found, 1)


def bright(seed: int, kind: int, *, turned: bool = False) -> Image:
    """A cold volume with a warm block off the middle of it; the class is how warm the block is."""
    rng = np.random.default_rng(seed)
    values = rng.normal(-1100, 15, (20, 28, 36))
    values[4:16, 6:24, 5:30] += 900
    values[6:10, 8:14, 20:28] += 400 + 600 * kind
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    if turned:
        values, affine = values[::-1, :, ::-1], np.diag([-1.5, 1.5, -2.0, 1.0])
    return Image(np.ascontiguousarray(values[None]).astype(np.int16), affine, "CT")


def test_maps_of_a_network_for_volumes_come_back_through_turning_and_cutting():
    """A network that means what it sees: its input, taken for a map, has to lie where it came from."""
    from medspectrum.models._volumes import extent
    from medspectrum.saliency.seen import _into

    own_input = taking("made", (-800.0, 1000.0))
    for turned in (False, True):
        image = bright(0, 1, turned=turned)
        cut = extent(own_input, image)
        assert cut is not None
        shape = tuple(s.stop - s.start for s in cut)
        assert shape == (12, 18, 25)
        looked = own_input(image, (24, 36, 50))[0]
        back = _into(looked, image, cut)
        known = np.clip((image.array[0] + 800) / 1800, 0, 1)
        assert np.corrcoef(back.ravel(), known.ravel())[0, 1] > 0.95
        top = np.unravel_index(int(back.argmax()), back.shape)
        assert known[top] > 0.9


def test_a_volume_is_explained_by_a_network_for_volumes(place):
    encoder = entries("model")["ct-fm"].facts["tiny"](cache=place / "cache")
    cases = [
        Case(
            f"v{i}",
            f"p{i}",
            {"ct": LazyImage(f"v{i}", lambda i=i: bright(i, i % 2), lambda i=i: f"{i:032x}")},
        )
        for i in range(6)
    ]

    class Task(Classify):
        def target(self, case):
            return int(case.id[1:]) % 2

    fitted = linear_probe(encoder, cases[:5], Task(["cool", "warm"]))
    seen = see(fitted, cases[5], 1)
    assert seen.batch.shape[2:] == (1, *encoder.size)
    sure = float(seen.sureness(seen.batch).detach())
    assert sure == pytest.approx(fitted.predict([cases[5]])[0, 1], abs=0.05)
    maps = Maps(seen)
    assert maps.possible() == ["grad_cam", "hires_cam", "layer_cam", "integrated_gradients", "occlusion"]
    for method in maps.possible():
        heat = seen.back(maps.map(method))["ct"]
        assert heat.shape == (20, 28, 36)
        assert heat[:4].max() == 0  # air above is cut off before the network sees the volume
        assert (heat >= 0).all()


def test_the_map_of_a_volume_is_written_on_its_own_grid(tmp_path):
    from medspectrum.saliency import overlay

    image = bright(0, 1, turned=True)
    heat = np.zeros(image.size, np.float32)
    heat[3, 5, 7] = 4
    overlay.write_volume(tmp_path / "map.nii.gz", image, heat)
    read = nibabel.load(tmp_path / "map.nii.gz")  # type: ignore[attr-defined]
    assert np.allclose(read.affine, image.affine)  # type: ignore[attr-defined]
    values = np.asarray(read.dataobj)  # type: ignore[attr-defined]
    assert values.shape == (36, 28, 20)
    assert np.argwhere(values > 0).tolist() == [[7, 5, 3]]
    assert values.max() == 1


def test_groups_of_pictures_are_averaged_as_features_are():
    import torch

    network = torch.nn.Flatten()
    head = heads.linear(np.array([[1.0], [0.0], [10.0], [0.0]]), np.array([0.5]))
    whole = heads.on_features(network, head, [(0, 2), (2, 3)], joined=True)
    batch = torch.tensor([[[[[1.0, 9]]], [[[3.0, 9]]], [[[5.0, 9]]]]])
    assert whole(batch).tolist() == [[0.0, 2.0 + 50.0 + 0.5]]

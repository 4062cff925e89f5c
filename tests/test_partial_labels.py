"""Masks that do not show all labels: what one does not show is no background, in training and in scores."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.datasets import load
from medspectrum.engine.overlap_loss import overlap_loss
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.methods._dense import marked_as
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

NAMES = {1: "bright", 2: "dark"}
SIZE = (40, 48)


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a bright and a dark disc apart from each other, and where they are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SIZE)
    labels = np.zeros(SIZE, np.uint8)
    sides = rng.permutation(2)
    for label, side in zip((1, 2), sides, strict=True):
        middle = (rng.uniform(10, 30), 12 + 24 * side + rng.uniform(-3, 3))
        labels[np.hypot(rows - middle[0], columns - middle[1]) < rng.uniform(5, 8)] = label
    pixels = np.array([120, 210, 40])[labels] + rng.normal(0, 15, SIZE)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def picture(seed: int) -> Image:
    return Image(made(seed)[0][None, None])


def mask(seed: int, shown: tuple[int, ...]) -> Image:
    labels = made(seed)[1]
    return Image((labels * np.isin(labels, shown)).astype(np.uint8)[None, None])


def key(*parts: object) -> str:
    return "-".join(map(str, parts))


def case(seed: int, shown: tuple[int, ...] = (1, 2), *, told: bool = True) -> Case:
    """One whose mask shows these labels only. told: that it does so."""
    target = MaskTarget(
        LazyImage(f"{seed}m", functools.partial(mask, seed, shown), functools.partial(key, seed, shown)),
        NAMES,
        {NAMES[k]: "" for k in NAMES if k not in shown} if told else {},
    )
    image = LazyImage(f"{seed}i", functools.partial(picture, seed), functools.partial(key, seed))
    return Case(f"c{seed}", f"p{seed}", {"image": image}, target)


def two_sets(count: int, *, told: bool = True) -> list[Case]:
    """One source outlined the bright discs alone; the other, a third of its size, the dark ones."""
    return [case(i, (1,) if i % 4 else (2,), told=told) for i in range(count)]


def dice_of(cases: list[Case]) -> dict[str, float]:
    """Of each label on pictures that are outlined in full."""
    task = Segment.of(cases)
    settings = {"epochs": 1.0, "least_steps": 400, "most_steps": 400, "features": 8}
    predictor = find("method", "unet").thing(None, cases, task, seed=0, **settings)
    judged = [case(i) for i in range(100, 108)]
    found = task.score(predictor.predict(judged), judged, resamples=0)["per_class"]
    return {name: found[name]["dice"]["value"] for name in NAMES.values()}


def test_a_network_finds_both_organs_though_no_mask_shows_both():
    pytest.importorskip("monai")
    by_partial = dice_of(two_sets(16))
    assert min(by_partial.values()) > 0.85
    as_background = dice_of(two_sets(16, told=False))
    assert as_background["dark"] < by_partial["dark"] - 0.2


def test_what_is_not_shown_costs_nothing_and_what_is_shown_does():
    labels = torch.tensor([[0, 1, 0, 0]])
    marked = torch.tensor([[0, 1, 0]])  # label 2 is not shown: it lies in what is marked 0

    def scores(*said: int) -> torch.Tensor:
        return 12.0 * torch.nn.functional.one_hot(torch.tensor(said), 3).T[None].float()

    right = overlap_loss(scores(0, 1, 0, 0), labels, marked=marked)
    also = overlap_loss(scores(2, 1, 2, 0), labels, marked=marked)
    wrong = overlap_loss(scores(0, 2, 0, 0), labels, marked=marked)
    assert also == pytest.approx(float(right), abs=1e-4)
    assert float(wrong) > float(right) + 1
    assert float(overlap_loss(scores(2, 1, 2, 0), labels)) > float(right) + 1


def test_a_part_hidden_in_a_larger_one_counts_as_that():
    labels = torch.tensor([[0, 1, 1, 0]])
    marked = torch.tensor([[0, 1, 1]])  # tumour is marked as liver
    scores = 12.0 * torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 0]), 3).T[None].float()
    assert float(overlap_loss(scores, labels, marked=marked)) < 0.01
    outside = 12.0 * torch.nn.functional.one_hot(torch.tensor([2, 1, 1, 0]), 3).T[None].float()
    assert float(overlap_loss(outside, labels, marked=marked)) > 1


def test_where_each_label_is_its_own_the_loss_is_the_usual_one():
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn((2, 4, 5, 6), generator=rng)
    labels = torch.randint(0, 4, (2, 5, 6), generator=rng)
    own = torch.arange(4).repeat(2, 1)
    assert overlap_loss(scores, labels, marked=own) == pytest.approx(
        float(overlap_loss(scores, labels)), abs=1e-5
    )


def test_scores_pass_over_what_was_not_outlined():
    cases = [case(1, (1,)), case(2)]
    task = Segment.of(cases)
    truth = [LabelMap.of(made(seed)[1][None]) for seed in (1, 2)]
    tables = task.tables(truth, cases)
    assert tables["dice"][0, 0] == 1
    assert np.isnan(tables["dice"][0, 1])  # the dark disc that was found is no error, and no merit
    assert tables["dice"][1].tolist() == [1, 1]
    plain = [case(1, (1,), told=False), case(2)]
    assert Segment.of(plain).tables(truth, plain)["dice"][0, 1] == 0


def test_a_case_outlined_otherwise_is_another_question():
    task = Segment.of([case(1)])
    assert task.fingerprint(case(1, (1,))) != task.fingerprint(case(1, (1,), told=False))
    assert task.marked_as(case(1)) is None
    found = marked_as([case(1, (1,)), case(2)], task)
    assert found is not None
    assert found.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert marked_as([case(1), case(2)], task) is None


@pytest.mark.parametrize("name", ["mean_mask", "propagate"])
def test_methods_that_would_learn_background_refuse(name):
    cases = two_sets(4)
    with pytest.raises(UserError, match="do not show all labels"):
        find("method", name).thing(None, cases, Segment.of(cases), seed=0)


def test_things_are_not_told_apart_in_partial_masks():
    one = case(1, (1,))
    task = find("task", "instances").thing.of([case(2), case(3)])
    assert "does not show dark" in task.lacking(one)
    assert isinstance(one.target, MaskTarget)
    assert "does not show" not in task.lacking(replace(one, target=replace(one.target, unseen={})))


def test_a_table_says_what_masks_show(tmp_path):
    from PIL import Image as Pillow

    for name, array in (("a.png", made(1)[0]), ("m.png", made(1)[1])):
        Pillow.fromarray(array).save(tmp_path / name)
    head = "image,mask,mask_labels,mask_unseen\n"
    (tmp_path / "cases.csv").write_text(head + "a.png,m.png,1=bright;2=dark;3=core,dark=;core=bright\n")
    found = load(tmp_path / "cases.csv").cases[0]
    assert found.target is not None
    assert isinstance(found.target, MaskTarget)
    assert found.target.labels == {1: "bright", 2: "dark", 3: "core"}
    assert found.target.unseen == {"dark": "", "core": "bright"}
    assert "mask_unseen" not in found.record
    (tmp_path / "cases.csv").write_text(head + "a.png,m.png,bright,\n")
    with pytest.raises(UserError, match=r"line 2: mask_labels holds 'bright'"):
        load(tmp_path / "cases.csv")

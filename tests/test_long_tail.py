"""Rare classes: how losses and samplers weigh them, how heads turn to them, and how they are scored apart."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fake_encoder import Projection, cases_of  # noqa: E402
from medspectrum.engine import train  # noqa: E402
from medspectrum.engine.class_loss import LOSSES, class_loss, shares, weights_of  # noqa: E402
from medspectrum.engine.descend import Order  # noqa: E402
from medspectrum.errors import UserError  # noqa: E402
from medspectrum.methods.linear_probe import WEIGHTINGS, linear_probe  # noqa: E402
from medspectrum.metrics.classification import long_tail, some_classes  # noqa: E402
from medspectrum.tasks.classify import Classify  # noqa: E402

COUNTS = np.array([400, 40, 4])


@pytest.mark.parametrize("name", ["balanced", "plain", "effective"])
def test_weights_are_one_on_average(name):
    weights = weights_of(name, COUNTS)
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum(), rel=1e-5)


def test_effective_numbers_lie_between_plain_and_balanced_and_follow_the_formula():
    ratio = {n: float(weights_of(n, COUNTS)[2] / weights_of(n, COUNTS)[0]) for n in ("balanced", "effective")}
    assert ratio["balanced"] == pytest.approx(100, rel=1e-4)
    assert ratio["effective"] == pytest.approx((1 - 0.999**400) / (1 - 0.999**4), rel=1e-4)


def test_a_class_without_cases_weighs_nothing():
    assert weights_of("balanced", np.array([3, 0, 5]))[1] == 0


def test_plain_and_balanced_losses_are_those_of_torch():
    logits, answer = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    plain = class_loss("plain", COUNTS)(logits, answer, 0.0)
    assert torch.allclose(plain, torch.nn.functional.cross_entropy(logits, answer))
    weights = torch.from_numpy(weights_of("balanced", COUNTS))
    each = torch.nn.functional.cross_entropy(logits, answer, reduction="none")
    assert torch.allclose(
        class_loss("balanced", COUNTS)(logits, answer, 0.0), (each * weights[answer]).mean()
    )


def test_adjusted_is_the_balanced_softmax():
    logits, answer = torch.randn(5, 3).double(), torch.tensor([0, 1, 2, 2, 0])
    told = torch.from_numpy(COUNTS) * logits.exp()
    by_hand = -(told.gather(1, answer[:, None])[:, 0] / told.sum(1)).log().mean()
    assert torch.allclose(class_loss("adjusted", COUNTS)(logits, answer, 0.0), by_hand, atol=1e-6)


def test_ldam_asks_for_a_wider_margin_in_rare_classes_and_weighs_them_at_the_end():
    loss = class_loss("ldam", COUNTS)
    logits = torch.zeros(1, 3)
    common, rare = (float(loss(logits, torch.tensor([c]), 0.0)) for c in (0, 2))
    assert rare > common > float(class_loss("plain", COUNTS)(logits, torch.tensor([0]), 0.0))
    assert float(loss(logits, torch.tensor([2]), 0.9)) > 10 * rare


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="none of balanced"):
        class_loss("hinge", COUNTS)


def test_samplers_draw_rare_classes_more_often():
    targets = np.repeat([0, 1], [90, 10])
    drawn = {}
    for name in ("cases", "root", "classes"):
        order = Order(np.arange(100), 0, shares(name, targets))
        seen = np.concatenate([order.batch(step, 20) for step in range(100)])
        drawn[name] = float((targets[seen] == 1).mean())
    assert drawn["cases"] == pytest.approx(0.1)
    assert drawn["root"] == pytest.approx(0.25, abs=0.03)
    assert drawn["classes"] == pytest.approx(0.5, abs=0.03)


def overlapping(n: int = 600, seed: int = 0):
    """Two overlapping classes, one case in ten of the second."""
    rng = np.random.default_rng(seed)
    targets = (rng.random(n) < 0.1).astype(np.int64)
    pictures = rng.normal(0, 1, (n, 1, 4, 4)) + 0.25 * targets[:, None, None, None]
    return pictures.astype(np.float32), targets


def rare_found(**options) -> float:
    pictures, targets = overlapping()
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    inputs = train.Inputs(lambda i: pictures[i], len(pictures))
    rate = train.Rate(list(network.parameters()), 3e-2)
    train.fit(network, inputs, targets, classes=2, rates=[rate], steps=150, **options)
    fresh, truth = overlapping(seed=1)
    with torch.inference_mode():
        called = network(torch.from_numpy(fresh)).argmax(1).numpy()
    return float((called[truth == 1] == 1).mean())


@pytest.mark.parametrize(
    "options",
    [{"loss": name} for name in LOSSES if name != "plain"] + [{"loss": "plain", "sampler": "classes"}],
    ids=str,
)
def test_every_remedy_finds_more_of_the_rare_class_than_plain_training(options):
    assert rare_found(**options) > rare_found(loss="plain") + 0.2


def test_every_weighting_of_the_probe_answers_for_equally_common_classes():
    cases = cases_of({"a": 270, "b": 30})
    task = Classify(["a", "b"])
    truth = np.array([task.target(c) for c in cases])
    called, narrow = {}, Projection(width=2)  # two numbers, by which the classes overlap
    for weighting in WEIGHTINGS:
        head = linear_probe(narrow, cases, task, weighting=weighting)
        called[weighting] = float(head.predict(cases)[truth == 1].argmax(1).mean())
    plain = linear_probe(narrow, cases, task, weighting="none", prevalence="labelled")
    of_plain = float(plain.predict(cases)[truth == 1].argmax(1).mean())
    assert min(called.values()) > of_plain
    assert max(called.values()) - min(called.values()) < 0.25


def test_an_unknown_weighting_is_refused():
    cases = cases_of({"a": 10, "b": 10})
    with pytest.raises(UserError, match="weighting is one of classes"):
        linear_probe(Projection(), cases, Classify(["a", "b"]), weighting="log")  # type: ignore[arg-type]


def test_groups_by_their_share_of_the_largest_class():
    assert long_tail([100, 60, 30, 20, 1]) == {"head": [0, 1], "medium": [2], "tail": [3, 4]}
    assert long_tail([100, 40]) == {}
    assert long_tail([]) == {}


def test_scores_of_some_classes_alone():
    truth = np.array([0, 0, 1, 1, 2])
    called = np.eye(3)[[0, 0, 1, 0, 1]]
    assert some_classes(called, truth, [0, 1])["balanced_accuracy"] == pytest.approx(0.75)
    assert some_classes(called, truth, [2])["balanced_accuracy"] == 0.0
    assert np.isnan(some_classes(called[:4], truth[:4], [2])["balanced_accuracy"])


def test_the_task_scores_common_and_rare_classes_apart():
    cases = cases_of({"common": 100, "rare": 10})
    task = Classify.of(cases)
    truth = np.array([task.target(c) for c in cases])
    only_common = np.tile([0.9, 0.1], (len(cases), 1))
    groups = task.in_detail(only_common, cases)["per_group"]
    assert groups["head"]["classes"] == ["common"]
    assert groups["head"]["balanced_accuracy"]["value"] == 1.0
    assert groups["tail"]["n"] == (truth == 1).sum()
    assert groups["tail"]["balanced_accuracy"]["value"] == 0.0
    again = Classify(**task.settings())
    assert again.in_detail(only_common, cases)["per_group"] == groups

"""Methods that change the network: what learns, what is kept, and that it can be restored."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from medspectrum import registry  # noqa: E402
from medspectrum.card import Card  # noqa: E402
from medspectrum.case import Case, ClassTarget, LazyImage  # noqa: E402
from medspectrum.engine.encoder import Encoder  # noqa: E402
from medspectrum.errors import UserError  # noqa: E402
from medspectrum.image import Image  # noqa: E402
from medspectrum.methods import _structure, _tuned  # noqa: E402
from medspectrum.tasks.classify import Classify  # noqa: E402

METHODS = ("bitfit", "lora", "adapter", "visual_prompt", "partial", "full", "scratch")
KINDS = ("vit", "cnn")
QUICK = {"least_steps": 6, "most_steps": 6, "batch_cases": 8}
TASK = Classify(("low", "high", "never"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _build(kind: str, size: tuple[int, ...], cache, seed: int | None):
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        if kind == "vit":
            return timm.create_model("test_vit", img_size=size[0], num_classes=0)
        return timm.create_model("test_efficientnet", num_classes=0)


def encoder(kind: str, folder, dims: int = 2) -> Encoder:
    card = Card(
        name=f"test-{kind}", level="control", modality="any", organ="any", dims=dims, tasks=("classify",),
        licence="Apache-2.0", commercial_use=True, source="drawn at random", status="conforms", parameters=0,
        width=64 if kind == "vit" else 256, input_size=(32, 32), stride=16,
    )  # fmt: skip
    return Encoder(card, partial(_build, kind), f"test-{kind}", (32,), cache=folder, threads=1)


def _picture(number: int, high: bool, depth: int) -> Image:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 120, (1, depth, 28, 28))
    pixels[:, :, 4:14, 4:24] += 120 * high
    return Image(pixels.astype(np.uint8), modality="CR")


def _case(number: int, depth: int = 1, roles: tuple[str, ...] = ("image",)) -> Case:
    high = number % 2 == 1
    images = {
        role: LazyImage(
            f"{role}/{number}",
            partial(_picture, number, high, depth),
            partial("{}".format, f"{number:08x}{depth}"),
        )
        for role in roles
    }
    return Case(str(number), f"p{number}", images, ClassTarget(("low", "high")[high]))


CASES = [_case(n) for n in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_is_restored_to_the_bit_and_holds_only_what_it_trained(name, kind, folder):
    entry = registry.find("method", name)
    model = encoder(kind, folder)
    made = entry.thing(model, CASES[:16], TASK, seed=1, **QUICK)
    said = made.predict(CASES[16:])
    assert said.shape == (8, 3)
    assert said.dtype == np.float64
    assert np.allclose(said.sum(1), 1)
    assert (said[:, 2] == 0).all()  # no labelled case had this class

    arrays, settings = made.state()
    again = entry.facts["restore"](model, arrays, json.loads(json.dumps(settings)))
    assert np.array_equal(again.predict(CASES[16:]), said)
    assert again.trained_parameters == made.trained_parameters
    standard = arrays["feature_mean"].size + arrays["feature_scale"].size
    statistics = sum(a.size for n, a in arrays.items() if n.endswith(("running_mean", "running_var")))
    assert sum(a.size for a in arrays.values()) == made.trained_parameters + standard + statistics
    assert bool(statistics) == (name == "scratch" and kind == "cnn")

    fresh = model.network().state_dict()
    weights = [n for n in arrays if n.startswith("network.") and n.removeprefix("network.") in fresh]
    if name in ("lora", "adapter", "visual_prompt"):
        assert not weights
    if name == "bitfit":
        assert weights
        assert all(n.endswith(".bias") for n in weights)
    if name in ("full", "scratch"):
        assert len(weights) >= len(list(model.network().parameters()))
    body = [n for n in arrays if n.startswith("network.")]
    assert body, "something beside the head has to learn"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lora", "adapter", "full"])
def test_before_the_first_step_the_network_is_unchanged(name, kind, folder):
    entry = registry.find("method", name)
    change = entry.facts["restore"].args[0]
    structure = {"lora": {"rank": 4}, "adapter": {"bottleneck": 4}, "full": {}}[name]
    model = encoder(kind, folder)
    network = model.network()
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(batch)
        change(network, model, **structure)
        assert torch.allclose(network.eval()(batch), before, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_predictor(kind, folder):
    method = registry.find("method", "lora").thing
    made = [method(encoder(kind, folder), CASES[:12], TASK, seed=s, **QUICK).state()[0] for s in (1, 1, 2)]
    assert all(np.array_equal(made[0][n], made[1][n]) for n in made[0])
    assert any(not np.array_equal(made[0][n], made[2][n]) for n in made[0])


def test_merged_low_rank_deltas_answer_as_beside_the_layers(folder):
    made = registry.find("method", "lora").thing(encoder("vit", folder), CASES[:12], TASK, **QUICK)
    batch = torch.rand(2, 3, 32, 32)
    merged = _structure.merged(made.module).eval()
    assert not any("lora" in n for n, _ in merged.named_parameters())
    with torch.inference_mode():
        assert torch.allclose(merged(batch), made.module.eval()(batch), atol=1e-5)


def test_one_case_per_class_and_one_class_alone_are_served(folder):
    method = registry.find("method", "bitfit").thing
    model = encoder("cnn", folder)
    two = method(model, CASES[:2], TASK, **QUICK).predict(CASES[2:6])
    assert np.allclose(two.sum(1), 1)
    one = method(model, [CASES[0]], TASK, **QUICK).predict(CASES[2:6])
    assert one[:, 0].tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match="empty"):
        method(model, [], TASK)


def test_tuning_starts_at_the_probe_and_separates_what_is_easy(folder):
    method = registry.find("method", "full").thing
    model = encoder("cnn", folder)
    made = method(model, CASES[:16], TASK, seed=0, **(QUICK | {"least_steps": 20, "most_steps": 20}))
    said = made.predict(CASES[16:]).argmax(1)
    assert (said == [TASK.target(c) for c in CASES[16:]]).mean() >= 0.75


def test_volumes_and_several_views_are_seen_by_their_pictures(folder):
    method = registry.find("method", "lora").thing
    model = encoder("vit", folder)
    volumes = [_case(n, depth=3, roles=("image", "second")) for n in range(8)]
    made = method(model, volumes, TASK, mirrored=True, **QUICK)
    assert made.settings["pictures"] == 6
    said = made.predict([*volumes, CASES[0]])
    assert np.allclose(said.sum(1), 1)
    assert np.isfinite(said).all()
    stack = _tuned.pictures(model, volumes[0], 6)
    assert stack.shape == (6, 3, 32, 32)


def test_a_mirror_image_gets_the_same_answer_where_asked(folder):
    made = registry.find("method", "bitfit").thing(
        encoder("cnn", folder), CASES[:8], TASK, mirrored=True, **QUICK
    )
    batch = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(made.module(batch), made.module(batch.flip(-1)), atol=1e-5)


def test_a_3d_network_is_refused_with_what_to_do(folder):
    with pytest.raises(UserError, match="linear_probe"):
        registry.find("method", "full").thing(encoder("cnn", folder, dims=3), CASES[:4], TASK, **QUICK)


def test_arrays_of_another_network_are_refused(folder):
    entry = registry.find("method", "bitfit")
    arrays, settings = entry.thing(encoder("cnn", folder), CASES[:4], TASK, **QUICK).state()
    with pytest.raises(UserError, match="does not fit"):
        entry.facts["restore"](encoder("vit", folder), arrays, settings)


@pytest.mark.parametrize(
    ("name", "count", "transformer"),
    [
        ("test_vit", 6, True),
        ("test_efficientnet", 5, False),
        ("resnet10t", 4, False),
        ("test_convnext", 4, False),
    ],
)
def test_blocks_and_stages_are_found(name, count, transformer):
    network = timm.create_model(name, num_classes=0)
    found = _structure.stages(network)
    assert len(found) == count
    assert _structure.is_transformer(network) == transformer
    last = {id(p) for p in _structure.from_last_stage(network)}
    assert {id(p) for p in list(found.values())[-1].parameters()} <= last
    assert len(last) < len(list(network.parameters()))

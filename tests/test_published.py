"""Every published checkpoint: our network answers as the original did, and takes the published names.

Fixtures lie in ``tests/data/published/ROW/`` and are made by ``scripts/conformance/``: ``small.*`` (weights
that the original implementation saved), ``io.npz`` (``in_NAME`` and ``out_NAME``), ``meta.json`` (what made
them, the settings of that small network, the tolerance), and ``shapes.json.gz`` (names and shapes of the
checkpoint of the published size).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from medspectrum import registry
from medspectrum.models._published import verified

torch = pytest.importorskip("torch")

DATA = Path(__file__).parent / "data" / "published"
ROWS = {name: e for name, e in registry.entries("model").items() if "published" in e.facts}
ORIGINAL = sorted(p.name for p in DATA.iterdir() if (p / "meta.json").exists())
SHAPES = sorted(p.name for p in DATA.iterdir() if (p / "shapes.json.gz").exists())
FAKED = sorted(name for name, e in ROWS.items() if e.facts["published"].fake)


def told(name: str) -> dict:
    return json.loads((DATA / name / "meta.json").read_text())


def small_file(name: str) -> Path:
    (path,) = (DATA / name).glob("small.*")
    return path


def shown_elsewhere(entry) -> bool:
    """Whether the row names a test of its own (of weights that an installed package brings), which exists."""
    own = entry.facts.get("shown_by")
    return bool(own) and any(f"def {own}(" in p.read_text() for p in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_network_answers_as_the_original(name):
    published, meta = ROWS[name].facts["published"], told(name)
    assert meta["original"]
    network = published.network(small_file(name), **meta["settings"])
    with np.load(DATA / name / "io.npz") as held, torch.inference_mode():
        given = {k[3:]: torch.from_numpy(held[k]) for k in held if k.startswith("in_")}
        wanted = {k[4:]: held[k] for k in held if k.startswith("out_")}
        found = published.answer(network, given)
    assert wanted
    assert meta.get("tolerance", 1e-5) <= 1e-5
    for key, value in wanted.items():
        scale = np.abs(value).max()
        assert scale > 1e-3, "an answer of zeros shows nothing"
        np.testing.assert_allclose(found[key].numpy(), value, rtol=0, atol=1e-5 * max(1.0, float(scale)))


@pytest.mark.parametrize("name", SHAPES)
def test_the_published_names_and_shapes_load_strictly(name):
    with gzip.open(DATA / name / "shapes.json.gz", "rt") as held:
        listed = json.load(held)
    state = {k: torch.empty(shape, device="meta") for k, shape in listed["shapes"].items()}
    assert listed["listed_from"]
    assert ROWS[name].facts["published"].differs(state) == []


@pytest.mark.parametrize("name", FAKED)
def test_a_small_checkpoint_of_the_library_loads_and_answers_the_same_twice(name, tmp_path):
    published = ROWS[name].facts["published"]
    path = published.fake(tmp_path)
    found = [published.network(path, **published.small).state_dict() for _ in range(2)]
    assert found[0]
    for key, tensor in found[0].items():
        assert torch.equal(tensor, found[1][key])


@pytest.mark.parametrize("name", sorted(registry.entries("model")))
def test_no_row_says_more_than_its_test_shows(name):
    entry = registry.entries("model")[name]
    card = entry.facts["card"]
    if card.status == "conforms":
        shown = (name in ORIGINAL and name in SHAPES) or shown_elsewhere(entry)
        assert shown, "conforms needs the original's answer and published names"
    elif card.status == "loads":
        assert name in FAKED or entry.facts.get("tiny") or shown_elsewhere(entry)
    else:
        assert card.status == "card"
        assert card.why, "a row that is a card alone says why"


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_file_of_another_size_is_told_by_three_names(name):
    found = verified(ROWS[name].facts["published"], small_file(name))
    if found["fits"]:
        pytest.skip("the small network has the published size")
    assert 1 <= len(found["differing"]) <= 3
    assert found["checksum"] == "none published"


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_card_counts_the_networks_parameters(name):
    card, published = ROWS[name].facts["card"], ROWS[name].facts["published"]
    with torch.device("meta"):
        network = published.build(**published.settings)
    assert card.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", [n for n, e in ROWS.items() if e.facts["published"].library == "timm"])
def test_the_card_counts_the_networks_operations(name):
    from torch.utils.flop_counter import FlopCounterMode

    card, published = ROWS[name].facts["card"], ROWS[name].facts["published"]
    with torch.device("meta"):
        network = published.build(**published.settings)
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=card.input_size)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(torch.empty(1, len(card.mean), *card.input_size, device="meta"))
    assert card.gflops == pytest.approx(counted.get_total_flops() / 1e9, rel=0.01)

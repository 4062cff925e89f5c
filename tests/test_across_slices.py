"""What looks across the slices of a volume: equal to the originals, and slices do see one another.

The references were made by ``scripts/conformance/sam_across_slices.py`` with the original code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_outlines import outlined
from medspectrum.errors import UserError
from medspectrum.methods import _across, _outlined, _structure
from medspectrum.methods.adapter import bottlenecks
from medspectrum.methods.adapter_3d import in_volumes
from medspectrum.methods.ma_sam import across_slices
from medspectrum.models import efficientnet_lite0, resolve
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

DATA = Path(__file__).parent / "data"
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def known():
    with np.load(DATA / "sam_across_slices.npz") as held:
        return {name: torch.from_numpy(array) for name, array in held.items()}


@pytest.fixture
def encoder(tmp_path):
    return resolve(f"sam:{DATA / 'sam_tiny.pth'}", cache=tmp_path)


def ours(name: str) -> str:
    """Our name of a part that MA-SAM adds."""
    shared = {"FacTu": "0.block.attn.qkv.factor_in", "FacTv": "0.block.attn.qkv.factor_out"}
    for theirs, own in shared.items():
        name = name.replace(f"ma_sam/{theirs}", f"inner.layers.{own}")
    name = re.sub(r"ma_sam/blocks\.(\d)\.attn\.qkv\.(.)_FacTs", r"inner.layers.\1.block.attn.qkv.\2", name)
    return re.sub(
        r"ma_sam/blocks\.(\d)\.adapter_(conv|norm|linear_down|linear_up)(_2)?\.",
        r"inner.layers.\1.adapter\3.\2.",
        name,
    )


def test_ma_sam_embeds_as_the_original(encoder, known):
    network = encoder.network()
    across_slices(network, encoder, rank=3, middle=6, slices=3)
    mine = dict(network.named_parameters())
    theirs = {ours(n): t for n, t in known.items() if n.startswith("ma_sam/")}
    assert {n for n, p in mine.items() if p.requires_grad} == set(theirs)
    with torch.no_grad():
        (before,) = network.read_level(known["ma_sam_input"], "tokens")
        (plain,) = encoder.network().read_level(known["ma_sam_input"], "tokens")
        assert torch.allclose(before, plain, **CLOSE)  # nothing is added at first
        for name, tensor in theirs.items():
            mine[name].copy_(tensor)
        (found,) = network.eval().read_level(known["ma_sam_input"], "tokens")
    assert not torch.allclose(found, plain, atol=0.05)
    assert torch.allclose(found, known["ma_sam_output"], **CLOSE)


def test_the_adapter_of_3dsam_adapter_answers_as_the_original(known):
    made = _across.volume_adapter(8, 4, 4)
    theirs = {n.removeprefix("adapter/"): t for n, t in known.items() if n.startswith("adapter/")}
    theirs["conv.weight"] = theirs["conv.weight"].permute(0, 1, 4, 2, 3)  # ours has the slices first
    made.load_state_dict(theirs)
    with torch.no_grad():
        found = made(known["adapter_input"].permute(0, 3, 1, 2, 4).flatten(0, 1))
    back = found.unflatten(0, (2, 4)).permute(0, 2, 3, 1, 4)
    assert torch.allclose(back, known["adapter_output"], **CLOSE)


@pytest.mark.parametrize("change", [across_slices, in_volumes])
def test_a_slice_sees_its_neighbours_and_not_other_stacks(change, encoder):
    network = encoder.network()
    more = {"rank": 3} if change is across_slices else {}
    change(network, encoder, middle=6, slices=3, **more)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
        seen = torch.randn(6, 3, 64, 64)
        other = seen.clone()
        other[0] += 1
        first, second = (network.eval().read_level(x, "tokens")[0] for x in (seen, other))
    changed = (first - second).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [True, True, True, False, False, False]


def test_adapters_of_segment_anything_act_on_channels(encoder):
    """Its blocks give (n, height, width, channels), not channels first."""
    network = encoder.network()
    bottlenecks(network, encoder, bottleneck=4)
    learn = {n: tuple(p.shape) for n, p in network.named_parameters() if p.requires_grad}
    assert {s for n, s in learn.items() if n.endswith("down.weight")} == {(4, 32)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("up.weight"):
                parameter.normal_()
        block: Any = next(iter(_structure.stages(network).values()))
        seen = torch.randn(1, 8, 8, 32)
        plain = block.block(seen)
        added = block(seen) - plain
        moved = plain[:, [1, 0, *range(2, 8)]]
        normed = torch.nn.functional.layer_norm(moved, (32,), block.norm.weight, block.norm.bias)
        again = block.up(torch.nn.functional.gelu(block.down(normed)))
    assert torch.allclose(again, added[:, [1, 0, *range(2, 8)]], atol=1e-5)


def test_volumes_are_learned_in_stacks_and_pictures_singly(encoder):
    cases = outlined(2, kind="volume")
    task = Segment.of(cases)
    entry = find("method", "ma_sam")
    made = entry.thing(encoder, cases, task, slices=4, middle=6, rank=3, least_steps=2, most_steps=2)
    assert made.settings["slices"] == 4
    assert [m.shape for m in made.predict(cases)] == [task.target(c).shape for c in cases]
    flat = entry.thing(encoder, outlined(2), task, middle=6, rank=3, least_steps=2, most_steps=2)
    assert flat.settings["slices"] == 1
    assert _outlined.stack(4, 3, 6) == [4, 5, 5]
    with pytest.raises(UserError, match="slices are counted from 1"):
        entry.thing(encoder, cases, task, slices=0)


def test_other_networks_are_told_what_fits(tmp_path):
    cases = outlined(2, kind="volume")
    network = efficientnet_lite0.tiny(cache=tmp_path)
    for name, words in (("ma_sam", "is not the image encoder of Segment"), ("adapter_3d", "no transformer")):
        with pytest.raises(UserError, match=words):
            find("method", name).thing(network, cases, Segment.of(cases))

"""UniverSeg: equal to the original code on a small network it saved; a method where its weights are given.

The references were made by ``scripts/conformance/universeg_reference.py`` with the original code.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import medspectrum
from made_outlines import outlined, write_pairs
from medspectrum.engine import universeg
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

DATA = Path(__file__).parent / "data"
TINY = DATA / "universeg_tiny.pt"


def test_the_network_answers_as_the_original():
    network = universeg.loaded(tensors_of(TINY), TINY)
    with np.load(DATA / "universeg_reference.npz") as held, torch.inference_mode():
        given = [torch.from_numpy(held[name]) for name in ("target", "images", "labels")]
        logits = network(*given).numpy()
        assert np.allclose(logits, held["logits"], rtol=1e-5, atol=1e-5)
        assert np.abs(held["logits"]).max() > 0.01


def test_the_published_size_loads_strictly():
    shapes = json.loads((DATA / "universeg_shapes.json").read_text())
    with torch.device("meta"):
        network = universeg.network(((64, 64),) * 4)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == shapes
    state = {k: torch.zeros(v) for k, v in shapes.items()}
    assert sum(v.numel() for v in universeg.loaded(state, "v1").parameters()) == 1_182_785


def test_other_files_are_told_in_a_sentence(tmp_path):
    state = tensors_of(TINY)
    short = {k: v for k, v in state.items() if k != "out_conv.conv.bias"}
    with pytest.raises(UnreadableFile, match=r"mine: .*out_conv\.conv\.bias is missing"):
        universeg.loaded(short, "mine")
    with pytest.raises(UnreadableFile, match="not of UniverSeg"):
        universeg.loaded({"a": torch.zeros(2)}, "mine")
    entry = find("method", "universeg")
    cases = outlined(2)
    with pytest.raises(UserError, match="checkpoint = "):
        entry.thing(None, cases, Segment.of(cases))
    with pytest.raises(UnreadableFile, match="does not exist"):
        entry.thing(None, cases, Segment.of(cases), checkpoint=str(tmp_path / "absent.pt"))


def test_few_planes_stand_for_many_cases():
    from medspectrum.methods import _dense, in_context

    cases = outlined(5, kind="volume")
    given = _dense.labelled_planes(cases, Segment.of(cases))
    for count in (1, 3, 8, 12):
        chosen = in_context._chosen(given, count, seed=0)
        assert len(chosen) == len(set(chosen)) == count
        shown = {given[i].case for i in chosen if given[i].labels.any()}
        assert len(shown) == min(5, count - min(int(0.25 * count), 100))
    assert in_context._chosen(given, 64, seed=0) == list(range(len(given)))


def test_explore_offers_it_with_a_checkpoint_only(tmp_path):
    data = write_pairs(tmp_path / "cells", 14)
    plan = tmp_path / "plan.toml"
    plan.write_text(f'[universeg]\ncheckpoint = "{TINY}"\nsupport = 3\nside = 32\n')
    common = {"task": "segment", "models": "efficientnet-lite0", "size": 32, "budgets": "2", "draws": 1}
    common |= {"methods": "mean_mask,universeg", "quiet": True, "budget_minutes": 0, "cache": tmp_path / "c"}
    without = medspectrum.explore(data, out=tmp_path / "a", **common)
    [told] = [d for d in without["dropped"] if d["method"] == "universeg"]
    assert "needs checkpoint: say it in a plan's table [universeg]" in told["reason"]
    done = medspectrum.explore(data, out=tmp_path / "b", plan=plan, **common)
    [trial] = [t for t in done["trials"] if t["method"] == "universeg"]
    assert trial["licence"] == "that of the checkpoint"
    assert not trial["commercial_use"]
    assert 0 <= trial["scores"]["dice"]["value"] <= 1
    free = medspectrum.explore(data, out=tmp_path / "d", plan=plan, commercial_use=True, **common)
    assert "not known to allow commercial use" in next(
        d["reason"] for d in free["dropped"] if d["method"] == "universeg"
    )

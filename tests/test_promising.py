"""Under a time limit the models with a prospect come first."""

from __future__ import annotations

from types import SimpleNamespace

import medspectrum
from made_cases import PATTERN, make_folder
from medspectrum.budgets import make_split
from medspectrum.datasets import load
from medspectrum.embedding import promising_first
from medspectrum.models import resolve
from medspectrum.registry import find
from tiny_encoder import tiny_encoder


def prepared(tmp_path):
    cases = load(make_folder(tmp_path / "data"), patient_pattern=PATTERN).cases
    task = find("task", "classify").thing.of(cases)
    names = ("efficientnet-lite0", "efficientnet-lite0-random", tiny_encoder(tmp_path / "cache"))
    encoders = {name: resolve(name, size=64, cache=tmp_path / "cache") for name in names}
    return cases, task, encoders


def test_models_are_ordered_by_what_they_are_expected_to_reach(tmp_path, monkeypatch):
    from medspectrum import transfer

    cases, task, encoders = prepared(tmp_path)
    split = make_split(cases, seed=0)
    base, control, tiny = encoders
    train = {case.id for case in split.train}
    for better in (base, tiny):
        asked = []

        def worth(model, some, task, better=better, asked=asked):
            asked.extend(case.id for case in some)
            return SimpleNamespace(score=1.0 if model.key == encoders[better].key else 0.5)

        monkeypatch.setattr(transfer, "worth", worth)
        spent = SimpleNamespace(remaining=lambda: 600.0, embedding=0.0)
        order = list(promising_first(encoders, split, task, 0, spent))
        assert order[0] == better
        assert order[-1] == control
        assert set(asked) <= train
        assert spent.embedding > 0
    spent = SimpleNamespace(remaining=lambda: 0.0, embedding=0.0)
    assert list(promising_first(encoders, split, task, 0, spent)) == [base, control, tiny]


def test_a_limited_exploration_names_the_promising_model_first(tmp_path):
    data = make_folder(tmp_path / "data")
    tiny = tiny_encoder(tmp_path / "cache")
    results = medspectrum.explore(
        data,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        models=f"efficientnet-lite0,{tiny}",
        methods="ridge",
        budgets="full",
        draws=1,
        size=64,
        patient_pattern=PATTERN,
        budget_minutes=5,
        quiet=True,
    )
    ranked = medspectrum.suggest(
        data, models=f"efficientnet-lite0,{tiny}", size=64, patient_pattern=PATTERN, cache=tmp_path / "cache"
    )
    real = [t["model"] for t in results["trials"] if t["level"] != "control"]
    assert real[0] == ranked[0]["name"]

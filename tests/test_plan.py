"""Settings come from the command line, then the TOML plan, then the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from medspectrum.errors import UserError
from medspectrum.plan import Plan, make_plan
from medspectrum.schedule import settings_grid


def test_the_plan_file_fills_what_was_not_given(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('models = ["a", "b"]\ndraws = 2\nseed = 7\n[knn]\nk = [1, 3]\n')
    plan = make_plan(path, {"models": "", "draws": 5, "seed": 3, "budgets": "5,full"})
    assert plan.models == ("a", "b")
    assert plan.draws == 2
    assert plan.seed == 3
    assert plan.budgets == ("5", "full")
    assert plan.method_settings == {"knn": {"k": [1, 3]}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("drawz = 2", "'drawz' is no setting"),
        ("= 2", "is no TOML plan"),
        ("[lorra]\nrank = 2", "no method is called 'lorra'"),
        ("draws = 0", "draws must be a number of 1 or more"),
        ('draws = "two"', "draws must be a number"),
        ('methods = ["knnn"]', "no method is called"),
        ("size = 2", "size must be 8"),
    ],
)
def test_a_wrong_plan_is_told_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        make_plan(path, {})


def test_a_missing_plan_is_named():
    with pytest.raises(UserError, match=r"nowhere\.toml is not there"):
        make_plan(Path("nowhere.toml"), {})


def test_a_grid_is_every_combination():
    assert settings_grid({"rank": [4, 8], "alpha": 1}) == [{"rank": 4, "alpha": 1}, {"rank": 8, "alpha": 1}]
    assert settings_grid({}) == [{}]


def test_the_command_repeats_the_settings():
    plan = Plan(models=("a", "b"), draws=2, commercial_use=True)
    words = plan.command(Path("my data"), Path("out")).split()
    assert plan.command(Path("my data"), Path("out")).startswith("medspectrum explore 'my data' --out out")
    assert words[-1] == "--commercial-use"
    assert "a,b" in words

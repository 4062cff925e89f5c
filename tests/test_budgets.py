"""Splits and budgets keep patients whole, whatever the data look like."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.budgets import FULL, label_of, make_split, nested_budgets, parse_budgets, split_leaks
from medspectrum.case import Case, ClassTarget
from medspectrum.errors import UserError


def case(i: int, patient: str, label: str, split: str | None = None) -> Case:
    return Case(f"case{i}", patient, {}, ClassTarget(label), split=split)


@st.composite
def case_lists(draw):
    rows = draw(
        st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=6, max_size=80).filter(
            lambda rows: len({p for p, _ in rows}) >= 3 and len({c for _, c in rows}) >= 2
        )
    )
    return [case(i, f"p{p}", f"c{c}") for i, (p, c) in enumerate(rows)]


@settings(max_examples=150, deadline=None)
@given(case_lists(), st.integers(0, 5))
def test_a_new_split_parts_no_patient_and_loses_no_case(cases, seed):
    split = make_split(cases, seed=seed)
    parts = [split.train, split.val, split.test]
    assert Counter(c.id for part in parts for c in part) == Counter(c.id for c in cases)
    patients = [{c.patient for c in part} for part in parts]
    assert not patients[0] & patients[1]
    assert not patients[0] & patients[2]
    assert not patients[1] & patients[2]
    assert make_split(cases, seed=seed) == split


@settings(max_examples=150, deadline=None)
@given(case_lists(), st.integers(0, 5), st.integers(1, 4))
def test_budgets_are_nested_and_stratified(cases, seed, draws):
    names = ("1", "2", "5", FULL)
    budgets = nested_budgets(cases, names, draws=draws, seed=seed)
    have = Counter(label_of(c) for c in cases)
    by_draw: dict[int, list] = {}
    for budget in budgets:
        if budget.name == FULL:
            assert budget.cases == tuple(cases)
            continue
        got = Counter(label_of(c) for c in budget.cases)
        assert got == {label: min(n, int(budget.name)) for label, n in have.items()}
        by_draw.setdefault(budget.draw, []).append({c.id for c in budget.cases})
    for chain in by_draw.values():
        assert all(small < large for small, large in itertools.pairwise(chain))


def test_the_first_cases_of_a_budget_come_from_different_patients():
    cases = [case(i, f"p{i // 10}", "ab"[i // 10 % 2]) for i in range(100)]
    for budget in nested_budgets(cases, ("5",), draws=6, seed=1):
        per_class = Counter((label_of(c), c.patient) for c in budget.cases)
        assert max(per_class.values()) == 1


def test_draws_differ():
    cases = [case(i, f"p{i}", "ab"[i % 2]) for i in range(60)]
    sets = {tuple(c.id for c in b.cases) for b in nested_budgets(cases, ("5",), draws=5, seed=0)}
    assert len(sets) == 5


def test_shares_are_near_60_20_20_and_classes_are_in_each_part():
    rng = np.random.default_rng(0)
    cases = [case(i, f"p{i}", "rare" if rng.random() < 0.05 else "common") for i in range(1000)]
    split = make_split(cases, seed=3)
    assert len(split.train) == pytest.approx(600, abs=5)
    assert len(split.test) == pytest.approx(200, abs=5)
    for part in (split.train, split.val, split.test):
        assert {label_of(c) for c in part} == {"rare", "common"}


def test_a_given_split_is_kept_and_a_missing_part_is_carved_from_training():
    cases = [case(i, f"p{i}", "ab"[i % 2], "test" if i % 3 == 0 else "train") for i in range(90)]
    split = make_split(cases)
    assert {c.id for c in split.test} == {c.id for c in cases if c.split == "test"}
    assert 8 <= len(split.val) <= 16
    assert "no val part" in split.notes[0]


def test_a_leaking_split_is_refused_unless_accepted():
    cases = [case(i, f"p{i % 30}", "ab"[i % 2], ("train", "test")[i >= 70]) for i in range(100)]
    assert split_leaks(cases)
    with pytest.raises(UserError, match=r"leaks: .* patient.*--allow-leak"):
        make_split(cases)
    assert "accepted" in make_split(cases, allow_leak=True).notes[0]


def test_a_case_without_split_beside_others_with_one_is_left_out_with_a_reason():
    cases = [case(i, f"p{i}", "ab"[i % 2], ("train", "val", "test")[i % 3]) for i in range(60)]
    cases.append(case(99, "p99", "a"))
    assert [x.source for x in make_split(cases).left_out] == ["case99"]


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([case(i, f"p{i}", "a") for i in range(9)], "only the class 'a'"),
        ([case(i, "p", "ab"[i % 2]) for i in range(9)], "1 patient"),
        ([], "no labelled case"),
    ],
)
def test_data_that_cannot_be_split_are_told_why(cases, words):
    with pytest.raises(UserError, match=words):
        make_split(cases)


def test_budget_words():
    assert parse_budgets("full, 5,1,5") == ("1", "5", "full")
    assert parse_budgets([2, "full"]) == ("2", "full")
    for wrong in ("0", "few", "", "-3"):
        with pytest.raises(UserError, match="budgets are whole numbers"):
            parse_budgets(wrong)


def test_budgets_as_large_as_the_data_are_left_to_full():
    cases = [case(i, f"p{i}", "ab"[i % 2]) for i in range(20)]
    assert [b.name for b in nested_budgets(cases, ("5", "10", "50", "full"), draws=1)] == ["5", "full"]

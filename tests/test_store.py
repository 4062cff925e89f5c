"""Files are whole or absent; digests follow content; registries answer with the nearest name."""

from __future__ import annotations

import pytest

from medspectrum import registry, store
from medspectrum.errors import UnreadableFile, UserError


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), store.atomic(path) as partial:  # noqa: PT012 - the block is what fails
        partial.write_text("half")
        raise RuntimeError("stopped")
    assert store.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "a.json", float("nan"))


def test_digests_follow_content_and_do_not_collide_by_joining(tmp_path):
    assert store.digest(b"ab", b"c") != store.digest(b"a", b"bc")
    assert store.digest({"a": 1, "b": 2}) == store.digest({"b": 2, "a": 1})
    first, second = tmp_path / "x", tmp_path / "y"
    for path in (first, second):
        path.write_bytes(b"same")
    assert store.file_digest(first) == store.file_digest(second)
    second.write_bytes(b"")
    assert store.file_digest(first) != store.file_digest(second)


def test_cache_folder_follows_the_argument_then_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSPECTRUM_CACHE", str(tmp_path / "env"))
    assert store.cache_folder() == tmp_path / "env"
    assert store.cache_folder(tmp_path / "given") == tmp_path / "given"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean linear_probe"):
        registry.find("method", "linear_prob")
    with pytest.raises(UserError, match="there are: "):
        registry.find("task", "zzzz")


def test_errors_travel_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableFile("a.png", "is empty")))
    assert str(error) == "a.png: is empty"

"""Encrypted inference: the same answers, nothing readable on the way, no bytes taken on trust."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tenseal", exc_type=ImportError)

import medspectrum
from medspectrum.engine import ckks
from medspectrum.errors import UserError


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """A run with a linear head, and the five steps once."""
    root = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(3)
    for name, level in (("dim", 100), ("lit", 120), ("mid", 110)):
        (root / "data" / name).mkdir(parents=True)
        for i in range(9):
            pixels = rng.normal(level, 25, (32, 32))
            pixels[: 6 + 2 * i] += 15
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(root / "data" / name / f"Ottokar{name}{i}.png")
    settings = {"cache": root / "cache", "quiet": True}
    medspectrum.explore(
        root / "data", out=root / "run", models="efficientnet-lite0", methods="ridge", budgets="full",
        size=32, explained=0, **settings,
    )  # fmt: skip
    server, client = root / "run" / "predictor", root / "client"
    medspectrum.encrypted("offer", predictor=server, out=root / "offer.json", **settings)
    medspectrum.encrypted("keys", out=client, quiet=True)
    asked = {"data": root / "data", "offer": root / "offer.json", "keys": client}
    medspectrum.encrypted("ask", **asked, out=root / "request", **settings)
    medspectrum.encrypted(
        "answer", predictor=server, request=root / "request", out=root / "answer", **settings
    )
    medspectrum.encrypted("open", answer=root / "answer", keys=client, out=root / "opened.csv", quiet=True)
    return root, settings


def rows(path):
    with path.open() as opened:
        return {row["case"]: row for row in csv.DictReader(opened)}


def test_the_answers_are_those_of_the_open_head(sites):
    root, settings = sites
    medspectrum.predict(root / "run" / "predictor", root / "data", out=root / "plain.csv", **settings)
    plain, hidden = rows(root / "plain.csv"), rows(root / "opened.csv")
    assert list(plain) == list(hidden)
    assert len(plain) == 27
    for name in ("dim", "lit", "mid"):
        far = [abs(float(plain[c][name]) - float(hidden[c][name])) for c in plain]
        assert max(far) < 1e-3
        assert np.std([float(row[name]) for row in hidden.values()]) > 0.01


def test_what_travels_holds_no_secret_name_or_feature(sites):
    root, _ = sites
    secret = (root / "client" / "secret.key").read_bytes()
    assert (root / "client" / "secret.key").stat().st_mode & 0o077 == 0
    for name in ("request", "answer", "offer.json", "client/public.key"):
        held = (root / name).read_bytes()
        assert b"Ottokar" not in held
        assert secret[-4096:-64] not in held
    with pytest.raises(UserError, match="not the keys"):
        ckks.opened_keys((root / "client" / "public.key").read_bytes(), secret=True)
    offered = json.loads((root / "offer.json").read_text())
    assert not {"weights", "intercepts", "scores"} & set(offered)


def test_other_keys_do_not_open_an_answer(sites, tmp_path):
    root, _ = sites
    medspectrum.encrypted("keys", out=tmp_path, quiet=True)
    (tmp_path / "asked.json").write_bytes((root / "client" / "asked.json").read_bytes())
    medspectrum.encrypted("open", answer=root / "answer", keys=tmp_path, out=tmp_path / "x.csv", quiet=True)
    plain, wrong = rows(root / "opened.csv"), rows(tmp_path / "x.csv")
    assert np.mean([plain[c]["prediction"] == wrong[c]["prediction"] for c in plain]) < 0.8


def test_bytes_from_outside_are_looked_at(sites, tmp_path):
    root, settings = sites
    public = ckks.opened_keys((root / "client" / "public.key").read_bytes(), secret=False)
    for wrong in (b"", b"junk" * 500, b"\0" * (ckks.MOST_CIPHERTEXT_BYTES + 1)):
        with pytest.raises(UserError, match="ciphertext"):
            ckks.scores(public, wrong, np.ones((4, 1)), np.ones(1))
    for wrong in (b"", b"junk" * 500):
        with pytest.raises(UserError, match="keys"):
            ckks.opened_keys(wrong, secret=False)
    own = ckks.opened_keys((root / "client" / "secret.key").read_bytes(), secret=True)
    with pytest.raises(UserError, match="holds 3 numbers and the head takes 4"):
        ckks.scores(public, ckks.encrypt(own, np.ones(3)), np.ones((4, 1)), np.ones(1))
    (tmp_path / "request").write_bytes((root / "request").read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be read"):
        medspectrum.encrypted(
            "answer", predictor=root / "run" / "predictor", request=tmp_path / "request", out=tmp_path / "a",
            **settings,
        )  # fmt: skip


def test_steps_say_what_they_need(tmp_path):
    with pytest.raises(UserError, match="there is no step 'send'"):
        medspectrum.encrypted("send", out=tmp_path / "x")
    with pytest.raises(UserError, match="needs --offer"):
        medspectrum.encrypted("ask", data=tmp_path, out=tmp_path / "x")
    medspectrum.encrypted("keys", out=tmp_path / "keys", quiet=True)
    with pytest.raises(UserError, match="there already"):
        medspectrum.encrypted("keys", out=tmp_path / "keys", quiet=True)

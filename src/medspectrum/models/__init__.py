"""Foundation models: one file per family. ``resolve`` turns a name into an encoder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.registry import entries, find

RANDOM = "-random"


def resolve(
    name: str, size: int | None = None, cache: str | os.PathLike[str] | None = None, *, seed: int = 0
) -> Encoder:
    """The encoder of that name.

    name: a registered name (``efficientnet-lite0``), ``timm:NAME``, ``hf:NAME-OR-FOLDER`` or
    ``file:PATH?arch=NAME``; any of them with ``-random`` behind it is the control with random weights,
    drawn with ``seed``. size: pixels per side, rounded to the stride. cache: the cache folder.
    Raises UserError with the nearest names where there is none.
    """
    plain = name.removesuffix(RANDOM)
    folder = None if cache is None else Path(cache)
    prefix, colon, rest = plain.partition(":")
    if colon:
        family = [e for e in entries("model").values() if e.facts.get("prefix") == f"{prefix}:"]
        if not family:
            known = sorted(e.facts["prefix"] for e in entries("model").values() if "prefix" in e.facts)
            raise UserError(f"no family of models is called {prefix}:; there are {', '.join(known)}")
        if not rest:
            raise UserError(f"{plain} names no model; write {family[0].name}")
        encoder = family[0].thing(rest, cache=folder, random=plain != name)
    else:
        entry = find("model", plain)
        card = entry.facts["card"]
        if "gives" in entry.facts:
            raise UserError(f"{plain} serves {', '.join(card.tasks)}, and gives no features")
        encoder = entry.thing(cache=folder)
    if plain != name:
        encoder = encoder.twin(seed)
    encoder = replace(encoder, cache=folder)
    return encoder if size is None else encoder.with_size(size)


def available() -> dict[str, str]:
    """For each registered model '' where its weights are here, else what to do to get them."""
    return {n: e.facts["available"]() if "available" in e.facts else "" for n, e in entries("model").items()}

"""Rows whose weights are a published file in its place on this machine: encoders, and cards alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UserError
from medspectrum.models._published import Published
from medspectrum.registry import model
from medspectrum.store import cache_folder, digest, file_digest

Reader = Callable[[Any, tuple[int, ...]], Any]
"""(network with its weights, input size) -> module that gives the pooled vector and answers ``read``."""


def lacking(card: Card, published: Published, cache: Path | None = None) -> str:
    """'' where the row can be used here, else what to install, fetch or copy."""
    if published.library and find_spec(published.library) is None:
        return f'{card.name} needs {published.library}: pip install "medspectrum[{card.extra}]"'
    return weights_place.lacking(card, cache)


def build(
    size: tuple[int, ...],
    cache: Path,
    seed: int | None,
    *,
    card: Card,
    published: Published,
    reader: Reader,
) -> Any:
    """The published network with the weights of its file, or random ones."""
    if seed is None:
        return reader(published.network(weights_place.needed(card, cache)), size)
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return reader(published.build(**published.settings), size).eval()


def encoder(
    card: Card, published: Published, *, reader: Reader, own_input: Any = None, cache: Path | None = None
) -> Encoder:
    """The encoder of a row; asked for features, it says what is lacking where its file is not here."""
    path = weights_place.found(card, cache)
    return Encoder(
        card=card,
        build=partial(build, card=card, published=published, reader=reader),
        identity=digest(
            "published", card.name, file_digest(path) if path is not None and path.is_file() else ""
        ),
        size=card.input_size[:1] if card.dims == 2 else card.input_size,
        cache=cache,
        own_input=own_input,
        lacking=partial(lacking, card, published, cache),
    )


def small_encoder(
    card: Card,
    published: Published,
    *,
    width: int,
    size: tuple[int, ...],
    cache: Path | None = None,
    **how: Any,
) -> Encoder:
    """The small network of the same design, through the real path: its file is put in its place and found.

    A row without ``fake`` gives the small network with random weights.
    """
    kept = cache_folder(cache) / "small"
    small = replace(published, settings={**published.settings, **published.small})
    card = replace(card, width=width, parameters=0, input_size=size)
    made = encoder(card, small, cache=kept, **how)
    if published.fake is None:
        return made.twin(0)
    path = weights_place.place(card, kept)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        published.fake(path.parent).replace(path)
    return encoder(card, small, cache=kept, **how)


def enter(
    card: Card,
    published: Published,
    *,
    summary: str,
    module: str,
    reader: Reader,
    small_width: int,
    small_size: tuple[int, ...],
    own_input: Any = None,
) -> None:
    """Register a row that serves features. summary: its one line. module: the file that it is of."""

    def row(*, cache: Path | None = None) -> Encoder:
        return encoder(card, published, reader=reader, own_input=own_input, cache=cache)

    row.__doc__, row.__module__, row.__name__ = summary, module, card.name
    small = partial(
        small_encoder,
        card,
        published,
        width=small_width,
        size=small_size,
        reader=reader,
        own_input=own_input,
    )
    model(card.name, card=card, available=partial(lacking, card, published), tiny=small, published=published)(
        row
    )


def enter_card(card: Card, *, summary: str, module: str, **facts: Any) -> None:
    """Register a row that serves no features: a card, with what keeps it one or what it is for."""

    def row(*, cache: Path | None = None) -> Encoder:  # noqa: ARG001 - as the other rows
        raise UserError(f"{card.name} serves no features: {card.why or ', '.join(card.tasks)}")

    row.__doc__, row.__module__, row.__name__ = summary, module, card.name
    model(card.name, card=card, available=partial(weights_place.lacking, card), **facts)(row)

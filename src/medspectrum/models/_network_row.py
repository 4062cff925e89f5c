"""Rows of the catalogue whose thing is a network, read from the file that its makers published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.models._published import Published
from medspectrum.registry import model


def network_row(card: Card, published: Published, says: str, **facts: Any) -> None:
    """Enter a row: ``(path, **settings) -> network``, eval mode, float32, of weights in a file.

    says: the row's summary, a sentence. Without a path the file in its place on this machine is taken;
    UserError says what to copy where. settings are those of a size other than the published one.
    """

    def given(path: str | Path | None = None, *, cache: Path | None = None, **settings: Any) -> Any:
        return published.network(path or weights_place.needed(card, cache), **settings)

    given.__doc__ = says
    given.__name__ = card.name.replace("-", "_")
    available = partial(weights_place.lacking, card)
    facts = {"gives": "network", **facts}
    model(card.name, card=card, published=published, available=available, **facts)(given)

"""Rows of the catalogue whose thing is a network, read from the file that its makers published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.errors import UserError
from medspectrum.models._published import Published
from medspectrum.registry import model


def network_row(card: Card, published: Published, says: str, **facts: Any) -> None:
    """Enter a row: ``(path, **settings) -> network``, eval mode, float32, of weights in a file.

    says: the row's summary, a sentence. settings are those of a size other than the published one.
    """

    def lacking() -> str:
        return f"{card.name} needs its weights: {card.source}"

    def given(path: str | Path | None = None, *, cache: Path | None = None, **settings: Any) -> Any:  # noqa: ARG001
        if path is None:
            raise UserError(f"{lacking()}; give the path of that file")
        return published.network(path, **settings)

    given.__doc__ = says
    given.__name__ = card.name.replace("-", "_")
    model(card.name, card=card, published=published, available=lacking, **facts)(given)

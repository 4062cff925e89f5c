"""What the values of a mask stand for, and what it does not show, as words in a table."""

from __future__ import annotations

from collections.abc import Mapping

from medspectrum.errors import UserError

LABELS, UNSEEN = "mask_labels", "mask_unseen"
"""Columns: ``1=liver;2=tumour``, and ``spleen=;tumour=liver``: labels that were not outlined by themselves,
each with the label that its voxels carry, or none."""
FORBIDDEN = ("=", ";")


def labels_words(labels: Mapping[int, str]) -> str:
    """The names of values as text."""
    return ";".join(f"{value}={name}" for value, name in sorted(labels.items()))


def unseen_words(unseen: Mapping[str, str]) -> str:
    """What a mask does not show as text."""
    return ";".join(f"{name}={under}" for name, under in sorted(unseen.items()))


def read_labels(text: str | None, where: str) -> dict[int, str]:
    """The names of values from text. Raises UserError where a value is no whole number."""
    found = {}
    for value, name in _pairs(text, where, LABELS):
        if not value.isdigit():
            raise UserError(f"{where}: {LABELS} holds {value!r}; write such as 1=liver;2=spleen")
        found[int(value)] = name
    return found


def read_unseen(text: str | None, where: str) -> dict[str, str]:
    """What a mask does not show from text."""
    return dict(_pairs(text, where, UNSEEN))


def _pairs(text: str | None, where: str, column: str) -> list[tuple[str, str]]:
    parts = [part.strip() for part in (text or "").split(";") if part.strip()]
    if any("=" not in part for part in parts):
        raise UserError(f"{where}: {column} holds {text!r}; write pairs with = between them and ; after each")
    return [(a.strip(), b.strip()) for a, _, b in (part.partition("=") for part in parts)]

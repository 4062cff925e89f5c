"""Where a row's published weights lie on this machine, and what to copy where if they do not.

First ``<cache>/weights/ROW/FILE``, where anybody may put them by hand; then, for a source on the Hugging Face
Hub, the cache that its own tools keep. Nothing is imported for looking: the catalogue asks for every row.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medspectrum.card import Card
from medspectrum.errors import UserError
from medspectrum.store import cache_folder

HUB = "hf:"
PAGE = "page:"
"""``page:ADDRESS#FILE``: a page from which a person, and no program, gets that file."""
NOWHERE = ("", "api", "unpublished")
"""Sources of which there is no file that one could have."""


def hub_parts(weights: str) -> tuple[str, str]:
    """Repository and file of ``hf:OWNER/NAME/FILE``; the file is '' where the whole repository is meant."""
    owner, _, rest = weights.removeprefix(HUB).partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}", file


def file_name(card: Card) -> str:
    """What the row's file is called here, '' where its source is a folder or no file at all."""
    if card.weights.startswith(HUB):
        return Path(hub_parts(card.weights)[1]).name
    if card.weights.startswith(PAGE):
        return card.weights.rpartition("#")[2]
    if card.weights.startswith(("https://", "http://")):
        parts = urlsplit(card.weights)
        return Path(unquote(parts.fragment or parts.path)).name  # NAME behind # where the address has none
    return ""


def has_file(card: Card) -> bool:
    """Whether the row's source is something that can be fetched or copied: a file, or a folder of the Hub."""
    return card.weights not in NOWHERE and not card.weights.startswith("package:")


def place(card: Card, cache: str | os.PathLike[str] | None = None) -> Path:
    """Where the row's file (or folder) belongs: ``<cache>/weights/ROW/FILE``.

    Raises UserError for a row whose weights are no file of its makers.
    """
    if not has_file(card):
        raise UserError(f"{card.name} has no weights to fetch: {card.why or card.source}")
    folder = cache_folder(cache) / "weights" / card.name
    return folder / name if (name := file_name(card)) else folder


def found(card: Card, cache: str | os.PathLike[str] | None = None) -> Path | None:
    """The row's file or folder on this machine, None where it is not here."""
    if not has_file(card):
        return None
    own = place(card, cache)
    if own.is_file() or (not file_name(card) and (own / "config.json").is_file()):
        return own
    return in_hub_cache(card.weights) if card.weights.startswith(HUB) else None


def lacking(card: Card, cache: str | os.PathLike[str] | None = None) -> str:
    """'' where the row's weights are here, else one sentence: what to fetch, or to copy where."""
    if not has_file(card):
        return card.why or card.source
    if found(card, cache) is not None:
        return ""
    size = f" ({card.download_mb:,.0f} MB)" if card.download_mb else ""
    agree = " once its makers have agreed" if card.gated else ""
    if card.weights.startswith(PAGE):
        return (
            f"{card.name} needs its weights{size}: get {file_name(card)} by {address(card)} "
            f"and copy it to {place(card, cache)}"
        )
    return (
        f"{card.name} needs its weights{size}: run `medspectrum models {card.name} --fetch`{agree}, "
        f"or copy {address(card)} to {place(card, cache)}"
    )


def address(card: Card) -> str:
    """Where a person finds the row's file: an address for a browser."""
    if card.weights.startswith(PAGE):
        return card.weights.removeprefix(PAGE).rpartition("#")[0]
    if not card.weights.startswith(HUB):
        return card.weights
    repository, file = hub_parts(card.weights)
    return f"https://huggingface.co/{repository}" + (f"/resolve/main/{file}" if file else "")


def needed(card: Card, cache: str | os.PathLike[str] | None = None) -> Path:
    """The row's file, which is here. Raises UserError with what to copy where."""
    path = found(card, cache)
    if path is None:
        raise UserError(lacking(card, cache))
    return path


def _hub_cache() -> Path:
    """Where the Hub's own tools keep files: ``HF_HUB_CACHE``, else ``HF_HOME/hub``, else the usual place."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "huggingface" / "hub"


def in_hub_cache(weights: str) -> Path | None:
    """Where the Hub's own tools keep ``hf:OWNER/NAME[/FILE]`` on this machine; None where they do not."""
    repository, file = hub_parts(weights)
    folder = _hub_cache() / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    path = folder / "snapshots" / revision / (file or "config.json")
    if not path.exists():
        return None
    return path if file else path.parent

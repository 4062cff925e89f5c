"""A published file brought to this machine: resumed where it was broken off, whole or absent in its place."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.weights_place import HUB, PAGE, address, found, hub_parts, lacking, place
from medspectrum.errors import UserError

ASK_ABOVE_MB = 1000.0
"""Files larger than this are fetched only when somebody said yes."""
TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_WHOLE_FOLDER = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Ask = Callable[[str], bool]


def fetch(
    card: Card, *, cache: str | os.PathLike[str] | None = None, ask: Ask, hub: str | None = None
) -> Path:
    """Bring the row's weights to their place, unless they are on this machine; returns where they lie.

    ask: is told what is about to be fetched where that is over 1 GB, and answers whether to. hub: address
    of the Hub, its own where None. A fetch that breaks off is gone on with by the next one. Raises UserError
    where the answer is no, where there is no network, where the makers must agree first, and where what came
    is not what its makers published.
    """
    target = place(card, cache)
    if (here := found(card, cache)) is not None:
        return here
    if card.weights.startswith(PAGE):
        raise UserError(lacking(card, cache))
    if card.download_mb > ASK_ABOVE_MB and not ask(_question(card, card.download_mb, target)):
        raise UserError(
            f"{card.name} was not fetched: it is {card.download_mb / 1000:.1f} GB; say --yes to fetch it"
        )
    if card.weights.startswith(HUB):
        return _from_hub(card, target, ask, hub)
    return _from_address(card, card.weights, target, ask)


def _question(card: Card, megabytes: float, target: Path) -> str:
    return f"fetch {megabytes / 1000:.1f} GB of {card.name} ({card.licence}) to {target}?"


def _offline(card: Card, target: Path, reason: object) -> UserError:
    return UserError(
        f"{card.name}: {address(card)} cannot be reached ({reason}); where there is a network, "
        f"get that file and copy it to {target}"
    )


def _from_address(card: Card, url: str, target: Path, ask: Ask) -> Path:
    """The file at an address. A part that lies there is gone on with, if the server can."""
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    asked = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the card's own source
            if answer.headers.get_content_type() == "text/html":
                raise UserError(
                    f"{card.name}: {url} is a page for people; get {target.name} there "
                    f"and copy it to {target}"
                )
            kind = "ab" if have and answer.status == 206 else "wb"
            rest = int(answer.headers.get("Content-Length") or 0)
            whole = rest + (have if kind == "ab" else 0) if rest else 0
            if (
                not card.download_mb
                and whole > ASK_ABOVE_MB * 1e6
                and not ask(_question(card, whole / 1e6, target))
            ):
                raise UserError(
                    f"{card.name} was not fetched: it is {whole / 1e9:.1f} GB; say --yes to fetch it"
                )
            with part.open(kind) as written:
                shutil.copyfileobj(answer, written, _BLOCK)
    except urllib.error.HTTPError as problem:
        if problem.code != 416:  # the part is the whole already
            raise _offline(card, target, f"it answers {problem.code} {problem.reason}") from problem
        whole = 0
    except (urllib.error.URLError, OSError) as problem:
        raise _offline(card, target, getattr(problem, "reason", problem)) from problem
    got = part.stat().st_size
    if whole and got < whole:
        raise UserError(
            f"{card.name}: the connection broke off after {got} of {whole} bytes; "
            "the same command goes on from there"
        )
    return _kept(card, part, target, card.checksum)


def _kept(card: Card, part: Path, target: Path, wanted: str) -> Path:
    """The part under its name, once its SHA-256 begins as published."""
    if wanted:
        whole = hashlib.sha256()
        with part.open("rb") as held:
            while block := held.read(_BLOCK):
                whole.update(block)
        if not whole.hexdigest().startswith(wanted):
            part.unlink()
            raise UserError(
                f"{card.name}: what came from {address(card)} has the SHA-256 {whole.hexdigest()[:12]}..., "
                f"not the published {wanted[:12]}...; it was thrown away, fetch it again"
            )
    part.replace(target)
    return target


def _from_hub(card: Card, target: Path, ask: Ask, hub: str | None) -> Path:
    """The file, or the whole folder, through the Hub's own client."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repository, file = hub_parts(card.weights)
    try:
        if not file:
            return _whole_folder(card, repository, target, ask, hub)
        known: Any = get_hf_file_metadata(hf_hub_url(repository, file, endpoint=hub), endpoint=hub)
        size = float(known.size or 0)
        if (
            not card.download_mb
            and size > ASK_ABOVE_MB * 1e6
            and not ask(_question(card, size / 1e6, target))
        ):
            raise UserError(f"{card.name} was not fetched: it is {size / 1e9:.1f} GB; say --yes to fetch it")
        staged = target.parent / ".hub"
        part = Path(hf_hub_download(repository, file, local_dir=staged, endpoint=hub))
        said = str(known.etag or "")
        kept = _kept(card, part, target, card.checksum or (said if _SHA256.fullmatch(said) else ""))
        shutil.rmtree(staged, ignore_errors=True)
        return kept
    except UserError:
        raise
    except Exception as problem:  # the client raises its own kinds, and those of what it is built on
        raise _hub_problem(card, target, problem) from problem


def _whole_folder(card: Card, repository: str, target: Path, ask: Ask, hub: str | None) -> Path:
    """All that a folder of transformers is made of; it takes its name when it is whole."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, snapshot_download

    if not card.download_mb:
        held = HfApi(endpoint=hub).model_info(repository, files_metadata=True).siblings or []
        wanted = [f for f in held if any(fnmatch(f.rfilename, p) for p in _WHOLE_FOLDER)]
        size = sum(f.size or 0 for f in wanted)
        if size > ASK_ABOVE_MB * 1e6 and not ask(_question(card, size / 1e6, target)):
            raise UserError(f"{card.name} was not fetched: it is {size / 1e9:.1f} GB; say --yes to fetch it")
    part = target.with_name(f"{target.name}.part")
    snapshot_download(repository, local_dir=part, endpoint=hub, allow_patterns=list(_WHOLE_FOLDER))
    shutil.rmtree(part / ".cache", ignore_errors=True)
    part.replace(target)
    return target


def _hub_problem(card: Card, target: Path, problem: Exception) -> UserError:
    repository, file = hub_parts(card.weights)
    kind = type(problem).__name__
    if kind == "GatedRepoError" or "401" in str(problem) or "403" in str(problem):
        return UserError(
            f"{card.name}: its makers must agree first: ask at https://huggingface.co/{repository}, "
            f"then run `hf auth login` and this command again, or copy the file to {target}"
        )
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError", "RepositoryNotFoundError"):
        return UserError(
            f"{card.name}: there is no {file or 'such model'} at {address(card)} any more; "
            f"copy the file to {target}"
        )
    words = (str(problem).strip() or kind).split("\n")[0][:160]
    return _offline(card, target, words)

"""What the families that build timm networks share: looking an architecture up, and loading into it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from medspectrum.card import Card
from medspectrum.errors import UserError
from medspectrum.models._weights import load_strictly

FREE_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0")


def configuration(architecture: str) -> Any:
    """Timm's record of an architecture. Raises UserError with the nearest names where there is none."""
    import timm

    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"timm has no architecture {architecture!r}{hint}")
    return timm.get_pretrained_cfg(architecture)


def bare(architecture: str) -> Any:
    """The network without classifier at its own size, weights as timm draws them."""
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=0).eval()


def card_of(name: str, architecture: str, *, source: str, status: str) -> Card:
    """A card from timm's record; the network is built without memory to count it."""
    import torch

    known = configuration(architecture)
    with torch.device("meta"):
        network = bare(architecture)
    embedding = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    plain = hasattr(network, "blocks") and patch is not None
    stride = int(patch[0]) if plain and patch else max(i["reduction"] for i in network.feature_info)
    licence = str(known.license or "")
    return Card(
        name=name,
        level="general",
        modality="any",
        organ="any",
        dims=2,
        tasks=("classify", "features"),
        licence=licence or "unknown",
        commercial_use=licence.lower() in FREE_LICENCES,
        source=source,
        status=status,
        parameters=sum(p.numel() for p in network.parameters()),
        width=int(getattr(network, "head_hidden_size", None) or network.num_features),
        input_size=tuple(known.input_size[1:]),
        mean=tuple(known.mean),
        std=tuple(known.std),
        stride=stride,
    )


def loaded(network: Any, weights: Mapping[str, Any], source: object) -> Any:
    """Strictly loaded, once the classifier that the network was built without is left out."""
    known = getattr(network, "pretrained_cfg", None) or {}
    heads = known.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    kept = {k: v for k, v in weights.items() if not any(k.startswith(f"{h}.") for h in heads)}
    return load_strictly(network, kept, source)


def at_size(network: Any, side: int, *, native: int) -> Any:
    """The network for square inputs of that side; positions are resized by timm where it has them.

    Raises UserError where the architecture takes one size only.
    """
    change = getattr(network, "set_input_size", None)
    if side == native:
        return network
    if change is not None:
        change(img_size=(side, side))
    elif (network.pretrained_cfg or {}).get("fixed_input_size"):
        raise UserError(f"{type(network).__name__} takes {native} x {native} pixels only; got {side}")
    return network

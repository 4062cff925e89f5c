"""What travels between server and sites, and what a server keeps: named arrays and plain facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import store
from medspectrum.errors import UserError


@dataclass(frozen=True)
class Packet:
    """One message, or a server's state. purpose: the step it belongs to. facts: JSON values."""

    purpose: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of its content, without the envelope of the transport."""
        plain = json.dumps([self.purpose, dict(self.facts)], sort_keys=True)
        return len(plain.encode()) + sum(a.nbytes for a in self.arrays.values())

    def shapes(self) -> str:
        """Its arrays in words: ``sums (2, 384) float64``."""
        return ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in sorted(self.arrays.items()))


@dataclass(frozen=True)
class Holding:
    """What a site holds: frozen features (n, d) float32 of its labelled cases, their classes and patients."""

    rows: np.ndarray
    labels: tuple[str, ...]
    patients: tuple[str, ...]
    model_key: str

    def indices(self, classes: tuple[str, ...]) -> np.ndarray:
        """(n,) of each case's class among the agreed ones."""
        place = {name: i for i, name in enumerate(classes)}
        return np.array([place[label] for label in self.labels], np.int64)


def why_unusable(answer: Packet, question: Packet) -> str:
    """Why an answer must not be used; '' where nothing speaks against it by itself."""
    if answer.purpose != question.purpose:
        return f"it answers {answer.purpose}, asked was {question.purpose}"
    for name, array in answer.arrays.items():
        if array.dtype.kind not in "fiub":
            return f"{name} holds no numbers"
        if not np.isfinite(array).all():
            return f"{name} holds values that are not finite"
    return ""


def save_packet(path: Path, packet: Packet) -> None:
    """Write a packet as one safetensors file, atomically."""
    from safetensors.numpy import save

    held = {name: np.ascontiguousarray(a) for name, a in packet.arrays.items()}
    told = json.dumps({"purpose": packet.purpose, "facts": dict(packet.facts)}, allow_nan=False)
    store.write_bytes(path, save(held, metadata={"packet": told}))


def load_packet(path: Path) -> Packet:
    """Read a packet. Raises UserError where the file is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            told = json.loads(opened.metadata()["packet"])
            return Packet(told["purpose"], {n: opened.get_tensor(n) for n in opened.keys()}, told["facts"])  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} holds no state of a federation: {error}; remove it to start again") from None

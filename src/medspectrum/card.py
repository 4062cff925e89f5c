"""A model's place on the spectrum: what it is, where its weights are, what one may do with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("general", "modality", "organ-task", "control")


@dataclass(frozen=True, slots=True)
class Card:
    """One row of the catalogue.

    level: general, modality, organ-task, or control (random weights). modality, organ: ``any`` where
    not tied to one. dims: 2 or 3, of signals 1. tasks: what it can serve. licence: SPDX of the weights.
    source: where the weights come from, in words a person can follow. status: conforms, loads, card.
    input_size: pixels per side (2-D) or (Z, Y, X). mean, std: per channel on a 0-1 scale.
    stride: sides must be multiples of it. checksum: sha256 of the source file, if published here.
    abilities of a row beyond features stand in tasks too (prompt, describe, register...).
    weights: the exact source, machine-readable: ``package:NAME==VERSION``, ``hf:OWNER/NAME/FILE``, a URL,
    ``api`` (served by its makers alone) or ``unpublished``. download_mb: of that file. file_format: pytorch,
    safetensors, nnunet, transformers, torchscript, tensorflow. gated: whether its makers must agree first.
    gflops: multiplications and additions per input, in 10^9. code_licence: SPDX of the makers' code.
    training_data: what it learned from; overlaps: public test sets that are known to be among that.
    why: of a row that is a card alone, what keeps it so.
    """

    name: str
    level: str
    modality: str
    organ: str
    dims: int
    tasks: tuple[str, ...]
    licence: str
    commercial_use: bool
    source: str
    status: str
    parameters: int
    width: int
    input_size: tuple[int, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    stride: int = 32
    checksum: str = ""
    extra: str = ""
    citation: str = ""
    notes: str = ""
    weights: str = ""
    download_mb: float = 0.0
    file_format: str = ""
    gated: bool = False
    gflops: float = 0.0
    code_licence: str = ""
    training_data: str = ""
    overlaps: tuple[str, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"card {self.name!r}: level {self.level!r} is none of {', '.join(LEVELS)}")

    def as_row(self) -> dict[str, Any]:
        """The card as JSON values, keys as in the contract for scripts."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

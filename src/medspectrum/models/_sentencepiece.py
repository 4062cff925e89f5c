"""Words <-> numbers of a Llama or Mistral that came with a SentencePiece model, tokenizer.model, alone.

Kudo and Richardson 2018 (arXiv:1808.06226). The file is read as the table of pieces that it is; the
library that wrote it is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medspectrum.errors import UnreadableFile


def tokenizer(folder: Path) -> Any:
    """Words <-> numbers, of tokenizer.json or tokenizer.model. Raises UnreadableFile."""
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges  # type: ignore[attr-defined]

    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise UnreadableFile(folder, "holds neither tokenizer.model nor tokenizer.json; copy the whole model")
    scores = pieces(path)
    vocabulary = {piece: i for i, piece in enumerate(scores)}
    merges = generate_merges(vocabulary, scores)
    return LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=True, add_bos_token=True)


def pieces(path: Path) -> dict[str, float]:
    """The pieces of a SentencePiece model in their order with their scores.

    Of its message every field 1 is a piece: field 1 its letters, field 2 its score. Raises UnreadableFile
    where it is none.
    """
    found: dict[str, float] = {}
    try:
        for number, piece in _fields(path.read_bytes()):
            if number == 1:
                said = dict(_fields(piece))
                found[said[1].decode()] = struct.unpack("<f", said[2])[0] if 2 in said else 0.0
    except (IndexError, KeyError, ValueError, struct.error) as problem:
        raise UnreadableFile(path, "is no SentencePiece model; copy it again") from problem
    if not found:
        raise UnreadableFile(path, "is no SentencePiece model; copy it again")
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of a protocol buffer's fields; of those that are numbers of no fixed length, b''."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        kind, length = key & 7, 0
        if kind == 0:
            number()
        elif kind in (1, 2, 5):
            length = {1: 8, 5: 4}.get(kind) or number()
        else:
            raise ValueError(f"fields of kind {kind}")
        if place + length > len(message):
            raise ValueError("cut short")
        yield key >> 3, message[place : place + length]
        place += length

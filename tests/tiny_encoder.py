"""A small encoder with random weights in a file, quick enough to run the whole of ``explore`` in tests."""

from __future__ import annotations

from pathlib import Path

from medspectrum.models import local_file


def tiny_encoder(cache: Path) -> str:
    """The name under which ``explore`` finds it."""
    local_file.tiny(cache=cache)
    found = next((cache / "tiny").glob("*.safetensors"))
    return f"file:{found}?arch={found.stem}"

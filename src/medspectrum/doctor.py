"""What this machine can run, what is there, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from medspectrum import __version__, registry, store

EXTRAS = {
    "vit": ("onnx", "the DINOv2-S derived ViT"),
    "clip": ("open_clip", "CLIP, CheXzero and BiomedCLIP"),
    "openslide": ("openslide", "whole slides through OpenSlide (else tiffslide reads them)"),
    "cluster": ("distributed", "--workers and --cluster"),
}


def doctor(*, cache: Path | None = None) -> dict[str, Any]:
    """Say what this machine can run, which extras and weights are there, and how to get what is missing.

    cache: folder for features and finished trials.

    Returns machine, packages, extras, weights, readers and cache; nothing is downloaded or changed.
    """
    import psutil

    folder = store.cache_folder(cache)
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    flags = _processor_flags()
    return {
        "version": __version__,
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "memory_free_gb": round(psutil.virtual_memory().available / 2**30, 1),
            "bf16": bool(flags & {"avx512_bf16", "amx_bf16"}),
            "gpu": _gpu(),
        },
        "extras": [
            {
                "name": name,
                "there": importlib.util.find_spec(package) is not None,
                "serves": serves,
                "how": "" if importlib.util.find_spec(package) else f'pip install "medspectrum[{name}]"',
            }
            for name, (package, serves) in EXTRAS.items()
        ],
        "weights": [
            {
                "name": entry.name,
                "there": not missing,
                "licence": entry.facts["card"].licence,
                "how": missing,
            }
            for entry in registry.entries("model").values()
            for missing in [entry.facts["available"]() if entry.facts.get("available") else ""]
        ],
        "cache": {
            "folder": str(folder),
            "used_mb": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1)
            if folder.exists()
            else 0.0,
            "free_gb": round(shutil.disk_usage(place).free / 2**30, 1),
            "writable": os.access(place, os.W_OK),
        },
    }


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def _gpu() -> str:
    """Name of a GPU that torch can use, or ''; torch is asked only where a driver is there."""
    if not Path("/proc/driver/nvidia").exists():
        return ""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""

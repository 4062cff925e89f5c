"""Electrocardiograms of one lead read by openecg: waves, beats and rhythm at every sample.

The package (Apache-2.0, of the makers of VitalDB) brings the network and its weights; the file is opened only
if its bytes are those that were reviewed. No task here takes signals yet, so the row gives the network.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.card import Card
from medspectrum.errors import UserError
from medspectrum.models._weights import checked, package_folder
from medspectrum.registry import model

WAVES = ("other", "P", "QRS", "T")
BEATS = ("none", "sinus", "vpc", "paced", "fusion", "unknown")
RHYTHMS = ("sinus", "avb", "paced", "afib", "bbb", "ventricular")
HERTZ = 500
SAMPLES = 5000
_CHECKSUM = "4caf710737c4b9024b5b2b79b897af04c13f82f4f8e5f29b7dc4c8309e487a58"

CARD = Card(
    name="openecg",
    level="organ-task",
    modality="ECG",
    organ="heart",
    dims=1,
    tasks=("segment",),
    licence="Apache-2.0",
    commercial_use=True,
    source='Python package openecg 0.11.0: pip install "medspectrum[ecg]"',
    status="loads",
    parameters=1_159_572,
    width=128,
    input_size=(SAMPLES,),
    checksum=_CHECKSUM,
    extra="ecg",
    notes="one lead, ten seconds at 500 Hz, by the ranks of its samples; codec version 6",
    file_format="pytorch",
    code_licence="Apache-2.0",
    training_data="LUDB, QTDB, ISP, MIT-BIH, VitalDB arrhythmia, and those of its makers' hospital",
    overlaps=("LUDB", "QTDB", "MIT-BIH Arrhythmia Database"),
)


@dataclass(frozen=True)
class Reading:
    """What each sample is, (samples,) uint8: of ``WAVES``, ``BEATS`` (0 outside of QRS), ``RHYTHMS``."""

    waves: np.ndarray
    beats: np.ndarray
    rhythm: np.ndarray


def _lacking() -> str:
    if find_spec("openecg") is not None:
        return ""
    return 'openecg needs its package: pip install "medspectrum[ecg]"'


@model(
    "openecg",
    card=CARD,
    available=_lacking,
    gives="network",
    shown_by="test_openecg_reads_as_its_own_code",
)
def openecg(path: str | Path | None = None, *, cache: Path | None = None) -> Any:  # noqa: ARG001
    """Waves, beats and rhythm in electrocardiograms of one lead, a small transformer."""
    folder = package_folder("openecg")
    if folder is None:
        raise UserError(_lacking())
    place = checked(Path(path) if path else folder / "models" / "codec_v6.pt", _CHECKSUM)
    from openecg.stage2.model import load_model_from_ckpt  # type: ignore[import-not-found]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on torch's way of nesting tensors
        return load_model_from_ckpt(str(place))[0].eval()


def read(network: Any, signal: np.ndarray, *, hertz: float = HERTZ) -> Reading:
    """Read one lead, ten seconds or less, (samples,) in any unit.

    Shorter ones are filled up with their last value. Raises UserError for more samples, or another rate.
    """
    import torch
    from openecg.dsp import rank_normalize  # type: ignore[import-not-found]

    if signal.ndim != 1 or not 0 < len(signal) <= SAMPLES or not np.isfinite(signal).all():
        raise UserError(
            f"openecg reads one lead of up to {SAMPLES} numbers; got an array of shape {signal.shape}"
        )
    if hertz != HERTZ:
        raise UserError(f"openecg reads {HERTZ} samples a second; got {hertz:g}: resample the signal")
    whole = np.pad(signal, (0, SAMPLES - len(signal)), mode="edge")
    given = torch.from_numpy(np.array(rank_normalize(whole), np.float32))[None]
    with torch.inference_mode():
        waves, beats, rhythm = (
            scores[0].argmax(-1).numpy().astype(np.uint8)[: len(signal)]
            for scores in network(given, torch.zeros(1, dtype=torch.long))
        )
    return Reading(waves, np.where(waves == WAVES.index("QRS"), beats, 0).astype(np.uint8), rhythm)

"""openecg's network, from its own package: it reads an electrocardiogram as the package does."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import openecg as rows
from medspectrum.models._weights import package_folder
from medspectrum.registry import find

openecg = pytest.importorskip("openecg", reason="needs openecg")


def made_lead(rate: float = 1.1) -> np.ndarray:
    """Ten seconds with P, QRS and T at every beat, in mV."""
    seconds = np.arange(rows.SAMPLES) / rows.HERTZ
    place = (seconds * rate) % 1 / rate
    waves = ((0.15, 0.12, 0.025), (1.2, 0.28, 0.012), (-0.25, 0.31, 0.01), (0.35, 0.52, 0.05))
    lead = sum(a * np.exp(-((place - m) ** 2) / (2 * s**2)) for a, m, s in waves)
    return lead + np.random.default_rng(0).normal(0, 0.01, len(seconds))


@pytest.fixture(scope="module")
def network():
    return find("model", "openecg").thing()


def test_openecg_reads_as_its_own_code(network):
    lead = made_lead()
    found = rows.read(network, lead)
    theirs = openecg.encode(lead, fs=rows.HERTZ, model=openecg.load_codec())
    assert np.array_equal(found.waves, theirs.frame)
    assert np.array_equal(found.beats, theirs.beat)
    assert np.array_equal(found.rhythm, theirs.rhythm)
    begins = np.flatnonzero(np.diff((found.waves == rows.WAVES.index("QRS")).astype(int)) == 1)
    assert abs(len(begins) - 11) <= 1  # beats in ten seconds
    assert sum(p.numel() for p in network.parameters()) == rows.CARD.parameters


def test_what_openecg_does_not_read_is_told(network, tmp_path):
    assert len(rows.read(network, made_lead()[:4000]).waves) == 4000
    with pytest.raises(UserError, match="one lead of up to 5000"):
        rows.read(network, np.zeros((12, 5000)))
    with pytest.raises(UserError, match="500 samples a second; got 250"):
        rows.read(network, np.zeros(2500), hertz=250)
    folder = package_folder("openecg")
    assert folder is not None
    other = shutil.copy(folder / "models" / "codec_v5.pt", tmp_path / "codec_v6.pt")
    with pytest.raises(UnreadableFile, match="SHA-256"):
        find("model", "openecg").thing(other)

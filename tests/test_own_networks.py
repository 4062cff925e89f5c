"""What families with networks of our own do beside answering as the originals (test_published.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from medspectrum.engine import fetching, weights_place
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import endo_fm, hipt, med3d, mis_fm
from medspectrum.models._hipt_network import two_levels

PUBLISHED = Path(__file__).parent / "data" / "published"


def test_med3d_sees_volumes_as_its_makers_prepare_them():
    rng = np.random.default_rng(0)
    volume = rng.uniform(50, 90, (1, 8, 12, 16)).astype(np.float32)
    volume[:, :3] = 0
    made = med3d.volume_input(Image(volume, modality="MR"), (8, 12, 16))
    assert made.shape == (1, 8, 12, 16)
    inside = made != 0
    assert inside.mean() == pytest.approx(5 / 8)
    assert abs(made[inside].mean()) < 1e-5
    assert made[inside].std() == pytest.approx(1, abs=1e-4)
    shifted = med3d.volume_input(Image(volume - 1000, modality="CT"), (8, 12, 16))
    np.testing.assert_allclose(shifted, made, atol=1e-3)
    assert not med3d.volume_input(Image(np.zeros_like(volume), modality="CT"), (8, 12, 16)).any()
    with pytest.raises(UserError, match="Med3D takes volumes"):
        med3d.volume_input(Image(volume[:, :1], modality="CT"), (8, 12, 16))


def test_both_levels_of_hipt_answer_as_the_original_reads_a_region():
    levels = []
    for published, row in ((hipt.FIRST, "hipt-vit256"), (hipt.SECOND, "hipt-4k")):
        settings = json.loads((PUBLISHED / row / "meta.json").read_text())["settings"]
        levels.append(published.network(PUBLISHED / row / "small.pth", **settings))
    whole = two_levels(*levels)
    with np.load(PUBLISHED / "hipt-4k" / "two_levels.npz") as held, torch.inference_mode():
        coarse = torch.from_numpy(held["coarse"]).float()
        region = torch.nn.functional.interpolate(coarse, (520, 800))
        assert np.abs(held["answer"]).max() > 0.1
        np.testing.assert_allclose(whole(region).numpy(), held["answer"], rtol=0, atol=1e-5)
        assert whole.read_level(region, "tokens")[0].shape == (1, 12, 2, 3)


def test_a_video_is_shown_as_evenly_spread_frames():
    frames = np.zeros((3, 16, 32, 32), np.uint8)
    frames[:] = 10 * np.arange(16)[None, :, None, None]
    made = endo_fm.video_input(Image(frames, modality="ES"), (8, 32, 32))
    assert made.shape == (3, 8, 32, 32)
    wanted = (10 * np.arange(1, 16, 2) / 255 - 0.45) / 0.225
    np.testing.assert_allclose(made[0, :, 5, 5], wanted, atol=1e-5)
    alone = endo_fm.video_input(Image(frames[:, 3:4], modality="ES"), (8, 32, 32))
    np.testing.assert_allclose(alone, (30 / 255 - 0.45) / 0.225, atol=1e-5)


def test_a_file_whose_address_names_none_has_its_makers_name(tmp_path):
    assert weights_place.place(endo_fm.CARD, tmp_path).name == "endo_fm.pth"


def test_a_page_for_people_is_not_taken_for_weights(tmp_path):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"<html>a folder</html>")

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        card = replace(mis_fm.CARD, weights=f"http://127.0.0.1:{server.server_port}/folder#pctnet.pt")
        with pytest.raises(UserError, match=r"is a page for people; get pctnet\.pt there and copy it to"):
            fetching.fetch(card, cache=tmp_path, ask=lambda _: True)
        server.shutdown()
    assert not list(tmp_path.rglob("*pctnet.pt*"))


def test_pct_net_sees_normalised_volumes():
    rng = np.random.default_rng(1)
    volume = rng.normal(40, 300, (1, 20, 30, 40)).astype(np.float32)
    made = mis_fm.volume_input(Image(volume, modality="CT"), (16, 32, 32))
    assert made.shape == (1, 16, 32, 32)
    assert abs(float(made.mean())) < 1e-4
    assert float(made.std()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UserError, match="takes volumes"):
        mis_fm.volume_input(Image(volume[:, :1], modality="CT"), (16, 32, 32))

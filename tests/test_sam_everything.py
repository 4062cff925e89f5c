"""Everything outlined without a prompt: the same masks as the original finds, in every setting.

The reference was made by ``scripts/conformance/segment_anything_everything.py`` with the original code.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medspectrum.errors import UserError
from medspectrum.models import sam, sam_everything

DATA = Path(__file__).parent / "data"
OURS = {
    "points_per_side": "points_per_side",
    "pred_iou_thresh": "least_trust",
    "stability_score_thresh": "least_stability",
    "stability_score_offset": "stability_offset",
    "box_nms_thresh": "most_overlap",
    "crop_n_layers": "layers",
    "crop_n_points_downscale_factor": "points_shrink",
    "min_mask_region_area": "least_area",
}
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def known():
    with np.load(DATA / "sam_everything.npz") as held:
        return dict(held)


@pytest.fixture(scope="module")
def tiny():
    return sam.load(DATA / "sam_ovals.pth")


@pytest.mark.parametrize("run", ["whole", "trusted", "parts", "tidied"])
def test_everything_is_what_the_original_finds(run, tiny, known):
    settings = {OURS[k]: v for k, v in json.loads(str(known["runs"]))[run].items()}
    picture = np.ascontiguousarray(np.moveaxis(known["picture"], -1, 0))
    found = sam_everything.everything(tiny, picture, **settings)
    size = known["picture"].shape[:2]
    count = len(known[f"{run}_bbox"])
    masks = np.unpackbits(known[f"{run}_masks"])[: count * size[0] * size[1]].reshape(count, *size)
    assert len(found) == count > 2
    assert np.array_equal(np.stack([t.mask for t in found]), masks.astype(bool))
    boxes = np.stack([[*t.box[:2], *(t.box[2:] - t.box[:2])] for t in found])
    assert np.array_equal(boxes, known[f"{run}_bbox"])
    assert np.allclose([t.trust for t in found], known[f"{run}_predicted_iou"], **CLOSE)
    assert np.allclose([t.stability for t in found], known[f"{run}_stability_score"], **CLOSE)
    assert np.allclose([t.point for t in found], known[f"{run}_point_coords"][:, 0], **CLOSE)
    parts = [[t.part[0], t.part[1], t.part[2] - t.part[0], t.part[3] - t.part[1]] for t in found]
    assert np.array_equal(parts, known[f"{run}_crop_box"])


def test_what_cannot_find_everything_says_so(tiny):
    picture = np.zeros((3, 20, 31), np.uint8)
    with pytest.raises(UserError, match="MedSAM answers boxes"):
        sam_everything.everything(replace(tiny, preparation="medsam"), picture)
    with pytest.raises(UserError, match="at least one point"):
        sam_everything.everything(tiny, picture, points_per_side=0)
    assert sam_everything.everything(tiny, picture, points_per_side=2, least_trust=2.0) == []

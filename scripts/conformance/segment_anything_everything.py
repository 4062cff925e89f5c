"""Make tests/data/sam_everything.npz: what the original finds where nothing is pointed at.

    python scripts/conformance/segment_anything_everything.py CHECKOUT

CHECKOUT is a checkout of github.com/facebookresearch/segment-anything (commit dca509f was used). A network of
the original classes learns for a minute to outline bright ovals at points and boxes, so that its masks are
things that lie apart; it is saved as sam_ovals.pth. The original ``SamAutomaticMaskGenerator`` then looks at
a picture of such ovals in the settings below. Needs OpenCV.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything_reference import OUT, SIDE, small_network

RUNS = {
    "whole": {"points_per_side": 12},
    "trusted": {"points_per_side": 16, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.8},
    "parts": {"points_per_side": 12, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "tidied": {"points_per_side": 8, "pred_iou_thresh": 0.3, "min_mask_region_area": 25},
}
COMMON = {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.5}
STEPS, PICTURES = 1200, 4


def main() -> None:
    """Write both files."""
    sys.path.insert(0, sys.argv[1])
    from segment_anything import SamAutomaticMaskGenerator

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = small_network()
    train(network, rng)
    state = {name: value.half() for name, value in network.state_dict().items()}
    torch.save(state, OUT / "sam_ovals.pth")
    network.load_state_dict({name: value.float() for name, value in state.items()})
    network.eval()

    picture, _ = ovals(rng, (90, 121), 9)
    runs = {name: COMMON | settings for name, settings in RUNS.items()}
    made: dict[str, np.ndarray] = {"picture": picture, "runs": np.array(json.dumps(runs))}
    for name, settings in runs.items():
        found = SamAutomaticMaskGenerator(network, points_per_batch=16, **settings).generate(picture)
        made[f"{name}_masks"] = np.packbits(np.stack([f["segmentation"] for f in found]))
        for key in ("bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"):
            made[f"{name}_{key}"] = np.array([f[key] for f in found])
    np.savez_compressed(OUT / "sam_everything.npz", **made)


def ovals(rng, size, count):
    """A picture (height, width, 3) uint8 of bright ovals apart from each other, and their masks."""
    y, x = np.mgrid[: size[0], : size[1]]
    taken, masks = np.zeros(size, bool), []
    for _ in range(40 * count):
        radii = rng.uniform(4, 9, 2)
        middle = rng.uniform(radii, np.array(size) - radii)
        tilt = rng.uniform(0, np.pi)
        u = (y - middle[0]) * np.cos(tilt) + (x - middle[1]) * np.sin(tilt)
        v = (x - middle[1]) * np.cos(tilt) - (y - middle[0]) * np.sin(tilt)
        mask = (u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1
        wide = (u / (radii[0] + 2)) ** 2 + (v / (radii[1] + 2)) ** 2 <= 1
        if not (wide & taken).any():
            taken |= mask
            masks.append(mask)
        if len(masks) == count:
            break
    grey = np.full(size, 60.0)
    for mask in masks:
        grey[mask] = rng.uniform(140, 230)
    picture = grey[..., None] + rng.normal(0, 8, (*size, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), np.stack(masks)


def train(network, rng) -> None:
    """Learn masks and their IoU from a point or a box in each oval."""
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    for step in range(STEPS):
        total = torch.zeros(())
        for _ in range(PICTURES):
            picture, masks = ovals(rng, (SIDE, SIDE), 4)
            given = network.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
            features = network.image_encoder(given)
            kept = torch.from_numpy(masks.astype(np.float32))
            points, boxes = [], []
            for mask in masks:
                rows, columns = np.nonzero(mask)
                pick = rng.integers(len(rows))
                points.append((columns[pick], rows[pick]))
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            at = torch.tensor(np.array(points), dtype=torch.float)[:, None]
            pointed = step % 3 > 0
            sparse, dense = network.prompt_encoder(
                points=(at, torch.ones(len(at), 1)) if pointed else None,
                boxes=None if pointed else torch.tensor(np.array(boxes), dtype=torch.float),
                masks=None,
            )
            low, trust = network.mask_decoder(
                image_embeddings=features,
                image_pe=network.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=pointed,
            )
            scores = F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)
            many = kept[:, None].expand_as(scores)
            each = F.binary_cross_entropy_with_logits(scores, many, reduction="none").mean(dim=(2, 3))
            share = torch.sigmoid(scores)
            both, either = (share * many).sum(dim=(2, 3)), (share + many).sum(dim=(2, 3))
            each = each + 1 - (2 * both + 1) / (either + 1)
            inside = scores > 0
            real = (inside & (many > 0)).sum(dim=(2, 3)) / (inside | (many > 0)).sum(dim=(2, 3)).clamp(1)
            total = total + each.mean() + F.mse_loss(trust, real.float())
        optimiser.zero_grad()
        (total / PICTURES).backward()
        optimiser.step()
        plan.step()


if __name__ == "__main__":
    main()

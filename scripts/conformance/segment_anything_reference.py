"""Make tests/data/sam_*: what the original Segment Anything and MedSAM code answer on a small network.

    python scripts/conformance/segment_anything_reference.py CHECKOUT

CHECKOUT is a checkout of github.com/facebookresearch/segment-anything (commit dca509f was used). The network
is built with the original classes, its weights are drawn with a seed and saved as the original saves them;
answers come from the original ``SamPredictor``, and for MedSAM from the steps of its MedSAM_Inference.py
(github.com/bowang-lab/MedSAM, commit d71e8a1) with skimage and the original network. sam_shapes.json.gz lists
keys and shapes of the three published sizes.
"""

from __future__ import annotations

import gzip
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _keep import shapes as keep_shapes

OUT = Path(__file__).parents[2] / "tests" / "data"
SIDE, PATCH, WIDTH = 64, 8, 32


def main() -> None:
    """Write all files."""
    sys.path.insert(0, sys.argv[1])
    from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l

    for seed in range(100):
        state, made = answers(seed)
        shares = [float((made[f"{name}_full"] > 0).mean()) for name in ("box", "points", "point", "both")]
        if min(shares) > 0.1 and max(shares) < 0.9:  # answers neither empty nor full
            break
    torch.save(state, OUT / "sam_tiny.pth")
    np.savez_compressed(OUT / "sam_reference.npz", **made)

    shapes = {}
    with torch.device("meta"):
        for build in (build_sam_vit_b, build_sam_vit_l, build_sam_vit_h):
            whole = build()
            shapes[build.__name__[-5:]] = {k: list(v.shape) for k, v in whole.state_dict().items()}
            row, said = f"sam-vit-{build.__name__[-1]}", "facebookresearch/segment-anything, commit dca509f"
            keep_shapes(row, whole.state_dict(), listed_from=f"{said}, {build.__name__}()")
            if row == "sam-vit-b":
                keep_shapes("medsam", whole.state_dict(), listed_from=f"{said}, {build.__name__}()")
    packed = gzip.compress(json.dumps(shapes, separators=(",", ":")).encode(), 9, mtime=0)
    (OUT / "sam_shapes.json.gz").write_bytes(packed)


def answers(seed: int) -> tuple[dict, dict]:
    """The weights drawn with that seed, and what the original code answers with them."""
    from segment_anything import SamPredictor

    torch.manual_seed(seed)
    network = small_network()
    with torch.no_grad():
        for value in network.parameters():
            spread = 0.15 if value.ndim > 1 else 0.3
            value.copy_((value + spread * torch.randn_like(value)).half().float())
    state = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in state.items()})

    rng = np.random.default_rng(20)
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.float64)
    picture = np.kron(small, np.ones((8, 11, 1)))[:45, :83]
    picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    made: dict[str, np.ndarray] = {"picture": picture}
    box = np.array([20.0, 6.0, 61.0, 33.0])
    points, inside = np.array([[30.0, 20.0], [70.0, 40.0]]), np.array([1, 0])
    made |= {"box": box, "points": points, "inside": inside}

    predictor = SamPredictor(network)
    predictor.set_image(picture)
    made["sam_input"] = network.preprocess(
        torch.as_tensor(predictor.transform.apply_image(picture)).permute(2, 0, 1)[None]
    )[0].numpy()
    made["sam_features"] = predictor.features[0].detach().numpy()
    asked = {
        "box": {"box": box, "multimask_output": False},
        "points": {"point_coords": points, "point_labels": inside, "multimask_output": False},
        "point": {"point_coords": points[:1], "point_labels": inside[:1], "multimask_output": True},
        "both": {
            "box": box,
            "point_coords": points,
            "point_labels": inside,
            "multimask_output": False,
        },
    }
    for name, prompt in asked.items():
        masks, scores, low = predictor.predict(**prompt, return_logits=True)
        best = int(np.argmax(scores))
        made |= {f"{name}_full": masks[best], f"{name}_score": scores[best], f"{name}_low": low[best]}
    masks, scores, low = predictor.predict(
        box=box, mask_input=made["box_low"][None], multimask_output=False, return_logits=True
    )
    made |= {"again_full": masks[0], "again_score": scores[0], "again_low": low[0]}
    medsam(network, picture, box, made)
    return state, made


def small_network():
    """The original network, small, with weights as its makers draw them."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = SIDE // PATCH
    return Sam(
        ImageEncoderViT(
            depth=2,
            embed_dim=WIDTH,
            img_size=SIDE,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=5,
            out_chans=WIDTH,
        ),
        PromptEncoder(WIDTH, (grid, grid), (SIDE, SIDE), mask_in_chans=8),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=32, num_heads=8),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=16,
        ),
    ).eval()


def medsam(network, picture, box, made) -> None:
    """As MedSAM does: a square by splines, scaled by its ends, one box, sigmoid before enlarging."""
    from skimage import transform

    height, width, _ = picture.shape
    square = transform.resize(picture, (SIDE, SIDE), order=3, preserve_range=True, anti_aliasing=True)
    square = square.astype(np.uint8)
    square = (square - square.min()) / np.clip(square.max() - square.min(), a_min=1e-8, a_max=None)
    given = torch.tensor(square).float().permute(2, 0, 1).unsqueeze(0)
    scaled = box[None] / np.array([width, height, width, height]) * SIDE
    with torch.no_grad():
        features = network.image_encoder(given)
        sparse, dense = network.prompt_encoder(
            points=None, boxes=torch.as_tensor(scaled, dtype=torch.float)[:, None], masks=None
        )
        low, _ = network.mask_decoder(
            image_embeddings=features,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        share = F.interpolate(torch.sigmoid(low), (height, width), mode="bilinear", align_corners=False)
    made |= {
        "medsam_input": given[0].numpy(),
        "medsam_low": low[0, 0].numpy(),
        "medsam_full": share[0, 0].numpy(),
    }


if __name__ == "__main__":
    main()

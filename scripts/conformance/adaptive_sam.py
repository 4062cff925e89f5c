"""Make tests/data/adaptive_sam.npz: what AdaptiveSAM's own code outlines for vectors of words.

    python scripts/conformance/adaptive_sam.py SEGMENT_ANYTHING BIASTUNING

SEGMENT_ANYTHING is a checkout of github.com/facebookresearch/segment-anything (commit dca509f was used),
BIASTUNING one of github.com/JayParanjape/biastuning (commit c3e8d50). Its ``Prompt_Adapted_SAM.forward`` runs
with its own prompt encoder, mask decoder and affine layer around tests/data/sam_tiny.pth. The text tower is
drawn vectors; the image encoder is Segment Anything's own, since its rewrite leaves out windows and relative
places.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import torch
from _keep import stirred
from segment_anything_reference import OUT, SIDE, WIDTH, small_network

WORDS, LENGTH = ("core", "ring"), 24


def main() -> None:
    """Write the file."""
    sys.path[:0] = sys.argv[1:3]
    torch.manual_seed(0)
    vectors = torch.randn(len(WORDS), LENGTH)
    numbers = {word: i for i, word in enumerate(WORDS)}
    tower = SimpleNamespace(encode_text=lambda given: vectors[given])
    sys.modules["clip"] = SimpleNamespace(  # type: ignore[assignment]
        tokenize=lambda words: torch.tensor([numbers[word] for word in words])
    )
    from model import Prompt_Adapted_SAM
    from prompt_adapted_segment_anything.modeling import TwoWayTransformer
    from prompt_adapted_segment_anything.modeling.mask_decoder import MaskDecoder
    from prompt_adapted_segment_anything.modeling.prompt_encoder import PromptEncoder

    state = {k: v.float() for k, v in torch.load(OUT / "sam_tiny.pth").items()}
    whole = small_network()
    whole.load_state_dict(state)
    made = Prompt_Adapted_SAM.__new__(Prompt_Adapted_SAM)
    torch.nn.Module.__init__(made)
    made.device, made.img_size, made.use_fdn = "cpu", SIDE, False
    made.prompt_config, made.training_strategy = {"USE_TEXT_PROMPT": True}, "biastuning"
    made.clip_model = tower
    made.sam_encoder = whole.image_encoder
    grid = SIDE // 8
    made.prompt_encoder = PromptEncoder(WIDTH, (grid, grid), (SIDE, SIDE), mask_in_chans=8)
    made.mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=32, num_heads=8),
        transformer_dim=WIDTH,
        iou_head_depth=3,
        iou_head_hidden_dim=16,
    )
    for part in ("prompt_encoder", "mask_decoder"):
        own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        getattr(made, part).load_state_dict(own)
    affine = torch.nn.Sequential(torch.nn.Linear(LENGTH, WIDTH), torch.nn.ReLU(), torch.nn.BatchNorm1d(WIDTH))
    stirred(affine, 3, spread=0.3)
    made.Text_Embedding_Affine = affine
    made.eval()
    pictures = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        masks = [made(pictures, [word] * len(pictures)) for word in WORDS]
    kept = {f"affine.{n}": t.numpy() for n, t in affine.state_dict().items()}
    kept |= {"words": vectors.numpy(), "pictures": pictures.numpy()}
    np.savez_compressed(OUT / "adaptive_sam.npz", masks=torch.stack(masks, dim=1).numpy(), **kept)


if __name__ == "__main__":
    main()

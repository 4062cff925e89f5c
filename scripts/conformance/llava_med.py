"""Make tests/data/published/llava-med: what the original LLaVA-Med 1.5 answers with a small network.

    python scripts/conformance/llava_med.py CHECKOUT

CHECKOUT is a checkout of github.com/microsoft/LLaVA-Med (commit d406e3f was used, with transformers 4.36.2,
the version that it asks for). Two questions are asked, of one picture and of two; the second has more words.
The network is saved by its own ``save_pretrained``; config.json is what that writes, the place of the tower
replaced by the name that the published one gives.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from _keep import answers, folder, rounded, shapes

ORIGINAL = "microsoft/LLaVA-Med, commit d406e3f, with transformers 4.36.2"
ROW = "llava-med"
TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TOWER |= {"image_size": 336, "patch_size": 14, "projection_dim": 768}
TEXT = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
TEXT |= {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768}
TEXT |= {"rope_theta": 1_000_000.0, "sliding_window": None, "rms_norm_eps": 1e-5}
"""Of openai/clip-vit-large-patch14-336 and Mistral-7B-Instruct-v0.2, which the published one joins."""
SMALL_TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL_TOWER |= {"image_size": 28, "patch_size": 14, "projection_dim": 16}
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_TEXT |= {"num_key_value_heads": 2, "vocab_size": 19, "max_position_embeddings": 256}
SMALL_TEXT |= {"rope_theta": 1_000_000.0, "sliding_window": None, "rms_norm_eps": 1e-5}
PROJECTOR = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}
PROJECTOR |= {"mm_vision_select_feature": "patch", "use_mm_proj": True, "image_aspect_ratio": "pad"}
PROJECTOR |= {"mm_use_im_start_end": False, "mm_use_im_patch_token": False, "tokenizer_padding_side": "right"}
NAMED = "openai/clip-vit-large-patch14-336"


def made(tower: dict, text: dict, place: Path):
    """The original's network around a tower that transformers saved at that place."""
    from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**tower)).save_pretrained(str(place))
    side = tower["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side).save_pretrained(str(place))
    config = LlavaMistralConfig(
        **text, **PROJECTOR, mm_vision_tower=str(place), mm_hidden_size=tower["hidden_size"]
    )
    network = LlavaMistralForCausalLM(config)
    network.get_vision_tower().load_model()
    return network.eval()


def main() -> None:
    """Write all files."""
    sys.path.insert(0, sys.argv[1])
    torch.manual_seed(11)
    with tempfile.TemporaryDirectory() as place:
        network = made(SMALL_TOWER, SMALL_TEXT, Path(place) / "tower")
        with torch.no_grad():
            for value in network.parameters():
                value.add_(0.2 * torch.randn_like(value))
            rounded(network)
        one, two = torch.randn(1, 3, 28, 28), torch.randn(2, 3, 28, 28)
        asked = torch.tensor([[1, 5, -200, 7, 9, 4]]), torch.tensor([[1, -200, 8, 3, -200, 12, 2, 17, 6]])
        with torch.no_grad():
            found = {
                "one": network(asked[0], images=one).logits,
                "two": network(asked[1], images=two).logits,
                "words": network(torch.tensor([[1, 5, 7, 9, 4]])).logits,
            }
        network.save_pretrained(str(Path(place) / "whole"), safe_serialization=True)
        config = json.loads((Path(place) / "whole" / "config.json").read_text())
        held = (Path(place) / "whole" / "model.safetensors").read_bytes()
    config["mm_vision_tower"] = NAMED
    given = {"asked_one": asked[0], "seen_one": one, "asked_two": asked[1], "seen_two": two}
    given |= {"asked_words": torch.tensor([[1, 5, 7, 9, 4]])}
    settings = {"config": config, "tower": SMALL_TOWER}
    answers(ROW, given, found, original=ORIGINAL, settings=settings)
    (folder(ROW) / "small.safetensors").write_bytes(held)

    from llava.model.language_model.llava_mistral import LlavaMistralConfig, LlavaMistralForCausalLM
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with tempfile.TemporaryDirectory() as place, torch.device("meta"):
        CLIPVisionConfig(**TOWER).save_pretrained(place)
        whole = LlavaMistralForCausalLM(
            LlavaMistralConfig(**TEXT, **PROJECTOR, mm_vision_tower=place, mm_hidden_size=1024)
        )
        whole.get_vision_tower().vision_tower = CLIPVisionModel(CLIPVisionConfig(**TOWER))
        said = f"{ORIGINAL}, built at the sizes of {NAMED} and of Mistral-7B-Instruct-v0.2"
        shapes(ROW, whole.state_dict(), listed_from=said)


if __name__ == "__main__":
    main()

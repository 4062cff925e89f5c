"""Segment Anything's files, loaded and asked: equal to the original code on a small network it saved itself.

The references were made by ``scripts/conformance/segment_anything_reference.py`` with the original code.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from made_outlines import outlined
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _sam_file, resolve, sam
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment

DATA = Path(__file__).parent / "data"
TINY = DATA / "sam_tiny.pth"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def known():
    with np.load(DATA / "sam_reference.npz") as held:
        return dict(held)


@pytest.fixture(scope="module")
def tiny():
    return sam.load(TINY)


def colours(known) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(known["picture"], -1, 0))


def test_a_file_is_prepared_and_embedded_as_by_the_original(tiny, known):
    assert (tiny.preparation, tiny.side, tiny.low) == ("sam", 64, 32)
    assert np.allclose(sam.prepared(tiny, colours(known)), known["sam_input"], **CLOSE)
    assert np.allclose(sam.embed(tiny, colours(known)).features[0], known["sam_features"], **CLOSE)


def test_the_image_encoder_gives_what_segment_anything_embeds(tiny, known, tmp_path):
    encoder = resolve(f"sam:{TINY}", cache=tmp_path)
    assert encoder.size == (64,)
    assert encoder.card.stride == 8
    network = encoder.network()
    seen = torch.from_numpy(known["sam_input"][None])
    with torch.inference_mode():
        (grid,) = network.read_level(seen, "tokens")
        assert np.allclose(grid[0], known["sam_features"], **CLOSE)
        *blocks, last = network.read_level(seen, "maps")
        assert torch.equal(last, grid)
        assert len(blocks) >= 2
        assert torch.allclose(network(seen), grid.mean(dim=(2, 3)))
        smaller = encoder.with_size(32)
        (half,) = smaller.network().read_level(seen[..., :32, :32], "tokens")
    assert half.shape[2:] == (4, 4)
    assert smaller.key != encoder.key
    twin = resolve(f"sam:{TINY}-random", cache=tmp_path)
    assert twin.card.level == "control"
    assert not torch.equal(twin.network()(seen), network(seen))
    with pytest.raises(UserError, match="there is no such file"):
        resolve(f"sam:{tmp_path / 'absent.pth'}")


@pytest.mark.parametrize("name", ["adapter_decoder", "bitfit_decoder", "lora_decoder"])
def test_the_image_encoder_is_adapted_without_prompts(name, tmp_path):
    cases = outlined(4)
    task = Segment.of(cases)
    encoder = resolve(f"sam:{TINY}", cache=tmp_path)
    entry = find("method", name)
    made = entry.thing(encoder, cases, task, least_steps=2, most_steps=2)
    changed = [n for n in made.arrays if not n.startswith("decoder.")]
    assert changed
    if name == "bitfit_decoder":
        assert all(n.endswith("bias") for n in changed)
    arrays, settings = made.state()
    again = entry.facts["restore"](encoder, arrays, settings)
    for told, kept in zip(again.predict(cases[:2]), made.predict(cases[:2]), strict=True):
        np.testing.assert_array_equal(told.array(), kept.array())


@pytest.mark.parametrize("name", ["box", "points", "point", "both", "again"])
def test_prompts_are_answered_as_by_the_original(tiny, known, name):
    seen = sam.embed(tiny, colours(known))
    inside = known["inside"].astype(bool)
    prompt = {
        "box": sam.Prompt(box=known["box"]),
        "points": sam.Prompt(points=known["points"], positive=inside),
        "point": sam.Prompt(points=known["points"][:1], positive=inside[:1]),
        "both": sam.Prompt(known["box"], known["points"], inside),
        "again": sam.Prompt(box=known["box"], logits=known["box_low"]),
    }[name]
    [answer] = sam.outline(tiny, seen, [prompt])
    assert np.allclose(answer.low, known[f"{name}_low"], **CLOSE)
    assert answer.score == pytest.approx(float(known[f"{name}_score"]), abs=1e-5)
    whole = sam.on_picture(tiny, seen, answer.low)
    assert np.allclose(whole, known[f"{name}_full"], **CLOSE)
    assert np.array_equal(answer.mask, whole > 0)
    assert 0 < answer.mask.mean() < 1


def test_medsam_prepares_and_answers_as_its_own_code(known, tmp_path):
    shutil.copy(TINY, tmp_path / "medsam_tiny.pth")
    model = sam.load(tmp_path / "medsam_tiny.pth")
    assert model.preparation == "medsam"
    assert np.array_equal(sam.prepared(model, colours(known)), known["medsam_input"])
    seen = sam.embed(model, colours(known))
    [answer] = sam.outline(model, seen, [sam.Prompt(box=known["box"])])
    assert np.allclose(answer.low, known["medsam_low"], **CLOSE)
    assert np.allclose(sam.on_picture(model, seen, answer.low) + 0.5, known["medsam_full"], **CLOSE)


def test_many_prompts_of_several_forms_answer_as_each_alone(tiny, known):
    seen = sam.embed(tiny, colours(known))
    boxes = [[4, 3, 30, 20], [20, 6, 61, 33], [40, 10, 80, 44]]
    prompts = [sam.Prompt(box=np.array(b, float)) for b in boxes * 7]
    prompts[5] = sam.Prompt(points=np.array([[30.0, 20.0]]), positive=np.array([True]))
    together = {a.place: a for a in sam.outline(tiny, seen, prompts)}
    assert sorted(together) == list(range(21))
    for place in (0, 5, 20):
        [alone] = sam.outline(tiny, seen, [prompts[place]])
        assert np.allclose(together[place].low, alone.low, atol=1e-5)
    with pytest.raises(ValueError, match="prompt 1 points at nothing"):
        list(sam.outline(tiny, seen, [prompts[0], sam.Prompt()]))


def test_a_mask_points_too(tiny, known):
    seen = sam.embed(tiny, colours(known))
    mask = np.zeros(seen.size, bool)
    mask[6:33, 20:61] = True
    logits = sam.as_logits(tiny, seen, mask)
    assert logits.shape == (32, 32)
    # the picture takes 35 of the 64 rows of the network's square, and as many parts of its small mask
    back = sam.on_picture(tiny, seen, logits) > 0
    overlap = 2 * (back & mask).sum() / (back.sum() + mask.sum())
    assert overlap > 0.9
    [plain] = sam.outline(tiny, seen, [sam.Prompt(box=known["box"])])
    [guided] = sam.outline(tiny, seen, [sam.Prompt(box=known["box"], logits=logits)])
    [masked] = sam.outline(tiny, seen, [sam.Prompt(logits=logits)])
    assert not np.allclose(plain.low, guided.low, atol=1e-3)
    assert masked.mask.shape == seen.size


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_published_sizes_load_strictly(name):
    from transformers import SamModel

    shapes = json.loads(gzip.decompress((DATA / "sam_shapes.json.gz").read_bytes()))[name]
    state = {k: torch.empty(v, device="meta") for k, v in shapes.items()}
    config = _sam_file.configuration(state, name)
    with torch.device("meta"):
        network = SamModel(config)
    network.load_state_dict(_sam_file.renamed(state), strict=True, assign=True)
    told = config.vision_config
    depth = {"vit_b": 12, "vit_l": 24, "vit_h": 32}[name]
    assert (told.num_hidden_layers, told.image_size, told.window_size) == (depth, 1024, 14)
    assert told.num_attention_heads == {"vit_b": 12, "vit_l": 16, "vit_h": 16}[name]
    assert told.global_attn_indexes == [depth // 4 * (i + 1) - 1 for i in range(4)]


def test_wrappings_of_a_training_run_are_taken_off(tmp_path, tiny, known):
    state = torch.load(TINY, weights_only=True)
    wrapped = {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "medsam_model_best.pth")
    again = sam.load(tmp_path / "medsam_model_best.pth", preparation="sam")
    assert torch.equal(
        again.network.state_dict()["mask_decoder.iou_token.weight"],
        tiny.network.state_dict()["mask_decoder.iou_token.weight"],
    )


def test_files_that_are_none_are_told_in_a_sentence(tmp_path):
    import pickle

    state = torch.load(TINY, weights_only=True)
    torch.save({k: v for k, v in state.items() if "neck.2" not in k}, tmp_path / "short.pth")
    with pytest.raises(UnreadableFile, match=r"short\.pth: .*neck\.conv2\.weight is missing"):
        sam.load(tmp_path / "short.pth")
    torch.save({"backbone.conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(UnreadableFile, match="not of Segment Anything"):
        sam.load(tmp_path / "other.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(UnreadableFile, match="never run"):
        sam.load(tmp_path / "code.pth")
    with pytest.raises(UnreadableFile, match="does not exist"):
        sam.load(tmp_path / "absent.pth")
    with pytest.raises(UnreadableFile, match=r"no config\.json"):
        sam.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UnreadableFile, match="type 'vit', which takes no prompts"):
        sam.load(tmp_path)
    with pytest.raises(UserError, match="no preparation is called 'best'"):
        sam.load(TINY, preparation="best")


def test_a_folder_of_transformers_equals_its_own_code(tmp_path, tiny, known):
    """The same weights saved by the library: loaded again, and asked through its own processor."""
    from transformers import SamImageProcessor, SamModel, SamProcessor

    tiny.network.save_pretrained(str(tmp_path / "sam"))
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    processor = SamProcessor(
        SamImageProcessor(**sizes, mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16})
    )
    processor.save_pretrained(str(tmp_path / "sam"))
    model = sam.load(tmp_path / "sam")
    seen = sam.embed(model, colours(known))
    [answer] = sam.outline(model, seen, [sam.Prompt(box=known["box"])])
    theirs = SamModel.from_pretrained(str(tmp_path / "sam"))
    given = processor(images=known["picture"], input_boxes=[[known["box"].tolist()]], return_tensors="pt")
    with torch.no_grad():
        said = theirs(**{k: v for k, v in given.items() if "sizes" not in k}, multimask_output=False)
    # its processor resizes by torch, the original and we by Pillow: grey levels may differ by one
    assert np.abs(sam.prepared(model, colours(known)) - given["pixel_values"][0].numpy()).max() < 0.02
    assert np.allclose(answer.low, said.pred_masks[0, 0, 0].numpy(), atol=0.05)
    (tmp_path / "sam" / "model.safetensors").unlink()
    with pytest.raises(UnreadableFile, match=r"no \.safetensors"):
        sam.load(tmp_path / "sam")


def tiny_sam2(folder: Path) -> Path:
    """A small SAM 2 saved by transformers itself, every weight drawn."""
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    prompt = {"hidden_size": 32, "image_size": 64, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    torch.manual_seed(3)
    network = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
    network.save_pretrained(str(folder))
    return folder


def test_sam2_equals_its_own_code(tmp_path, known):
    from transformers import Sam2Model

    model = sam.load(tiny_sam2(tmp_path / "sam2"))
    assert (model.preparation, model.side, model.low) == ("sam2", 64, 16)
    seen = sam.embed(model, colours(known))
    height, width = seen.size
    box = known["box"] / [width, height, width, height] * 64
    given = torch.from_numpy(sam.prepared(model, colours(known))[None])
    theirs = Sam2Model.from_pretrained(str(tmp_path / "sam2"))
    with torch.no_grad():
        said = theirs(given, input_boxes=torch.tensor(box[None, None]).float(), multimask_output=False)
    [answer] = sam.outline(model, seen, [sam.Prompt(box=known["box"])])
    assert np.allclose(answer.low, said.pred_masks[0, 0, 0].numpy(), **CLOSE)
    for prompt in (
        sam.Prompt(points=known["points"][:1], positive=np.array([True])),
        sam.Prompt(known["box"], logits=sam.as_logits(model, seen, answer.mask)),
        sam.Prompt(logits=sam.as_logits(model, seen, answer.mask)),
    ):
        [other] = sam.outline(model, seen, [prompt])
        assert other.mask.shape == seen.size
        assert np.isfinite(other.low).all()
        assert not np.allclose(other.low, answer.low, atol=1e-4)


def test_the_rows_give_what_their_files_hold(tmp_path):
    entry = find("model", "sam-vit-b")
    assert (entry.thing(TINY).preparation, find("model", "medsam").thing(TINY).preparation) == (
        "sam",
        "medsam",
    )
    assert find("model", "sam2.1-hiera-tiny").thing(tiny_sam2(tmp_path / "sam2")).preparation == "sam2"
    with pytest.raises(UserError, match=r"sam-vit-h needs its weights \(2,564 MB\).*sam_vit_h_4b8939\.pth"):
        find("model", "sam-vit-h").thing(cache=tmp_path)
    with pytest.raises(UserError, match="sam-vit-b serves prompt, and gives no features"):
        resolve("sam-vit-b")

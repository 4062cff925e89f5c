"""AdaptiveSAM: Segment Anything told by words what to outline, tuned in its biases.

Paranjape et al. 2023 (arXiv:2308.03726): a class's name becomes a vector by CLIP's text tower, an affine
layer makes a prompt of it, and the decoder outlines that class. As in its code biases, norms and places learn
in the encoder, prompt encoder and decoder learn whole, nothing is added for a mask that was not given, and
the decoder's blocks know no places, since words have none. Here all classes of a picture are asked for at
once, and pixels that no class claims are background. Windows and relative places of the encoder stay, which
its code leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import patches, planes
from medspectrum.engine.descend import Order, Rate, descend
from medspectrum.engine.overlap_loss import overlap_loss
from medspectrum.engine.text_tower import text_features
from medspectrum.engine.train import Inputs
from medspectrum.errors import UserError
from medspectrum.methods import _dense, _outlined, decoder
from medspectrum.registry import method

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

EPOCHS, LEAST_STEPS, MOST_STEPS = 20.0, 120, 500
_TUNED = ("norm", "pos_embed")  # of the encoder, beside its biases


def by_words(network: Any, words: np.ndarray) -> Any:
    """The network with its affine layer: pictures (n, C, side, side) -> scores (n, 1 + words, h, w), 0 first.

    words: (k, d), of each class's name. Freezes what does not learn.
    """
    import torch
    from torch import nn

    width = network.config.prompt_encoder_config.hidden_size
    for name, parameter in network.named_parameters():
        own = name.startswith("vision_encoder.")
        few = name.endswith("bias") or any(part in name for part in _TUNED)
        parameter.requires_grad_(few if own else not name.startswith("shared_image_embedding"))

    def placeless(_block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return given, named | {"query_point_embedding": torch.zeros_like(named["query_point_embedding"])}

    for block in network.mask_decoder.transformer.layers:
        block.register_forward_pre_hook(placeless, with_kwargs=True)

    class Adaptive(nn.Module):
        words: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.affine = nn.Sequential(nn.Linear(words.shape[1], width), nn.ReLU(), nn.BatchNorm1d(width))
            self.register_buffer("words", torch.from_numpy(words))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            scores = self.masks(batch)
            return torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1)

        def masks(self, batch: torch.Tensor) -> torch.Tensor:
            """(n, words, h, w) logits of each class."""
            seen = self.network.vision_encoder(batch)[0]
            prompts = self.affine(self.words.repeat(len(batch), 1)).reshape(len(batch), -1, 1, width)
            masks, _ = self.network.mask_decoder(
                image_embeddings=seen,
                image_positional_embeddings=torch.zeros_like(seen),
                sparse_prompt_embeddings=prompts,
                dense_prompt_embeddings=torch.zeros_like(seen),
                multimask_output=False,
            )
            return masks[:, :, 0]

    return Adaptive().eval()


def _pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
    chosen = {"epochs": EPOCHS, "least_steps": LEAST_STEPS, "most_steps": MOST_STEPS, **settings}
    return decoder.BATCH * decoder.number_of_steps(
        labels, chosen["epochs"], chosen["least_steps"], chosen["most_steps"]
    )


def _restore(
    model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _outlined.OutlinePredictor:
    import torch

    module = by_words(_whole(model), np.array(arrays["words"]))
    mine = module.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            if name not in mine or tuple(mine[name].shape) != array.shape:
                raise UserError(
                    f"the saved part {name} {array.shape} does not fit {model.card.name}; "
                    "give the model this predictor was made with"
                )
            mine[name].copy_(torch.from_numpy(np.array(array)))
    rest = {k: v for k, v in settings.items() if k != "classes"}
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return _outlined.OutlinePredictor(
        model, tuple(settings["classes"]), trained, module.eval(), dict(arrays), rest
    )


def _whole(model: Encoder) -> Any:
    whole = getattr(model, "whole", None)
    if whole is None:
        raise UserError(f"{model.card.name} has no decoder of prompts, as adaptive_sam needs; give sam:PATH")
    return whole(model.size)


def fake(folder: Path) -> dict[str, Any]:
    """Settings with a small text tower of drawn weights, to try the method with."""
    import json

    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    letters = [chr(c) for c in range(97, 123)]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16})
    )
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends: dict[str, Any] = {"pad_token_id": 53, "bos_token_id": 52, "eos_token_id": 53}
    config = CLIPTextConfig(
        **small, **ends, vocab_size=len(vocabulary), max_position_embeddings=16, projection_dim=24
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModelWithProjection(config).save_pretrained(str(folder))
    return {"text_tower": str(folder), "least_steps": 3, "most_steps": 3}


@method(
    "adaptive_sam",
    task="segment",
    trains="part",
    cost=3,
    restore=_restore,
    pictures_seen=_pictures_seen,
    needs=("text_tower",),
    named_only=True,
    fake=fake,
)
def adaptive_sam(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    text_tower: str,
    seed: int = 0,
    epochs: float = EPOCHS,
    least_steps: int = LEAST_STEPS,
    most_steps: int = MOST_STEPS,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    augment: bool = True,
) -> _outlined.OutlinePredictor:
    """Tune Segment Anything's biases and decoder, prompted by the classes' names (AdaptiveSAM).

    text_tower: folder of a CLIP of the transformers library, whose text tower reads the names. epochs: passes
    over the labelled planes, within ``least_steps`` and ``most_steps`` steps. learning_rate: peak. augment:
    turn, zoom, mirror and shade the planes. Raises UserError for cases of several images.
    """
    import torch

    given = _dense.labelled_planes(cases, task)
    if len(given[0].images) > 1:
        raise UserError(f"adaptive_sam sees one image of a case; these have {len(given[0].images)}")
    side = model.size[-1]
    network = _whole(model)
    words = text_features(text_tower, [name.lower() for name in task.classes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = by_words(network, words)
    inputs = Inputs(lambda i: _dense.pictures(model, [given[i].images])[0].numpy(), len(given))
    patch = network.config.vision_config.patch_size
    truths = [planes.onto_square(one.labels, side, 4 * side // patch).astype(np.int16) for one in given]
    order = Order(np.arange(len(given)), seed)
    turning = _outlined.turning_of(cases[0])

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        picked = order.batch(step, decoder.BATCH)
        batch = inputs.take(picked)
        answer = torch.from_numpy(np.stack([truths[i] for i in picked]).astype(np.int64))[:, None]
        if augment:
            batch, answer = _outlined.moved(batch, answer, turning, generator)
            batch = patches.shade(batch, generator)
        return overlap_loss(module(batch), answer[:, 0])

    learned = [p for p in module.parameters() if p.requires_grad]
    steps = decoder.number_of_steps(len(given), epochs, least_steps, most_steps)
    fitted = descend(
        module, step_loss, rates=[Rate(learned, learning_rate, weight_decay)], steps=steps, seed=seed
    )
    _settle(module)
    settings = {"image_channels": len(model.card.mean), "steps": fitted.steps, "seed": seed}
    kept = {n for n, p in module.named_parameters() if p.requires_grad}
    kept |= {n for n, _ in module.named_buffers() if n == "words" or n.startswith("affine.")}
    arrays = {n: np.array(t.detach().numpy()) for n, t in module.state_dict().items() if n in kept}
    trained = sum(p.numel() for p in learned)
    return _outlined.OutlinePredictor(model, tuple(task.classes), trained, module.eval(), arrays, settings)


def _settle(module: Any) -> None:
    """The affine layer's statistics as they are of its words now, not as they were on the way."""
    import torch

    norm = module.affine[2]
    norm.reset_running_stats()
    norm.momentum = None
    norm.train()
    with torch.no_grad():
        module.affine(module.words.repeat(decoder.BATCH, 1))
    norm.eval()

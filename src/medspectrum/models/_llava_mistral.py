"""LLaVA-Med 1.5's own layout, read onto transformers' Llava: names, settings, words and pictures.

Li et al. 2023 (arXiv:2306.00890): patches of CLIP's last layer but one go through two linear maps with GELU
between and stand where the words of a picture would; a Mistral reads on. In a folder of its makers lie
config.json (``llava_mistral``), .safetensors with ``model.layers``, ``model.mm_projector`` and, where it was
trained too, ``model.vision_tower``; CLIP's own settings lie with the tower that config.json names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medspectrum.engine import weights_place
from medspectrum.engine.weights_file import tensors_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models._sentencepiece import tokenizer
from medspectrum.models._weights import differing

KIND = "llava_mistral"
NAMED = "openai/clip-vit-large-patch14-336"
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""Settings of the tower that the published model names, so that its folder need not be here."""
CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "sliding_window": None,
    "mm_projector_type": "mlp2x_gelu",
}
"""Sizes of the published model: those of Mistral-7B-Instruct-v0.2."""
PICTURE = 0
"""The word that stands for a patch: the unknown one, which a question may therefore not hold."""
ASKED_PICTURE = -200
"""What stands for a whole picture among the makers' own words."""
_TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    *("rope_scaling", "sliding_window", "attention_dropout", "tie_word_embeddings", "initializer_range"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_LAYERS: dict[str, Any] = {"patch": "default", "cls_patch": "full"}
_PARTS = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.", "model.language_model."),
)
_CLIP = "vision_model."
_COUNTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Tensors that are computed, which files of older libraries hold as well."""


def settings(config: Mapping[str, Any], tower: Mapping[str, Any]) -> Any:
    """Transformers' LlavaConfig for what the makers' config.json says. tower: CLIP's settings.

    Raises ValueError, in words for a sentence, where another network is meant.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig

    if (kind := config.get("mm_projector_type", "linear")) != "mlp2x_gelu":
        raise ValueError(f"its projector is {kind!r}, not mlp2x_gelu")
    if (shown := config.get("mm_vision_select_feature", "patch")) not in _LAYERS:
        raise ValueError(f"it takes {shown!r} of the tower, neither patch nor cls_patch")
    if config.get("mm_use_im_start_end"):
        raise ValueError("it puts words of its own around a picture (mm_use_im_start_end)")
    text = MistralConfig(**{k: config[k] for k in _TEXT if k in config})
    seen: Any = CLIPVisionConfig(**tower)
    patches = (seen.image_size // seen.patch_size) ** 2
    return LlavaConfig(
        vision_config=seen,
        text_config=text,
        image_token_index=PICTURE,
        image_seq_length=patches + (shown == "cls_patch"),
        projector_hidden_act="gelu",
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=_LAYERS[shown],
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def kind_of(folder: Path) -> str:
    """The model_type of the folder's config.json; '' where it is not said."""
    try:
        told = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    return str(told.get("model_type", "")) if isinstance(told, dict) else ""


def build(*, config: Mapping[str, Any], tower: Mapping[str, Any]) -> Any:
    """The network with random weights, eval mode."""
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(settings(config, tower)).eval()


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """The makers' names -> transformers'; tensors that are computed are left out."""
    made = {}
    for name, tensor in state.items():
        if name.endswith(_COUNTED):
            continue
        old, new = next((p for p in _PARTS if name.startswith(p[0])), ("", ""))
        made[new + name.removeprefix(old)] = tensor
    return made


def shards(folder: Path) -> list[Path]:
    """The folder's .safetensors, those that its index names where it has one. Raises UnreadableFile."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = json.loads(index.read_text())["weight_map"].values()
            found = sorted({folder / Path(str(n)).name for n in named})
        except (ValueError, KeyError, AttributeError) as problem:
            raise UnreadableFile(index, "is no index of weights; copy the whole model again") from problem
        lacking = [f.name for f in found if not f.is_file()]
        if lacking:
            raise UnreadableFile(folder, f"lacks {', '.join(lacking[:3])}; copy the whole model again")
        return found
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise UnreadableFile(
            folder, "holds no .safetensors, the only weights that are read from a folder; copy them too"
        )
    return found


def files(path: Path) -> list[Path]:
    """The files that hold the weights, of a folder or of one file. Raises UnreadableFile."""
    return shards(path) if path.is_dir() else [path]


def read(path: Path) -> dict[str, Any]:
    """Tensors by the makers' names, of a folder or of one file. Raises UnreadableFile."""
    return {name: tensor for file in files(path) for name, tensor in tensors_of(file).items()}


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Logits for each ``asked_NAME`` (1, words) with pictures ``seen_NAME`` (n, 3, side, side)."""
    import torch

    found = {}
    for name in (k.removeprefix("asked_") for k in given if k.startswith("asked_")):
        words: list[int] = []
        for word in given[f"asked_{name}"][0].tolist():
            words += [PICTURE] * made.config.image_seq_length if word == ASKED_PICTURE else [word]
        pictures = given.get(f"seen_{name}")
        found[name] = made(input_ids=torch.tensor([words]), pixel_values=pictures).logits
    return found


@dataclass(frozen=True)
class Reader:
    """A question and pictures as the makers put them to the network.

    tokenizer: words <-> numbers. pictures: CLIP's preparation. patches: words per picture. padded: whether
    pictures are made square by a border of the mean colour first.
    """

    tokenizer: Any
    pictures: Any
    patches: int
    padded: bool

    def __call__(self, question: str, shown: Sequence[Any]) -> dict[str, Any]:
        """input_ids, attention_mask and pixel_values. shown: pictures of Pillow, RGB.

        What stands before and after a picture is turned into numbers apart, as the makers do. Raises
        UserError where the question holds the unknown word.
        """
        import torch

        between = [""] * (len(shown) - 1) if shown else []
        parts = ["[INST] ", *between, f"\n{question} [/INST]"] if shown else [f"[INST] {question} [/INST]"]
        words: list[int] = []
        for place, part in enumerate(parts):
            told = list(self.tokenizer(part).input_ids)
            if PICTURE in told:
                raise UserError("the question holds a word that the network does not know; put it otherwise")
            begins = bool(told) and told[0] == self.tokenizer.bos_token_id
            words += ([PICTURE] * self.patches if place else []) + (told[1:] if place and begins else told)
        made = {
            "input_ids": torch.tensor([words]),
            "attention_mask": torch.ones(1, len(words), dtype=torch.long),
        }
        if shown:
            whole = [self._square(s) for s in shown] if self.padded else list(shown)
            made["pixel_values"] = self.pictures(whole, return_tensors="pt")["pixel_values"]
        return made

    def decode(self, said: Any, **how: Any) -> str:
        """Numbers -> words."""
        return self.tokenizer.decode(said, **how)

    def _square(self, shown: Any) -> Any:
        from PIL import Image as Pillow

        side = max(shown.size)
        whole = Pillow.new("RGB", (side, side), tuple(int(255 * m) for m in self.pictures.image_mean))
        whole.paste(shown, ((side - shown.width) // 2, (side - shown.height) // 2))
        return whole


def load(folder: Path, *, dtype: str = "float32") -> tuple[Any, Reader]:
    """The network and its reader, of a folder as its makers published it. Raises UnreadableFile."""
    import torch
    from transformers import LlavaForConditionalGeneration

    config = json.loads((folder / "config.json").read_text())
    place, tower = _tower(folder, str(config.get("mm_vision_tower", "")))
    try:
        told = settings(config, tower)
    except (ValueError, TypeError, KeyError) as problem:
        raise UnreadableFile(
            folder, f"is no LLaVA-Med 1.5: {problem}; give the folder as published"
        ) from problem
    state = renamed(read(folder))
    if not any(k.startswith("model.vision_tower.") for k in state):
        state |= _tower_weights(folder, place)
    with torch.device("meta"):
        wanted = LlavaForConditionalGeneration(told).state_dict()
    differ = differing(
        {k: tuple(v.shape) for k, v in wanted.items()}, {k: tuple(v.shape) for k, v in state.items()}
    )
    if differ:
        raise UnreadableFile(
            folder, f"its weights differ: {'; '.join(differ[:3])}; copy the whole model again"
        )
    network: Any = LlavaForConditionalGeneration.from_pretrained(
        None, config=told, state_dict=state, dtype=getattr(torch, dtype)
    )
    reader = Reader(
        tokenizer=tokenizer(folder),
        pictures=_pictures(place, told.vision_config.image_size),
        patches=told.image_seq_length,
        padded=config.get("image_aspect_ratio") == "pad",
    )
    return network.eval(), reader


def _tower(folder: Path, name: str) -> tuple[Path | None, dict[str, Any]]:
    """Where the named tower lies, None where it is not here, and its settings. Raises UnreadableFile."""
    from transformers import CLIPVisionConfig

    places = [folder / Path(name).name, folder / name] if name else []
    if name.count("/") == 1:
        cached = weights_place.in_hub_cache(f"{weights_place.HUB}{name}")
        places += [cached] if cached else []
    for place in places:
        if (place / "config.json").is_file() and place != folder:
            return place, CLIPVisionConfig.from_pretrained(str(place), local_files_only=True).to_dict()
    if name == NAMED:
        return None, dict(TOWER)
    raise UnreadableFile(
        folder, f"names the tower {name!r}, which is not here; copy its folder to {folder / Path(name).name}"
    )


def _tower_weights(folder: Path, place: Path | None) -> dict[str, Any]:
    if place is None or not list(place.glob("*.safetensors")):
        raise UnreadableFile(
            folder,
            f"holds no weights of the tower; copy {NAMED} (config.json, model.safetensors) to "
            f"{folder / Path(NAMED).name}",
        )
    state = {k.removeprefix(_CLIP): v for k, v in read(place).items() if k.startswith(_CLIP)}
    return {f"model.vision_tower.{k}": v for k, v in state.items() if not k.endswith("position_ids")}


def _pictures(place: Path | None, side: int) -> Any:
    from transformers import CLIPImageProcessor

    if place is not None and (place / "preprocessor_config.json").is_file():
        return CLIPImageProcessor.from_pretrained(str(place), local_files_only=True)
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

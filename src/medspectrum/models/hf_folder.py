"""Any vision model of the transformers library, from a local folder or the local cache of hub files.

Code that comes with a model is never run, and weights are taken from safetensors only.
"""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.encoder import Encoder
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.registry import model
from medspectrum.store import cache_folder, digest, file_digest

CARD = Card(
    name="hf:NAME-OR-FOLDER",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="that of the named weights",
    commercial_use=False,
    source="a transformers vision model in a local folder (config.json, model.safetensors)",
    status="loads",
    parameters=0,
    width=0,
    input_size=(224, 224),
    citation="Wolf et al. 2020, arXiv:1910.03771",
)


def _folder(name: str) -> Path | None:
    """The folder itself, or where the local cache of hub files keeps that name; None where neither is."""
    given = Path(name).expanduser()
    if given.is_dir():
        return given
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _lacking(name: str) -> str:
    folder = _folder(name)
    if folder is None:
        return (
            f"hf:{name} is neither a folder nor in the local cache; where there is a network run "
            f"`hf download {name} --local-dir FOLDER`, copy FOLDER here and name it hf:FOLDER"
        )
    if not _weights(folder):
        return f"{folder}: holds no .safetensors, the only weights that are read; convert them first"
    return ""


def _configuration(folder: Path) -> Any:
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        whole = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        reason = str(problem).splitlines()[0]
        raise UnreadableFile(
            folder / "config.json", f"no configuration of transformers: {reason}"
        ) from problem
    return whole


def _network(config: Any, folder: Path | None, side: int) -> Any:
    """The transformers model inside a module that answers ``read_level``; folder None: random weights."""
    import torch
    from transformers import AutoModel

    missing: list[str] = []
    if folder is None:
        inner: Any = AutoModel.from_config(config)
    else:
        inner, report = AutoModel.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        missing = sorted(report["missing_keys"])
        wrong = [k for k in missing if "pooler" not in k]
        if wrong:
            raise UnreadableFile(folder, f"weights lack {', '.join(wrong[:3])}; copy the whole model again")
    inner = getattr(inner, "vision_model", inner)
    vision = getattr(config, "vision_config", config)
    can_resize = "interpolate_pos_encoding" in inspect.signature(inner.forward).parameters
    native = getattr(vision, "image_size", side)
    extra = {"interpolate_pos_encoding": True} if can_resize and native != side else {}
    patch = getattr(vision, "patch_size", None)
    use_pooler = not any("pooler" in k for k in missing)

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, batch: Any) -> Any:
            return self.read_level(batch, "pooled")[0]

        def _grid(self, states: Any) -> Any:
            if states.ndim == 4:
                return states
            count = (side // patch) ** 2 if isinstance(patch, int) else states.shape[1]
            edge = round(count**0.5)
            kept = states[:, states.shape[1] - count :]
            return kept.transpose(1, 2).reshape(states.shape[0], -1, edge, edge)

        def read_level(self, batch: Any, level: str) -> tuple[Any, ...]:
            out = self.inner(pixel_values=batch, output_hidden_states=level == "maps", **extra)
            if level == "maps":
                states = out.hidden_states
                if states[-1].ndim == 4:
                    return tuple(states[1:])
                depth = len(states) - 1
                return tuple(self._grid(states[round(depth * (i + 1) / 4)]) for i in range(4))
            final = out.last_hidden_state
            if level == "tokens":
                return (self._grid(final),)
            pooled = getattr(out, "pooler_output", None) if use_pooler else None
            if pooled is None:
                pooled = final.mean(dim=(2, 3)) if final.ndim == 4 else final[:, 0]
            return (pooled.flatten(1),)

    return Vision().eval()


def build(size: tuple[int, ...], cache: Path, seed: int | None, *, name: str) -> Any:  # noqa: ARG001
    """The transformers model, from its folder or at random."""
    import torch

    folder = _folder(name)
    if folder is None:
        raise UserError(_lacking(name))
    config = _configuration(folder)
    if seed is None:
        return _network(config, folder, size[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _network(config, None, size[0])


def _preprocessing(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel from ``preprocessor_config.json``; ImageNet's where it is absent."""
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    if said.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return (
        tuple(said.get("image_mean") or CARD.mean),
        tuple(said.get("image_std") or CARD.std),
    )


def _licence(folder: Path) -> str:
    """The licence said at the head of the folder's README.md, if it has one."""
    path = folder / "README.md"
    lines = path.read_text(errors="replace").splitlines()[:60] if path.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("license:")]
    return found[0] if found else "unknown"


def tiny(cache: Path | None = None) -> Encoder:
    """A small transformer saved by transformers itself: the real path of loading."""
    import torch
    from transformers import ViTConfig, ViTModel

    folder = cache_folder(cache) / "tiny" / "hf-vit"
    if not (folder / "model.safetensors").exists():
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            patch_size=16,
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            ViTModel(config).save_pretrained(str(folder))
    return hf_folder(str(folder), cache=cache)


@model("hf:NAME-OR-FOLDER", card=CARD, prefix="hf:", tiny=tiny)
def hf_folder(name: str, *, cache: Path | None = None, random: bool = False) -> Encoder:
    """Any transformers vision model that is on this machine."""
    from dataclasses import replace

    import torch

    folder = _folder(name)
    if folder is None or (not random and _lacking(name)):
        raise UserError(_lacking(name))
    config = _configuration(folder)
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", None) or 224
    side = int(side[0] if isinstance(side, list | tuple) else side)
    mean, std = _preprocessing(folder)
    with torch.device("meta"):
        network = _network(config, None, side)
    sizes = getattr(vision, "hidden_sizes", None)
    licence = _licence(folder)
    patch = getattr(vision, "patch_size", None)
    card = replace(
        CARD,
        name=f"hf:{name}",
        licence=licence,
        commercial_use=licence.lower() in ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"),
        source=str(folder),
        parameters=sum(p.numel() for p in network.parameters()),
        width=int(sizes[-1] if sizes else vision.hidden_size),
        input_size=(side, side),
        mean=mean,
        std=std,
        stride=patch if isinstance(patch, int) and not sizes else 32,
    )
    content = [file_digest(p) for p in _weights(folder)]
    return Encoder(
        card=card,
        build=partial(build, name=name),
        identity=digest("hf", config.to_json_string(), [] if random else content),
        size=(side,),
        cache=cache,
        lacking=partial(_lacking, name),
    )

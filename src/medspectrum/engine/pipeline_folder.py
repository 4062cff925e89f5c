"""A published latent diffusion model, as a folder in diffusers' layout, told by text what to draw.

The layout of Stable Diffusion (Rombach et al., 2022), in which RoentGen (Chambon et al., 2022) comes:
``model_index.json`` beside ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler``. Nothing is
fetched, and no code that lies in the folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medspectrum.errors import UserError

KIND = "StableDiffusionPipeline"
AT_ONCE = 4


def check(folder: Path) -> None:
    """Raise UserError where the folder is no such model."""
    place = Path(folder) / "model_index.json"
    if not place.is_file():
        raise UserError(f"{folder} holds no model_index.json; give a model's folder in diffusers' layout")
    try:
        named = json.loads(place.read_text()).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{place} cannot be read: {error}; copy the model's folder again") from None
    if named != KIND:
        raise UserError(f"{folder} is a {named}; models of the layout {KIND} can be run")


def draw(
    folder: Path,
    prompts: Sequence[str],
    *,
    guidance: float,
    steps: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n, 3, height, width) uint8, a picture for each prompt; the same seed gives the same pictures.

    steps: of the sampler that the folder names. Raises UserError where the folder cannot be loaded.
    """
    check(folder)
    try:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    except ImportError:
        raise UserError('synthesise needs diffusers: pip install "medspectrum[synthesise]"') from None
    import torch

    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            str(folder), local_files_only=True, safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} cannot be loaded: {first}; copy the model's folder again") from None
    pipeline.set_progress_bar_config(disable=True)
    found = []
    for begin in range(0, len(prompts), AT_ONCE):
        some = list(prompts[begin : begin + AT_ONCE])
        # a generator for each picture: what it shows does not hang on how many are drawn at once
        rngs = [torch.Generator().manual_seed(seed * 1_000_003 + begin + i) for i in range(len(some))]
        made = pipeline(
            some, num_inference_steps=steps, guidance_scale=guidance, generator=rngs, output_type="np"
        )
        found.append(np.rint(255 * np.moveaxis(np.asarray(made.images), -1, 1)).astype(np.uint8))  # type: ignore[union-attr]
        if progress is not None:
            progress(begin + len(some), len(prompts))
    return np.concatenate(found)

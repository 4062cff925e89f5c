"""Words as vectors by the text tower of a CLIP: a folder of the transformers library on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile


def text_features(folder: str | Path, words: Sequence[str]) -> np.ndarray:
    """(n, d) float32, as CLIP compares them with pictures, before they are brought to unit length.

    folder: a CLIP, or its text tower alone, with its tokenizer. Raises UnreadableFile for others.
    """
    import torch
    from transformers import AutoTokenizer, CLIPTextModelWithProjection
    from transformers.utils import logging

    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UnreadableFile(place, "is no folder; give a CLIP as the transformers library saves it")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
        loaded: Any = CLIPTextModelWithProjection.from_pretrained(
            str(place), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tower, report = loaded
    except Exception as error:  # the library raises whatever its parts do
        told = (str(error).strip() or type(error).__name__).split("\n")[0][:160]
        raise UnreadableFile(place, f"holds no text tower of CLIP ({told}); copy the whole model") from error
    if report["missing_keys"]:
        raise UnreadableFile(
            place, f"its text tower lacks {sorted(report['missing_keys'])[0]}; copy it again"
        )
    given = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return tower.eval()(**given).text_embeds.float().numpy()

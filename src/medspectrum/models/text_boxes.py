"""Boxes of what a text names: open-vocabulary detectors of the transformers library, from a local folder.

OWL-ViT and OWLv2 (Minderer et al. 2022, arXiv:2205.06230; 2023, arXiv:2306.09683), Grounding DINO (Liu et al.
2023, arXiv:2303.05499).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile

KINDS = ("owlvit", "owlv2", "grounding-dino")
SAME = 0.5
"""Boxes of one label that overlap by this IoU or more are one; the surest stays."""


@dataclass(frozen=True)
class TextDetector:
    """A network that looks for what words name. kind: one of ``KINDS``."""

    network: Any
    processor: Any
    kind: str
    source: str


def load(path: str | Path) -> TextDetector:
    """The detector in that folder. Raises UnreadableFile where there is none that takes text."""
    import torch
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(path).expanduser()
    if not (path / "config.json").is_file():
        raise UnreadableFile(path, "holds no config.json; give the folder of an OWL-ViT or Grounding DINO")
    if not list(path.glob("*.safetensors")):
        raise UnreadableFile(path, "holds no .safetensors, the only weights that are read from a folder")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(str(path), **local).model_type
        if kind not in KINDS:
            raise UnreadableFile(
                path, f"holds a model of type {kind!r}, which finds nothing by text; give {', '.join(KINDS)}"
            )
        processor = AutoProcessor.from_pretrained(str(path), **local)
        network, report = AutoModelForZeroShotObjectDetection.from_pretrained(
            str(path), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except UnreadableFile:
        raise
    except Exception as error:  # the library raises whatever its parts do
        words = (str(error).strip() or type(error).__name__).split("\n")[0][:160]
        raise UnreadableFile(path, f"cannot be loaded ({words}); copy the whole model again") from error
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise UnreadableFile(path, f"its weights lack {lacking}; copy the whole model again")
    return TextDetector(network.eval(), processor, str(kind), str(path))


def find(
    detector: TextDetector, picture: np.ndarray, labels: Sequence[str], *, min_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), scores (n,) and indices into ``labels`` (n,) of a picture (3, height, width) uint8.

    Boxes are edges in its pixels, cut to it; doubles are taken away. Grounding DINO is asked for one label at
    a time, so that an answer is never of two.
    """
    asked = [[label] for label in labels] if detector.kind == "grounding-dino" else [list(labels)]
    parts = [_ask(detector, picture, some, min_score) for some in asked]
    boxes = np.concatenate([b for b, _, _ in parts])
    scores = np.concatenate([s for _, s, _ in parts])
    own = np.concatenate([i + (place if len(asked) > 1 else 0) for place, (_, _, i) in enumerate(parts)])
    return _once(boxes, scores, own, picture.shape[1:])


def _ask(
    detector: TextDetector, picture: np.ndarray, labels: list[str], min_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import torch
    from PIL import Image as Pillow

    shown = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1)))
    sizes = [picture.shape[1:]]
    with torch.inference_mode():
        if detector.kind == "grounding-dino":
            text = labels[0].lower().strip().rstrip(".") + "."
            given = detector.processor(images=shown, text=text, return_tensors="pt")
            said = detector.network(**given)
            [found] = detector.processor.post_process_grounded_object_detection(
                said, given["input_ids"], threshold=min_score, text_threshold=min_score, target_sizes=sizes
            )
            places = torch.zeros(len(found["scores"]), dtype=torch.long)
        else:
            given = detector.processor(images=shown, text=[labels], return_tensors="pt", padding=True)
            said = detector.network(**given)
            [found] = detector.processor.post_process_grounded_object_detection(
                said, threshold=min_score, target_sizes=torch.tensor(sizes)
            )
            places = found["labels"]
    return found["boxes"].numpy().reshape(-1, 4), found["scores"].numpy(), places.numpy()


def _once(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import torch
    from torchvision.ops import batched_nms

    height, width = size
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, labels = boxes[whole], scores[whole], labels[whole]
    kept = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64)), SAME
    ).numpy()
    return boxes[kept], scores[kept], labels[kept]

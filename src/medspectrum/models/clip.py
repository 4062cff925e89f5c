"""CLIP: pictures and their captions in one space, as OpenAI published it (Radford et al., ICML 2021).

OpenAI's files are TorchScript archives of half-precision weights; the tensors alone are read from them, into
the network of open_clip. CheXzero (Tiu et al. 2022) is the same network, trained on with chest X-rays and
reports, saved as a state dict. The vector of a picture is its embedding, as both publications use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._published import Published, Tensors
from medspectrum.models._towers import CLIP_MEAN, CLIP_STD, resized, saved

_ADDRESS = "https://openaipublic.azureedge.net/clip/models/"
_SAID = ("input_resolution", "context_length", "vocab_size")
SMALL = {
    "embed": 16,
    "side": 32,
    "patch": 16,
    "vision": (64, 2),
    "text": (64, 1),
    "heads": 1,
    "context": 8,
    "words": 50,
}

B32 = Card(
    name="clip-vit-b-32",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features", "retrieve", "zero-shot"),
    licence="MIT",
    commercial_use=True,
    source="OpenAI's own file ViT-B-32.pt",
    status="conforms",
    parameters=151_277_313,
    width=512,
    input_size=(224, 224),
    mean=CLIP_MEAN,
    std=CLIP_STD,
    stride=32,
    checksum="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    extra="clip",
    citation="Radford et al. 2021, arXiv:2103.00020",
    weights=_ADDRESS + "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    file_format="torchscript",
    gflops=8.8,
    code_licence="MIT",
    training_data="400 million pictures with captions, of the web (not published)",
)
B16 = replace(
    B32,
    name="clip-vit-b-16",
    source="OpenAI's own file ViT-B-16.pt",
    parameters=149_620_737,
    stride=16,
    gflops=35.1,
    checksum="5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    weights=_ADDRESS + "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
)
L14 = replace(
    B32,
    name="clip-vit-l-14",
    source="OpenAI's own file ViT-L-14.pt",
    parameters=427_616_513,
    width=768,
    stride=14,
    gflops=162.0,
    checksum="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    weights=_ADDRESS + "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
)
CHEXZERO = replace(
    B32,
    name="chexzero",
    level="modality",
    modality="DX",
    organ="chest",
    licence="not stated for the weights; the code's is MIT",
    commercial_use=False,
    source="the makers' folder of checkpoints, see github.com/rajpurkarlab/CheXzero",
    mean=(101.48761 / 255,) * 3,
    std=(83.43944 / 255,) * 3,
    checksum="",
    notes="one of the ten networks whose mean the publication judges",
    citation="Tiu et al. 2022, doi:10.1038/s41551-022-00936-9",
    weights="page:https://drive.google.com/drive/folders/1makFLiEMbSleYltaRxw81aBhEDMpVwno#best_64_0.0001_original_35000_0.864.pt",
    file_format="pytorch",
    training_data="377,110 chest X-rays with reports of MIMIC-CXR, from CLIP's weights",
    overlaps=("MIMIC-CXR",),
)


def network(
    *,
    embed: int,
    side: int,
    patch: int,
    vision: tuple[int, int],
    text: tuple[int, int],
    heads: int,
    context: int = 77,
    words: int = 49408,
) -> Any:
    """Both towers, random. vision, text: width and blocks. heads: of the text tower. words: known tokens."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    seen = CLIPVisionCfg(width=vision[0], layers=vision[1], patch_size=patch, image_size=side)
    read = CLIPTextCfg(context_length=context, vocab_size=words, width=text[0], heads=heads, layers=text[1])
    return CLIP(embed_dim=embed, vision_cfg=seen, text_cfg=read, quick_gelu=True).eval()


def renamed(state: Tensors) -> Tensors:
    """OpenAI's names are open_clip's; three numbers that describe the network are left out."""
    return {k: v for k, v in state.items() if k not in _SAID}


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings of pictures (n, 3, h, w) and of tokens (n, words)."""
    return {"pictures": made.encode_image(given["pictures"]), "words": made.encode_text(given["words"])}


def reader(made: Any, size: tuple[int, ...]) -> Any:
    """The image tower at that side."""
    import torch

    tower = made.visual
    resized(tower, size[0], patch=tower.patch_size[0])
    depth = len(tower.transformer.resblocks)

    class Seen(torch.nn.Module):
        """The embedding of pictures; tokens after the last norm; maps of four blocks."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, pictures: Any) -> Any:
            return self.tower(pictures)

        def read_level(self, pictures: Any, level: str) -> tuple[Any, ...]:
            if level == "pooled":
                return (self(pictures),)
            last = level == "tokens"
            places = [depth - 1] if last else sorted({round(depth * (i + 1) / 4) - 1 for i in range(4)})
            found = self.tower.forward_intermediates(
                pictures, indices=[max(p, 0) for p in places], normalize_intermediates=last
            )
            return tuple(found["image_intermediates"])

    return Seen().eval()


def _fake(folder: Path) -> Path:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return saved(network(**SMALL).state_dict(), folder / "small.pt")  # type: ignore[arg-type]


_L = {"vision": (1024, 24), "text": (768, 12), "heads": 12}
_B = {"vision": (768, 12), "text": (512, 12), "heads": 8}
for _card, _settings, _summary in (
    (B32, {"embed": 512, "side": 224, "patch": 32, **_B}, "General images with text: 512 features."),
    (B16, {"embed": 512, "side": 224, "patch": 16, **_B}, "General images with text, finer: 512 features."),
    (L14, {"embed": 768, "side": 224, "patch": 14, **_L}, "General images with text, large: 768 features."),
    (CHEXZERO, {"embed": 512, "side": 224, "patch": 32, **_B}, "Chest X-rays with reports: 512 features."),
):
    _placed.enter(
        _card,
        Published(
            build=network,
            settings=_settings,
            renamed=renamed,
            answer=answer,
            fake=_fake,
            small=SMALL,
            library="open_clip",
        ),
        summary=_summary,
        module=__name__,
        reader=reader,
        small_width=16,
        small_size=(32, 32),
    )

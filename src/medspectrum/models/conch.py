"""CONCH: histology and its captions (Lu et al., Nature Medicine 2024). The image half.

A plain transformer; one learnt question looks over all its tokens, and the answer, normalised, describes the
tile. That vector, before its projection into the space of captions, is what the makers advise for images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed, _timm
from medspectrum.models._published import Published
from medspectrum.models._towers import CLIP_MEAN, CLIP_STD, only, tower

CARD = Card(
    name="conch",
    level="modality",
    modality="SM",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="CC-BY-NC-ND-4.0",
    commercial_use=False,
    source="Hugging Face MahmoodLab/CONCH, once its makers have agreed",
    status="conforms",
    parameters=87_829_248,
    width=512,
    input_size=(448, 448),
    mean=CLIP_MEAN,
    std=CLIP_STD,
    stride=16,
    citation="Lu et al. 2024, doi:10.1038/s41591-024-02856-4",
    notes="the image half, before the projection into the space of captions",
    weights="hf:MahmoodLab/CONCH/pytorch_model.bin",
    file_format="pytorch",
    gated=True,
    gflops=158.2,
    code_licence="CC-BY-NC-ND-4.0",
    training_data="1.17 million histology pictures with captions, after tiles of in-house slides",
)


def network(
    *, width: int = 768, depth: int = 12, heads: int = 12, side: int = 448, embed: int = 512, asking: int = 8
) -> Any:
    """The image half, random: pictures (n, 3, side, side) -> (n, embed). asking: heads of the question."""
    import timm
    import torch
    from torch import nn

    class AttentionalPooler(nn.Module):
        """Learnt questions answered by attention over tokens of another width."""

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.randn(1, embed))
            self.attn = nn.MultiheadAttention(embed, asking, kdim=width, vdim=width, batch_first=True)
            self.ln_q, self.ln_k = nn.LayerNorm(embed), nn.LayerNorm(width)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            seen = self.ln_k(tokens)
            asked = self.ln_q(self.query).expand(len(tokens), -1, -1)
            return self.attn(asked, seen, seen, need_weights=False)[0]

    class Visual(nn.Module):
        """Trunk, question, norm; the projection is kept for whoever reads captions beside."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk = timm.create_model(
                "vit_base_patch16_224",
                img_size=side,
                embed_dim=width,
                depth=depth,
                num_heads=heads,
                num_classes=0,
                dynamic_img_size=True,
            )
            self.attn_pool_contrast = AttentionalPooler()
            self.ln_contrast = nn.LayerNorm(embed)
            self.proj_contrast = nn.Parameter(torch.randn(embed, embed) * embed**-0.5)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            tokens: Any = self.trunk
            return self.ln_contrast(self.attn_pool_contrast(tokens.forward_features(pictures))[:, 0])

    return Visual().eval()


def answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The vector, and its place in the space of captions."""
    pooled = made(given["pictures"])
    return {"pooled": pooled, "projected": pooled @ made.proj_contrast}


def reader(made: Any, size: tuple[int, ...]) -> Any:
    """The vector, at that side."""
    made.trunk = _timm.at_size(made.trunk, size[0], native=made.trunk.patch_embed.img_size[0])
    return tower(made, made.trunk, made)


_placed.enter(
    CARD,
    Published(
        build=network,
        renamed=only("visual.", without=("attn_pool_caption.", "ln_caption.")),
        answer=answer,
        small={"width": 32, "depth": 2, "heads": 2, "side": 32, "embed": 16, "asking": 8},
        library="timm",
    ),
    summary="Histology tiles with captions: 512 features.",
    module=__name__,
    reader=reader,
    small_width=16,
    small_size=(32, 32),
)

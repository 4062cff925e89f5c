"""Masked autoencoders: the encoders that He et al. published after pretraining on ImageNet (CVPR 2022)."""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

BASE = Card(
    name="mae-vit-b",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="CC-BY-NC-4.0",
    commercial_use=False,
    source="the makers' file mae_pretrain_vit_base.pth",
    status="conforms",
    parameters=85_798_656,
    width=768,
    input_size=(224, 224),
    stride=16,
    citation="He et al. 2022, arXiv:2111.06377",
    weights="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
    file_format="pytorch",
    gflops=35.1,
    code_licence="CC-BY-NC-4.0",
    training_data="ImageNet-1k, without labels",
)
LARGE = replace(
    BASE,
    name="mae-vit-l",
    source="the makers' file mae_pretrain_vit_large.pth",
    parameters=303_301_632,
    width=1024,
    gflops=123.1,
    weights="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth",
)
HUGE = replace(
    BASE,
    name="mae-vit-h",
    source="the makers' file mae_pretrain_vit_huge.pth",
    parameters=630_764_800,
    width=1280,
    gflops=334.6,
    stride=14,
    weights="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth",
)

for _card, _architecture, _side in (
    (BASE, "vit_base_patch16_224", 64),
    (LARGE, "vit_large_patch16_224", 64),
    (HUGE, "vit_huge_patch14_224", 56),
):
    _placed.enter(
        _card,
        _timm_file.published(
            _architecture,
            small={**_timm_file.SMALL, "img_size": _side},
            renamed=_timm_file.encoder_of_mae,
            saved_as="",
        ),
        summary=f"General images, encoder of a masked autoencoder: {_card.width} features.",
        module=__name__,
        reader=_timm_file.reader,
        small_width=32,
        small_size=(_side, _side),
    )

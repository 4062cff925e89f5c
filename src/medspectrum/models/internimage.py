"""InternImage: a convolutional foundation model of natural pictures, by deformable convolutions.

Wang et al., CVPR 2023 (arXiv:2211.05778), in its seven sizes, with the weights tuned on ImageNet-1k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medspectrum.card import Card
from medspectrum.models import _placed
from medspectrum.models._internimage_network import network
from medspectrum.models._published import Published

SCALED = {"post_norm": True, "layer_scale": True}
LARGE = {"depthwise": 5, "center_scale": True, "clip": (1024, 16, 768)}
SIZES: dict[str, tuple[dict[str, Any], str, int, int, float]] = {
    # settings, file, pixels per side, parameters, 10^9 operations
    "t": (
        {"channels": 64, "depths": (4, 4, 18, 4), "groups": (4, 8, 16, 32)},
        "internimage_t_1k_224.pth",
        224,
        29_918_424,
        9.6,
    ),
    "s": (
        {"channels": 80, "depths": (4, 4, 21, 4), "groups": (5, 10, 20, 40), **SCALED},
        "internimage_s_1k_224.pth",
        224,
        50_079_880,
        16.3,
    ),
    "b": (
        {"channels": 112, "depths": (4, 4, 21, 4), "groups": (7, 14, 28, 56), **SCALED},
        "internimage_b_1k_224.pth",
        224,
        97_461_832,
        32.0,
    ),
    "l": (
        {
            "channels": 160,
            "depths": (5, 5, 22, 5),
            "groups": (10, 20, 40, 80),
            "offset_scale": 2.0,
            **SCALED,
        },
        "internimage_l_22kto1k_384.pth",
        384,
        223_334_810,
        213.8,
    ),
    "xl": (
        {
            "channels": 192,
            "depths": (5, 5, 24, 5),
            "groups": (12, 24, 48, 96),
            "offset_scale": 2.0,
            **SCALED,
        },
        "internimage_xl_22kto1k_384.pth",
        384,
        334_819_780,
        323.6,
    ),
    "h": (
        {
            "channels": 320,
            "depths": (6, 6, 32, 6),
            "groups": (10, 20, 40, 80),
            "res_post_norm": True,
            "post_norm_after": (5, 11, 17, 23, 29),
            **LARGE,
        },
        "internimage_h_22kto1k_640.pth",
        640,
        1_089_636_760,
        2972.7,
    ),
    "g": (
        {
            "channels": 512,
            "depths": (2, 2, 48, 4),
            "groups": (16, 32, 64, 128),
            "post_norm": True,
            "post_norm_after": (5, 11, 17, 23, 29, 35, 41, 47),
            **LARGE,
        },
        "internimage_g_22kto1k_512.pth",
        512,
        3_076_373_352,
        5410.5,
    ),
}
SMALL = {"channels": 8, "depths": (1, 1, 2, 1), "groups": (1, 2, 2, 4)}
LEARNED = {
    "t": "ImageNet-1k",
    "s": "ImageNet-1k",
    "b": "ImageNet-1k",
    "l": "ImageNet-22k, then ImageNet-1k",
    "xl": "ImageNet-22k, then ImageNet-1k",
    "h": "427 million public pictures (joint), ImageNet-22k, then ImageNet-1k",
    "g": "427 million public pictures (joint), ImageNet-22k, then ImageNet-1k",
}


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    maps = made.maps(given["picture"])
    pooled = made.pooled(maps)
    return {"logits": made.head(pooled), "pooled": pooled, **{f"map{i}": m for i, m in enumerate(maps)}}


for _size, (_settings, _file, _side, _parameters, _gflops) in SIZES.items():
    _clip = _settings.get("clip")
    _placed.enter(
        Card(
            name=f"internimage-{_size}",
            level="general",
            modality="any",
            organ="any",
            dims=2,
            tasks=("classify", "features"),
            licence="MIT",
            commercial_use=True,
            source=f"https://huggingface.co/OpenGVLab/InternImage, file {_file}",
            status="conforms",
            parameters=_parameters,
            width=_clip[2] if _clip else int(1.5 * 8 * _settings["channels"]),
            input_size=(_side, _side),
            stride=32,
            citation="Wang et al. 2023, arXiv:2211.05778",
            weights=f"hf:OpenGVLab/InternImage/{_file}",
            file_format="pytorch",
            gflops=_gflops,
            code_licence="MIT",
            training_data=LEARNED[_size],
        ),
        Published(
            build=network,
            settings=_settings,
            answer=_answer,
            small=SMALL if not _clip else {**SMALL, "clip": (16, 4, 12), "post_norm_after": (1,)},
        ),
        summary=f"Natural pictures by deformable convolutions, size {_size.upper()}.",
        module=__name__,
        reader=lambda made, size: made,  # noqa: ARG005 - convolutions take any size
        small_width=12 if _clip else 96,
        small_size=(64, 64),
    )

"""DINOv2 as its makers' own ``.pth`` files, with and without registers.

Oquab et al., TMLR 2024; Darcet et al., ICLR 2024.

The same networks in the layout of the transformers library are read by ``hf:FOLDER``. Positions are resized
from 37 x 37 by timm, with antialiasing; at 518 pixels the answer is the makers' own.
"""

from __future__ import annotations

from dataclasses import replace

from medspectrum.card import Card
from medspectrum.models import _placed, _timm_file

_ADDRESS = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{size}14/dinov2_{size}14{registers}_pretrain.pth"
SMALL = Card(
    name="dinov2-vits14",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("classify", "features"),
    licence="Apache-2.0",
    commercial_use=True,
    source="the makers' file",
    status="conforms",
    parameters=22_056_192,
    width=384,
    input_size=(224, 224),
    stride=14,
    citation="Oquab et al. 2024, arXiv:2304.07193",
    file_format="pytorch",
    code_licence="Apache-2.0",
    training_data="LVD-142M: 142 million curated pictures of the web",
    overlaps=("ImageNet",),
    notes="trained on 518 pixels at the end; shown 224, as in its own evaluation",
)
_SIZES = {
    "vits": ("small", 22_056_192, 384, (12.2, 12.5)),
    "vitb": ("base", 86_579_712, 768, (46.3, 47.1)),
    "vitl": ("large", 304_367_616, 1024, (162.0, 164.6)),
    "vitg": ("giant", 1_136_479_232, 1536, (598.8, 608.3)),
}

for _size, (_word, _parameters, _width, _gflops) in _SIZES.items():
    for _registers in (False, True):
        _file = _ADDRESS.format(size=_size, registers="_reg4" if _registers else "")
        _added = 3 * _width if _registers else 0
        """Four registers, less the class token's own position, which is added to it."""
        _card = replace(
            SMALL,
            name=f"dinov2-{_size}14" + ("-reg4" if _registers else ""),
            source=f"the makers' file {_file.rpartition('/')[2]}",
            parameters=_parameters + _added,
            width=_width,
            gflops=_gflops[_registers],
            weights=_file,
            citation="Darcet et al. 2024, arXiv:2309.16588" if _registers else SMALL.citation,
        )
        _placed.enter(
            _card,
            _timm_file.published(
                f"vit_{_word}_patch14" + ("_reg4" if _registers else "") + "_dinov2",
                small={**_timm_file.SMALL, "embed_dim": 48, "img_size": 56},
                renamed=_timm_file.from_dinov2,
                saved_as="",
            ),
            summary=f"General images, transformer: {_card.parameters // 10**6} million parameters, "
            f"{_width} features.",
            module=__name__,
            reader=_timm_file.reader,
            small_width=48,
            small_size=(56, 56),
        )

"""Rows of the catalogue for Segment Anything, SAM 2 and MedSAM: networks that outline what is pointed at.

How they are loaded and asked stands in ``sam.py``; ``medspectrum segment`` takes the same files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.models import _sam_file, sam
from medspectrum.models._published import Published
from medspectrum.registry import model

META = "https://dl.fbaipublicfiles.com/segment_anything"
SIZES = {
    # width, depth, heads, file, parameters, 10^9 operations of the picture's encoder, MB, SHA-256
    "b": (
        (768, 12, 12),
        "sam_vit_b_01ec64.pth",
        93_735_728,
        972.1,
        375,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "l": (
        (1024, 24, 16),
        "sam_vit_l_0b3195.pth",
        312_343_088,
        2985.7,
        1249,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "h": (
        (1280, 32, 16),
        "sam_vit_h_4b8939.pth",
        641_090_864,
        5961.1,
        2564,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
SECOND = {"tiny": 38_900_000, "small": 46_000_000, "base-plus": 80_800_000, "large": 224_400_000}
"""Sizes of SAM 2.1 and their parameters, as its makers round them."""
MEDSAM = "https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN"


def network(*, width: int, depth: int, heads: int) -> Any:
    """The library's SAM of that size, random."""
    from transformers import SamConfig, SamModel

    vision: Mapping[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "mlp_dim": 4 * width,
        "global_attn_indexes": [depth // 4 * (i + 1) - 1 for i in range(4)],
    }
    decoder = {"layer_norm_eps": _sam_file.BLOCK_NORM_EPS}
    return SamModel(SamConfig(vision_config=dict(vision), mask_decoder_config=decoder)).eval()


def _enter(card: Card, says: str, preparation: str, **facts: Any) -> None:
    def given(path: str | Path | None = None, *, cache: Path | None = None) -> sam.Promptable:
        return sam.load(path or weights_place.needed(card, cache), preparation=preparation)

    given.__doc__, given.__name__ = says, card.name.replace("-", "_").replace(".", "_")
    available = partial(weights_place.lacking, card)
    model(card.name, card=card, available=available, gives="prompts", **facts)(given)


def _published(width: int, depth: int, heads: int) -> Published:
    settings = {"width": width, "depth": depth, "heads": heads}
    return Published(build=network, settings=settings, renamed=_sam_file.renamed, library="transformers")


for _size, (_dims, _file, _parameters, _gflops, _megabytes, _checksum) in SIZES.items():
    _enter(
        Card(
            name=f"sam-vit-{_size}",
            level="general",
            modality="any",
            organ="any",
            dims=2,
            tasks=("prompt",),
            licence="Apache-2.0",
            commercial_use=True,
            source=f"{META}/{_file}",
            status="conforms",
            parameters=_parameters,
            width=0,
            input_size=(1024, 1024),
            stride=16,
            checksum=_checksum,
            citation="Kirillov et al. 2023, arXiv:2304.02643",
            notes="operations are those of the picture's encoder",
            weights=f"{META}/{_file}",
            download_mb=_megabytes,
            file_format="pytorch",
            gflops=_gflops,
            code_licence="Apache-2.0",
            training_data="SA-1B, 11 million pictures with 1.1 billion masks",
        ),
        f"Outlines from boxes, points and masks in natural pictures, ViT-{_size.upper()}.",
        "sam",
        published=_published(*_dims),
        shown_by="test_prompts_are_answered_as_by_the_original",
    )

_enter(
    Card(
        name="medsam",
        level="modality",
        modality="any",
        organ="any",
        dims=2,
        tasks=("prompt",),
        licence="Apache-2.0",
        commercial_use=True,
        source=f"{MEDSAM}, file medsam_vit_b.pth (of https://github.com/bowang-lab/MedSAM)",
        status="conforms",
        parameters=SIZES["b"][2],
        width=0,
        input_size=(1024, 1024),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        stride=16,
        citation="Ma et al. 2024, doi:10.1038/s41467-024-44824-z",
        notes="takes boxes; each picture is stretched to a square and scaled to 0-1 by its own ends",
        weights=f"{MEDSAM}#medsam_vit_b.pth",
        download_mb=375,
        file_format="pytorch",
        gflops=SIZES["b"][3],
        code_licence="Apache-2.0",
        training_data="1.57 million pairs of medical pictures and masks, ten modalities, from public sets",
    ),
    "Outlines from boxes in medical pictures of ten modalities; a tuned SAM.",
    "medsam",
    published=_published(*SIZES["b"][0]),
    shown_by="test_medsam_prepares_and_answers_as_its_own_code",
)

for _size, _parameters in SECOND.items():
    _enter(
        Card(
            name=f"sam2.1-hiera-{_size}",
            level="general",
            modality="any",
            organ="any",
            dims=2,
            tasks=("prompt",),
            licence="Apache-2.0",
            commercial_use=True,
            source=f"https://huggingface.co/facebook/sam2.1-hiera-{_size}",
            status="loads",
            parameters=_parameters,
            width=0,
            input_size=(1024, 1024),
            stride=16,
            citation="Ravi et al. 2024, arXiv:2408.00714",
            notes="the folder for transformers; pictures, not videos; parameters as its makers round them",
            weights=f"hf:facebook/sam2.1-hiera-{_size}",
            file_format="transformers",
            code_licence="Apache-2.0",
            training_data="SA-1B, SA-V and videos of its makers",
        ),
        f"Outlines from boxes, points and masks, second generation, size {_size}.",
        "sam2",
        shown_by="test_sam2_equals_its_own_code",
    )

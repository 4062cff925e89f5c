"""The row of UniverSeg, which outlines a picture as those of a support set were; the method asks it.

Butoi et al., ICCV 2023 (arXiv:2304.06131). The network stands in ``engine/universeg.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medspectrum.card import Card
from medspectrum.engine.universeg import network
from medspectrum.models._network_row import network_row
from medspectrum.models._published import Published

_RELEASE = "https://github.com/JJGO/UniverSeg/releases/download/weights/universeg_v1_nf64_ss64_STA.pt"


def _answer(made: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"logits": made(given["target"], given["images"], given["labels"])}


network_row(
    Card(
        name="universeg",
        level="modality",
        modality="any",
        organ="any",
        dims=2,
        tasks=("segment",),
        licence="OpenRAIL++-M; for research only",
        commercial_use=False,
        source=_RELEASE,
        status="conforms",
        parameters=1_182_785,
        width=0,
        input_size=(128, 128),
        mean=(0.0,),
        std=(1.0,),
        stride=8,
        citation="Butoi et al. 2023, arXiv:2304.06131",
        notes="grey pictures of 0-1; operations grow with the support set, these are with one picture in it",
        weights=_RELEASE,
        file_format="pytorch",
        gflops=13.6,
        code_licence="Apache-2.0",
        training_data="MegaMedical, 53 public sets with 22 thousand scans",
    ),
    Published(
        build=network,
        settings={"encoder": ((64, 64),) * 4},
        answer=_answer,
    ),
    "Pictures outlined by example, without any training.",
)

"""The precision that networks are trained in: bf16 where the processor multiplies it natively."""

from __future__ import annotations

import contextlib
from typing import Any

from medspectrum.engine.openvino import native_bf16


def quick_training() -> contextlib.AbstractContextManager[Any]:
    """Inside the block torch's products are taken in bf16 where that is native, else as always.

    Weights, their gradients and what torch holds to be delicate stay float32. For networks whose layers are
    convolutions and products; leave the loss outside and give it float32 scores.
    """
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=native_bf16())

"""How fast this machine multiplies: a stack of made layers, timed for two seconds."""

from __future__ import annotations

import time
from functools import lru_cache

WIDTH, TOKENS, SIDE, CHANNELS = 384, 256, 56, 64


@lru_cache(maxsize=1)
def gflops_per_second(seconds: float = 2.0) -> float:
    """10^9 multiplications and additions a second, in the arithmetic that networks are run in here.

    Half of the time goes to layers of a transformer, half to convolutions, on torch's present threads. A
    real network reaches about this within a factor of two or three.
    """
    import torch

    from medspectrum.engine.openvino import native_bf16

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((TOKENS, WIDTH), generator=generator)
    up, down = (
        torch.randn(shape, generator=generator) / 20 for shape in ((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    )
    maps = torch.randn((1, CHANNELS, SIDE, SIDE), generator=generator)
    kernel = torch.randn((CHANNELS, CHANNELS, 3, 3), generator=generator) / 24
    layers = {
        "tokens": (lambda: torch.nn.functional.gelu(tokens @ up) @ down, 16.0 * TOKENS * WIDTH * WIDTH),
        "maps": (
            lambda: torch.nn.functional.conv2d(maps, kernel, padding=1).relu(),
            18.0 * SIDE * SIDE * CHANNELS * CHANNELS,
        ),
    }
    done, spent = 0.0, 0.0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=native_bf16()):
        for run, count in layers.values():
            run()
            begun = time.perf_counter()
            while (now := time.perf_counter() - begun) < seconds / len(layers):
                run()
                done += count
            spent += now
    return done / spent / 1e9

"""Half precision for training on a processor, without the one operation that is slower for it.

Convolutions in bfloat16 are several times faster where the processor has tiles for them; depthwise ones go
back through them so slowly that all is lost again. Those stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medspectrum.engine.precision import native_bf16


@contextmanager
def mixed(*, enabled: bool | None = None) -> Iterator[None]:
    """Inside, networks run in bfloat16 save for grouped convolutions; no change where that is no gain."""
    import torch
    from torch.overrides import TorchFunctionMode

    if not (native_bf16() if enabled is None else enabled):
        yield
        return

    class GroupedInFull(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (torch.conv2d, torch.nn.functional.conv2d):
                groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
                if groups > 1:
                    with torch.autocast("cpu", enabled=False):
                        return func(args[0].float(), *args[1:], **kwargs)
            return func(*args, **kwargs)

    with GroupedInFull(), torch.autocast("cpu", torch.bfloat16):
        yield

"""A torch network made ready for windows: converted once, computing ahead of the stitching.

``slide`` takes any callable; this makes a fast one. OpenVINO runs it, in bf16 where the processor multiplies
bf16 natively and the scores stay the same (``openvino.precision_for``), else in fp32; where it cannot
convert the network, or gives other scores than torch does, torch runs it. One window per request and one
thread per stream, as for embedding: a window's scores depend neither on its neighbours nor on the machine's
processors. Each stream holds its own intermediate results, so fewer streams need less memory.
"""

from __future__ import annotations

import copy
import inspect
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.engine import eager, openvino
from medspectrum.engine.window_grid import sides
from medspectrum.store import cache_folder, digest, read_json, write_json

MOST_APART = 1e-3
"""Largest difference to torch's scores that a converted network may show, in parts of their range."""


def identity_of(module: Any) -> str:
    """Digest of a torch module: its weights, its structure, and the source text of its parts."""
    parts: list[Any] = [str(module)]
    kinds = {type(part) for part in module.modules()}
    for kind in sorted(kinds, key=lambda k: f"{k.__module__}.{k.__qualname__}"):
        parts.append(f"{kind.__module__}.{kind.__qualname__}")
        try:
            parts.append(inspect.getsource(kind))
        except (OSError, TypeError):  # made at run time: its structure has to do
            continue
    for name, tensor in module.state_dict().items():
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        parts += [name, str(values.dtype), list(values.shape), values.tobytes()]
    return digest("window network", *parts)


class WindowNetwork:
    """What ``slide`` calls: (B, C, *roi) float32 -> (B, K, *roi). ``how`` says what computes it.

    Of a network with several outputs the first is taken, the one at full size by custom.
    """

    def __init__(self, runner: openvino.Compiled | eager.Eager, how: str, refusal: str = "") -> None:
        self._runner = runner
        self.how = how
        self.refusal = refusal

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores of a batch of windows."""
        return np.stack([outputs[0].copy() for outputs in self._runner.ahead(batch)])

    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Scores of each batch in order, the next windows under way meanwhile (see ``windows.Ahead``)."""
        sizes: list[int] = []

        def singly() -> Iterator[np.ndarray]:
            for batch in batches:
                sizes.append(len(batch))
                yield from batch

        held: list[np.ndarray] = []
        for outputs in self._runner.ahead(singly()):
            if sizes[0] == 1:
                sizes.pop(0)
                yield outputs[0][None]
                continue
            held.append(outputs[0].copy())
            if len(held) == sizes[0]:
                sizes.pop(0)
                yield np.stack(held)
                held = []


def window_network(
    module: Any,
    *,
    roi: int | Sequence[int],
    channels: int = 1,
    axes: int = 3,
    cache: Path | None = None,
    keep: bool = True,
    streams: int = 0,
    convert: bool = True,
) -> WindowNetwork:
    """Make a torch module (B, C, *roi) -> (B, K, *roi) ready for ``slide``. The module is left as it is.

    channels: C. axes: 2 or 3, where ``roi`` is one number. cache: the folder of the cache; the converted
    network is kept there under the digest of its weights and code, unless ``keep`` is off, as it should be
    for weights that will not be asked for again. streams: windows at a time, 0 for as many as processors.
    convert: off, torch computes.
    """
    side = sides(roi, (1,) * (axes if isinstance(roi, int | np.integer) else len(roi)))
    shape = (1, channels, *side)
    streams = streams or openvino.processors()
    frozen = copy.deepcopy(module).eval()
    if not convert:
        return WindowNetwork(eager.Eager(frozen, streams=streams), "torch-f32")
    if keep:
        library = openvino._openvino().__version__
        name = digest(identity_of(frozen), list(shape), library)
        return _converted(frozen, shape, cache_folder(cache) / "networks" / f"windows-{name}", streams)
    place = Path(tempfile.mkdtemp(prefix="medspectrum-network-"))
    try:
        return _converted(frozen, shape, place / "network", streams)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _converted(module: Any, shape: tuple[int, ...], folder: Path, streams: int) -> WindowNetwork:
    refusal = folder.with_name(f"{folder.name}.refused.json")
    compared = folder / "compared.json"
    if not compared.exists() and not refusal.exists():
        try:
            if not folder.exists():
                openvino.convert(module, shape, folder)
            write_json(compared, {"apart": _agreeing(module, shape, folder)})
        except Exception as problem:  # noqa: BLE001 - converters raise anything; torch takes over
            write_json(refusal, {"reason": str(problem)[:2000]})
    if refusal.exists():
        reason = read_json(refusal)["reason"]
        return WindowNetwork(eager.Eager(module, streams=streams), "torch-f32", reason)
    precision = openvino.precision_for(folder)
    runner = openvino.Compiled(folder, precision=precision, streams=streams)
    return WindowNetwork(runner, f"openvino-{precision}")


def _agreeing(module: Any, shape: tuple[int, ...], folder: Path) -> float:
    """How far the converted network's scores are from torch's on a made window; ValueError if too far."""
    made = np.random.default_rng(0).standard_normal(shape[1:]).astype(np.float32)
    runners = openvino.Compiled(folder, precision="f32", streams=1), eager.Eager(module, streams=1)
    ours, theirs = ([part.copy() for part in next(iter(r.ahead([made])))] for r in runners)
    scale = max(max(float(np.abs(part).max()) for part in theirs), 1e-30)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / scale
    if not apart <= MOST_APART:
        raise ValueError(f"the converted network's scores differ from torch's by {apart:.2g} of their range")
    return apart

"""Running a network by OpenVINO on the processor.

One picture per request, one thread per stream, as many streams as processors. So a picture's
features never depend on its neighbours, on how many processors there are, or on what was cached
before; and on two cores it is also the fastest of the settings measured (``benchmarks/embedding.py``).
bf16 is used where the processor multiplies it natively and the features keep a cosine of 0.999 to
fp32; elsewhere fp32 is asked for by name, since the default may be lower.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.store import read_json, write_json

Done = Callable[[Any, list[np.ndarray]], None]
LEAST_COSINE = 0.999


def _openvino() -> Any:
    """The library, without its usage reports: nothing here may talk to the network by itself."""
    if "openvino" not in sys.modules:
        # with this entry at None the library takes the silent stub that it ships for that case
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    return _openvino().Core()


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def native_bf16() -> bool:
    """True where the processor multiplies bf16 natively (avx512_bf16 or amx_bf16)."""
    flags = Path("/proc/cpuinfo")
    if flags.exists():
        words = set(flags.read_text().split())
        return bool(words & {"avx512_bf16", "amx_bf16"})
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convert(module: Any, shape: tuple[int, ...], folder: Path) -> None:
    """Convert a torch module with one input of that shape, once, into a folder that appears whole.

    Raises whatever the conversion raises; the folder is then absent.
    """
    import torch

    library = _openvino()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    example = torch.zeros(shape)
    quiet = logging.getLogger("openvino")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            # the library would trace twice to compare; the encoder compares features afterwards
            traced = torch.jit.trace(module, example, check_trace=False, strict=False)
            converted = library.convert_model(traced, example_input=example, input=list(shape))
    finally:
        quiet.setLevel(level)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        library.save_model(converted, str(partial / "network.xml"), compress_to_fp16=False)
        write_json(partial / "about.json", {"version": library.__version__, "shape": list(shape)})
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "about.json").exists():
                raise  # not another process that was quicker
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _compiled(folder: Path, precision: str, streams: int) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # two runs at once must not be pinned to the same core
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
    }
    return _core().compile_model(str(folder / "network.xml"), "CPU", settings)


def _cosine(folder: Path, shape: tuple[int, ...]) -> float:
    """Least cosine between the bf16 and the fp32 outputs for three made inputs."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
    outputs = []
    for precision in ("f32", "bf16"):
        compiled = _compiled(folder, precision, 1)
        outputs.append([np.concatenate([o.ravel() for o in compiled([x]).values()]) for x in inputs])
    return min(
        float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
        for a, b in zip(*outputs, strict=True)
    )


def precision_for(folder: Path) -> str:
    """``bf16`` where the processor has it and the features stay the same by cosine, else ``f32``."""
    if not native_bf16():
        return "f32"
    known = folder / "bf16_cosine.json"
    if not known.exists():
        write_json(known, {"cosine": _cosine(folder, tuple(read_json(folder / "about.json")["shape"]))})
    return "bf16" if read_json(known)["cosine"] >= LEAST_COSINE else "f32"


class Compiled:
    """A converted network, ready to run."""

    def __init__(self, folder: Path, *, precision: str, streams: int) -> None:
        self._compiled = _compiled(folder, precision, streams)
        self._streams = streams
        self.outputs = len(self._compiled.outputs)

    def run(self, jobs: Iterable[tuple[Any, np.ndarray]], done: Done) -> None:
        """Run each (tag, input without batch axis); ``done(tag, outputs)`` is called as they finish.

        Calls come from another thread, in any order. Jobs are taken as there is room for them, so
        that a generator of jobs works while the network does.
        """
        library = _openvino()
        queue = library.AsyncInferQueue(self._compiled, self._streams + 1)
        failures: list[Exception] = []

        def finished(request: Any, tag: Any) -> None:
            try:
                done(tag, [np.array(t.data[0]) for t in request.output_tensors])
            except Exception as problem:  # noqa: BLE001 - carried to the caller's thread below
                failures.append(problem)

        queue.set_callback(finished)
        try:
            for tag, made in jobs:
                queue.start_async({0: made[None]}, tag)
                if failures:
                    break
        finally:
            queue.wait_all()
        if failures:
            raise failures[0]

    def ahead(self, inputs: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Outputs in the order of the inputs (each without batch axis), while the next are computed.

        What is given is the network's own memory: it is overwritten when the next is asked for.
        """
        free = [self._compiled.create_infer_request() for _ in range(self._streams + 1)]
        waiting: deque[Any] = deque()
        try:
            for made in inputs:
                request = free.pop()
                request.start_async({0: made[None]})
                waiting.append(request)
                if not free:
                    first = waiting.popleft()
                    yield _finished(first)
                    free.append(first)
            while waiting:
                yield _finished(waiting.popleft())
        finally:
            for request in waiting:
                request.wait()


def _finished(request: Any) -> list[np.ndarray]:
    request.wait()
    return [tensor.data[0] for tensor in request.output_tensors]


@lru_cache(maxsize=2)
def compiled(folder: Path, precision: str, streams: int) -> Compiled:
    """The network in that folder; the last two asked for stay in memory."""
    return Compiled(folder, precision=precision, streams=streams)

"""Images per second of embedding: this project's path against timm as it stands, and what else was tried.

    python benchmarks/embedding.py [--images 24] [--rounds 3] [--size 224] [--only WAY ...]

Every way sees the same prepared pictures at the same size. In each round all ways run one after the
other, so that a busy machine slows all of them; a way's ratio is the median over rounds of its rate
over eager timm's in the same round. ``network`` counts the network alone; ``files`` reads JPEG files,
prepares and embeds them, with the same preparation in every way. int8 counts only if its cosine to fp32
is at least 0.999. Results go to benchmarks/results/embedding.json, or
embedding_bf16.json on a processor with bf16.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.engine import openvino
from medspectrum.engine.eager import Eager
from medspectrum.engine.embed import fill
from medspectrum.engine.readout import level_module
from medspectrum.feature_store import FeatureStore
from medspectrum.formats import raster
from medspectrum.models import resolve
from medspectrum.store import digest, write_json

MODELS = {"efficientnet-lite0": 5.5, "timm:vit_small_patch14_dinov2-random": 2.4, "dinov2-s-derived": 2.4}
BASELINE = "timm eager, batch 16"
CHOSEN = "this project's path, in the precision it chose"


def pictures(folder: Path, count: int) -> list[LazyImage]:
    """JPEG files of 640 x 480, made: smooth colour with grain, so that decoding costs what it does."""
    from PIL import Image as Picture

    made = []
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Picture.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        grain = rng.integers(-12, 12, (480, 640, 3))
        path = folder / f"{number}.jpg"
        pixels = np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(path, quality=90)
        made.append(LazyImage(str(path), partial(raster.read, path), partial(digest, str(path))))
    return made


def torch_way(network, batch: int):
    import torch

    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                network(torch.from_numpy(inputs[i : i + batch])).numpy() for i in range(0, len(inputs), batch)
            ]
        return np.concatenate(parts)

    return run


def autocast_way(network, batch: int):
    import torch

    plain = torch_way(lambda seen: network(seen).float(), batch)

    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(inputs)

    return run


def collected(runner, inputs: np.ndarray) -> np.ndarray:
    rows: dict[int, np.ndarray] = {}
    runner.run(enumerate(inputs), lambda tag, parts: rows.__setitem__(tag, parts[0]))
    return np.stack([rows[i] for i in range(len(inputs))])


def openvino_way(folder: Path, batch: int, streams: int, threads: int, precision: str = "f32"):
    core = openvino._core()
    graph = core.read_model(str(folder / "network.xml"))
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(graph, "CPU", settings)

    def run(inputs: np.ndarray) -> np.ndarray:
        queue = openvino._openvino().AsyncInferQueue(compiled, streams + 1)
        rows: dict[int, np.ndarray] = {}
        queue.set_callback(lambda request, tag: rows.__setitem__(tag, request.output_tensors[0].data.copy()))
        for start in range(0, len(inputs), batch):
            queue.start_async({0: inputs[start : start + batch]}, start)
        queue.wait_all()
        return np.concatenate([rows[i] for i in sorted(rows)])

    return run


def ways(encoder, folder: Path, example: np.ndarray, only: list[str]):
    """name -> (how to run it, what making it cost in seconds); a way that fails is named with its reason."""
    import torch

    pixels = encoder.size[0]
    threads = openvino.processors()

    def converted(batch: int) -> Path:
        target = folder / f"{encoder.key}-b{batch}"
        if not target.exists():
            openvino.convert(level_module(encoder.network(), "pooled"), (batch, 3, pixels, pixels), target)
        return target

    def traced():
        module = level_module(encoder.network(), "pooled")
        with torch.inference_mode():
            made = torch.jit.trace(module, torch.from_numpy(example[:8]), check_trace=False, strict=False)
            return torch_way(torch.jit.optimize_for_inference(torch.jit.freeze(made)), 8)

    def fused():
        from torch.fx.experimental.optimization import fuse

        return torch_way(fuse(encoder.network()), 16)

    def last():
        network = encoder.network().to(memory_format=torch.channels_last)

        def run(inputs: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return np.concatenate(
                    [
                        network(
                            torch.from_numpy(inputs[i : i + 16]).contiguous(memory_format=torch.channels_last)
                        ).numpy()
                        for i in range(0, len(inputs), 16)
                    ]
                )

        return run

    def inductor():
        return torch_way(torch.compile(encoder.network(), dynamic=False), 8)

    def quantised():
        import nncf

        graph = openvino._core().read_model(str(converted(1) / "network.xml"))
        data = nncf.Dataset([e[None] for e in example[:16]])
        kind = nncf.ModelType.TRANSFORMER if "dino" in encoder.card.name else None
        compiled = openvino._core().compile_model(
            nncf.quantize(graph, data, model_type=kind),
            "CPU",
            {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads},
        )

        def run(inputs: np.ndarray) -> np.ndarray:
            return np.concatenate([compiled(e[None])[0] for e in inputs])

        return run

    offered = {
        BASELINE: lambda: torch_way(encoder.network(), 16),
        "timm eager, batch 1": lambda: torch_way(encoder.network(), 1),
        "torch channels_last, batch 16": last,
        "torch conv-bn fused (fx), batch 16": fused,
        "torch.jit freeze + optimize_for_inference, batch 8": traced,
        "torch.compile (inductor), batch 8": inductor,
        "torch, one thread per picture, two workers": lambda: partial(
            collected, Eager(level_module(encoder.network(), "pooled"), streams=threads)
        ),
        CHOSEN: lambda: partial(collected, encoder._runner("pooled")),
        f"OpenVINO fp32, batch 1, {threads} streams of 1 thread": lambda: openvino_way(
            converted(1), 1, threads, threads
        ),
        f"OpenVINO fp32, batch 1, 1 stream of {threads} threads": lambda: openvino_way(
            converted(1), 1, 1, threads
        ),
        f"OpenVINO fp32, batch 8, {threads} streams": lambda: openvino_way(converted(8), 8, threads, threads),
        f"OpenVINO fp32, batch 8, 1 stream of {threads} threads": lambda: openvino_way(
            converted(8), 8, 1, threads
        ),
        "OpenVINO int8 (nncf), batch 1": quantised,
    }
    if openvino.native_bf16():
        offered[f"OpenVINO bf16, batch 1, 1 stream of {threads} threads"] = lambda: openvino_way(
            converted(1), 1, 1, threads, "bf16"
        )
        offered[f"OpenVINO bf16, batch 8, {threads} streams"] = lambda: openvino_way(
            converted(8), 8, threads, threads, "bf16"
        )
        offered["timm eager under bf16 autocast, batch 16"] = lambda: autocast_way(encoder.network(), 16)
    made, refused = {}, {}
    for name, make in offered.items():
        if only and name != BASELINE and not any(word in name for word in only):
            continue
        start = time.perf_counter()
        try:
            run = make()
            run(example[:8])
        except Exception as problem:  # noqa: BLE001 - a way that cannot be tried here is reported as such
            refused[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
            continue
        made[name] = (run, time.perf_counter() - start)
    return made, refused


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def from_files(encoder, images, folder: Path, round_: int) -> tuple[float, float]:
    """Seconds from files to features: eager timm in batches of 16, and this project's path."""
    import torch

    network = encoder.network()
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(images), 16):
            made = np.stack([encoder.prepare(i.load()) for i in images[first : first + 16]])
            network(torch.from_numpy(made)).numpy()
    eager = time.perf_counter() - start
    store = FeatureStore(folder / f"{encoder.key}-{round_}")
    runner = encoder._runner("pooled")
    start = time.perf_counter()
    fill(
        store,
        images,
        prepare=encoder.prepare,
        runner=lambda: runner,
        slices=True,
        workers=openvino.processors(),
    )
    return eager, time.perf_counter() - start


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--images", type=int, default=24)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--size", type=int, default=224)
    ask.add_argument("--only", nargs="*", default=[])
    ask.add_argument("--models", nargs="*", default=list(MODELS))
    given = ask.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(openvino.processors())
    result = {
        "machine": {
            "processors": openvino.processors(),
            "bf16": openvino.native_bf16(),
            "architecture": platform.machine(),
            "torch": torch.__version__,
            "openvino": openvino._openvino().__version__,
        },
        "images": given.images,
        "rounds": given.rounds,
        "size": given.size,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = pictures(folder, given.images)
        for model in given.models:
            encoder = resolve(model, size=given.size, cache=folder / "cache")
            inputs = np.stack([encoder.prepare(i.load()) for i in images])
            made, refused = ways(encoder, folder, inputs, given.only)
            rates: dict[str, list[float]] = {name: [] for name in made}
            outputs = {name: run(inputs) for name, (run, _) in made.items()}
            files: list[tuple[float, float]] = []
            for round_ in range(given.rounds):
                for name, (run, _) in made.items():
                    start = time.perf_counter()
                    run(inputs)
                    rates[name].append(len(inputs) / (time.perf_counter() - start))
                files.append(from_files(encoder, images, folder, round_))
            base = np.array(rates[BASELINE])
            rows = {
                name: {
                    "images_per_second": round(float(np.median(rates[name])), 2),
                    "times_eager": round(float(np.median(np.array(rates[name]) / base)), 2),
                    "times_eager_each_round": [round(float(v), 2) for v in np.array(rates[name]) / base],
                    "least_cosine_to_fp32": round(least_cosine(outputs[name], outputs[BASELINE]), 6),
                    "seconds_to_make": round(cost, 1),
                }
                for name, (_, cost) in made.items()
            }
            for row in rows.values():
                row["allowed"] = row["least_cosine_to_fp32"] >= 0.999
            result["models"][model] = {
                "target_times_eager": MODELS[model],
                "network": rows,
                "not_tried": refused,
                "files": {
                    "eager_images_per_second": round(
                        len(images) / float(np.median([e for e, _ in files])), 2
                    ),
                    "images_per_second": round(len(images) / float(np.median([o for _, o in files])), 2),
                    "times_eager": round(float(np.median([e / o for e, o in files])), 2),
                },
            }
            print(json.dumps(result["models"][model], indent=1), flush=True)
            name = "embedding_bf16.json" if openvino.native_bf16() else "embedding.json"
            write_json(Path(__file__).parent / "results" / name, result)


if __name__ == "__main__":
    main()

"""Sliding windows over a volume beside MONAI: seconds, peak memory, and whether the labels are the same.

    python benchmarks/sliding_window.py [--size 256 256 128] [--rounds 3] [--ways ...] [--save]

MONAI's BasicUNet at half width with batch norms and 15 classes, trained for some minutes on made volumes
(``made_organs.py``; its weights are kept in the cache), goes over another made volume in windows of 96,
overlap 0.5, Gaussian blend, until there is a label for every voxel. Each way runs in a process of its own,
so that its peak of memory is its own; in each round all ways run one after the other, so that a busy
machine slows all of them. A ratio is the median over rounds of MONAI's seconds over the way's in the same
round. Conversion and one window to warm up are not timed: the conversion is kept between runs. ``network``
times one window alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from made_organs import made_volume, mean_dice, trained
from measurement import save
from medspectrum.engine import openvino
from medspectrum.engine.effort import measured
from medspectrum.engine.window_network import window_network
from medspectrum.engine.windows import slide
from medspectrum.store import cache_folder

ROI = 96
TRAINING_STEPS = 200
TARGETS = {"windows": 3.0, "centre": 4.5, "agreement": 0.985}


def weights() -> Path:
    return cache_folder() / "benchmarks" / "sliding_window_batch_norm.safetensors"


def our_way(network, volume: np.ndarray, *, streams: int = 0, convert: bool = True, **settings):
    run = window_network(network, roi=ROI, streams=streams, convert=convert)
    run(np.zeros((1, 1, ROI, ROI, ROI), np.float32))
    return lambda: slide(run, volume, roi=ROI, **settings)


def monai_way(network, volume: np.ndarray, *, steps: int | None = None):
    import torch
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        network(torch.zeros(1, 1, ROI, ROI, ROI))

    def run() -> np.ndarray:
        with torch.inference_mode():
            scores = sliding_window_inference(
                torch.from_numpy(volume[None]),
                (ROI,) * 3,
                1,
                network,
                overlap=0.5,
                mode="gaussian",
                buffer_steps=steps,
                buffer_dim=0,
            )
            return scores[0].argmax(0).to(torch.uint8).numpy()

    return run


WAYS = {
    "monai": monai_way,
    "same windows": our_way,
    "same windows, one stream": lambda n, v: our_way(n, v, streams=1),
    "same windows, torch": lambda n, v: our_way(n, v, convert=False),
    "same windows, body box": lambda n, v: our_way(n, v, body_box=True),
    "centre tiles, overlap 1/6": lambda n, v: our_way(n, v, mode="centre"),
    "centre tiles, overlap 1/4": lambda n, v: our_way(n, v, mode="centre", overlap=0.25),
    "centre tiles, overlap 1/2": lambda n, v: our_way(n, v, mode="centre", overlap=0.5),
}
CHOSEN = ["monai", "same windows", *(f"centre tiles, overlap {share}" for share in ("1/6", "1/4", "1/2"))]


def worker(way: str, folder: Path) -> None:
    """One way in this process; its labels and what it cost go into the folder."""
    import torch

    torch.set_num_threads(openvino.processors())
    volume = np.load(folder / "volume.npy")
    run = WAYS[way](trained(weights(), steps=0), volume)
    with measured() as effort:
        labels = run()
    np.save(folder / "labels.npy", labels)
    (folder / "cost.json").write_text(
        json.dumps({"seconds": effort.wall_seconds, "cpu": effort.cpu_seconds, "peak": effort.peak_memory_mb})
    )


def last_of(found) -> np.ndarray:
    """Let them all come; a copy of the last."""
    last = np.zeros(0)
    for each in found:
        last = each
    return last.copy()


def one_window(rounds: int) -> dict[str, object]:
    """Seconds for one window of the network in other ways; a way that cannot be tried is named."""
    import torch

    torch.set_num_threads(openvino.processors())
    network = trained(weights(), steps=0)
    made = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, ROI, ROI, ROI), dtype=np.float32))
    windows = 2 * openvino.processors()

    def eager(module, given=made):
        def run():
            with torch.inference_mode():
                return module(given).numpy()

        return run

    def last():
        module = trained(weights(), steps=0).to(memory_format=torch.channels_last_3d)
        return eager(module, made.contiguous(memory_format=torch.channels_last_3d))

    def frozen():
        with torch.inference_mode():
            traced = torch.jit.trace(network, made, check_trace=False)
            return eager(torch.jit.optimize_for_inference(torch.jit.freeze(traced)))

    def converted(streams: int):
        def make():
            run = window_network(network, roi=ROI, streams=streams)
            return lambda: last_of(run.ahead(made.numpy() for _ in range(windows)))

        return make

    def quantised():
        import nncf

        folder = Path(tempfile.mkdtemp()) / "network"
        openvino.convert(trained(weights(), steps=0), tuple(made.shape), folder)
        rng = np.random.default_rng(5)
        examples = [made_volume((ROI,) * 3, rng)[0][None, None] for _ in range(6)]
        graph = openvino._core().read_model(str(folder / "network.xml"))
        small = nncf.quantize(graph, nncf.Dataset(examples), subset_size=len(examples))
        settings = {"NUM_STREAMS": openvino.processors(), "INFERENCE_NUM_THREADS": openvino.processors()}
        compiled = openvino._core().compile_model(small, "CPU", settings)
        runner = openvino.Compiled.__new__(openvino.Compiled)
        runner._compiled, runner._streams = compiled, openvino.processors()
        return lambda: last_of(o[0][None] for o in runner.ahead(made.numpy()[0] for _ in range(windows)))

    offered = {
        "torch eager": (lambda: eager(network), 1),
        "torch channels_last_3d": (last, 1),
        "torch.jit freeze + optimize_for_inference": (frozen, 1),
        "torch.compile (inductor)": (lambda: eager(torch.compile(network, dynamic=False)), 1),
        "OpenVINO fp32, 1 stream of 1 thread": (converted(1), windows),
        f"OpenVINO, {openvino.processors()} streams of 1 thread (chosen)": (converted(0), windows),
        "OpenVINO int8 (nncf)": (quantised, windows),
    }
    made_ways, refused = {}, {}
    for name, (make, count) in offered.items():
        try:
            run = make()
            made_ways[name] = (run, count, run())
        except Exception as problem:  # noqa: BLE001 - a way that cannot be tried here is reported as such
            refused[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}"
    seconds: dict[str, list[float]] = {name: [] for name in made_ways}
    for _ in range(rounds):
        for name, (run, count, _) in made_ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / count)
    base = made_ways["torch eager"][2]
    return {
        "seconds_a_window": {name: round(float(np.median(s)), 3) for name, s in seconds.items()},
        "times_eager": {
            name: round(float(np.median(np.array(seconds["torch eager"]) / np.array(s))), 2)
            for name, s in seconds.items()
        },
        "labels_as_eager": {
            name: round(float((out.argmax(1) == base.argmax(1)).mean()), 5)
            for name, (_, _, out) in made_ways.items()
        },
        "not_tried": refused,
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--size", type=int, nargs=3, default=[256, 256, 128])
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--ways", nargs="*", default=CHOSEN, choices=list(WAYS))
    ask.add_argument("--save", action="store_true")
    ask.add_argument("--worker", default="", help=argparse.SUPPRESS)
    ask.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = ask.parse_args()
    warnings.simplefilter("ignore")
    if given.worker:
        worker(given.worker, given.folder)
        return
    trained(weights(), steps=TRAINING_STEPS)
    volume, answer = made_volume(tuple(given.size), np.random.default_rng(99))
    costs: dict[str, list[dict[str, float]]] = {way: [] for way in given.ways}
    labels: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volume.npy", volume[None])
        for way in given.ways:  # converts where needed, outside of what is measured
            if way != "monai":
                window_network(trained(weights(), steps=0), roi=ROI)
                break
        for number in range(given.rounds):
            for way in given.ways:
                command = [sys.executable, __file__, "--worker", way, "--folder", str(folder)]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                costs[way].append(json.loads((folder / "cost.json").read_text()))
                labels[way] = np.load(folder / "labels.npy")
                print(number, way, costs[way][-1], flush=True)
    rows = {}
    for way, found in costs.items():
        seconds = np.array([c["seconds"] for c in found])
        rows[way] = {
            "seconds": round(float(np.median(seconds)), 2),
            "peak_memory_mb": round(max(c["peak"] for c in found)),
            "mean_dice": round(mean_dice(labels[way], answer), 4),
        }
        if "monai" in costs:
            base = np.array([c["seconds"] for c in costs["monai"]])
            rows[way]["times_monai"] = round(float(np.median(base / seconds)), 2)
            rows[way]["times_monai_each_round"] = [round(float(r), 2) for r in base / seconds]
            rows[way]["labels_as_monai"] = round(float((labels[way] == labels["monai"]).mean()), 6)
            rows[way]["memory_of_monai"] = round(
                rows[way]["peak_memory_mb"] / max(c["peak"] for c in costs["monai"]), 2
            )
    result = {
        "size": given.size,
        "roi": ROI,
        "bf16": openvino.native_bf16(),
        "targets": TARGETS,
        "ways": rows,
        "network": one_window(given.rounds),
    }
    print(json.dumps(result, indent=1))
    if given.save:
        save("sliding_window", result)


if __name__ == "__main__":
    main()

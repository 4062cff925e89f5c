"""Blood cells in boxes: our detector beside torchvision's, on the data set's own test split.

    python benchmarks/bccd.py DATA [CPU_SECONDS [EPOCHS [PARTS]]]

DATA is the BCCD folder (Pascal VOC). All learn from the training part at 320 pixels, in one process and one
thread each, which run at once; settings were chosen on the validation part. torchvision's Faster R-CNN gets
the same ImageNet weights of the same encoder, since its own weights for COCO cannot be had here, and
CPU_SECONDS of processor time: at least what ours used. Scores are by COCO's evaluator on the test part,
intervals over images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from measurement import save

SIDE = 320
SETTINGS = {"learning_rate": 5e-4, "head_learning_rate": 2e-3, "any_way_up": True}
PARTS = "full_detector,detector,torchvision"


def task_and_cases(data: Path):
    from medspectrum.datasets import load
    from medspectrum.tasks.detect import Detect

    cases = load(data).cases
    parts = {name: [c for c in cases if c.split == name] for name in ("train", "val", "test")}
    return Detect.of(cases), parts


def ours(name: str, data: Path, epochs: float, cache: Path) -> dict:
    from medspectrum import registry
    from medspectrum.models import resolve

    task, parts = task_and_cases(data)
    settings = {**SETTINGS, "epochs": epochs} if name == "full_detector" else {"any_way_up": True}
    model = resolve("efficientnet-lite0", size=SIDE, cache=cache)
    wall, cpu = time.perf_counter(), time.process_time()
    predictor = registry.find("method", name).thing(model, parts["train"], task, seed=0, **settings)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = {
        "settings": settings,
        "steps": predictor.settings["steps"],
        "trained_parameters": predictor.trained_parameters,
        "training_cpu_seconds": cpu,
        "training_wall_seconds": wall,
    }
    return found | judged(task, parts, predictor.predict)


def judged(task, parts, predict) -> dict:
    """Scores on validation and test; the test part's also by COCO's evaluator itself."""
    from medspectrum.metrics.coco import FoundBoxes, TrueBoxes, coco_scores

    wall, cpu = time.perf_counter(), time.process_time()
    test = predict(parts["test"])
    spent = {
        "predicting_wall_ms": 1000 * (time.perf_counter() - wall) / len(test),
        "predicting_cpu_ms": 1000 * (time.process_time() - cpu) / len(test),
    }
    scored = task.score(test, parts["test"]) | task.in_detail(test, parts["test"])
    coco = coco_scores(
        [FoundBoxes(f.boxes.astype(float), f.scores.astype(float), f.labels) for f in test],
        [TrueBoxes(*task.target(c)) for c in parts["test"]],
        task.classes,
    )
    validation = task.score(predict(parts["val"]), parts["val"], resamples=0)["scores"]
    return spent | {
        "validation_map50": validation["map50"]["value"],
        "test": scored["scores"],
        "test_per_class": scored["per_class"],
        "test_by_coco_evaluator": coco,
    }


def faster_rcnn(classes: int):
    """Faster R-CNN with a feature pyramid on the pretrained encoder's stages of strides 4 to 32."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

    from medspectrum.models import resolve

    network = resolve("efficientnet-lite0", size=SIDE).network()
    for part in (network.conv_stem, network.bn1, network.blocks[0], network.blocks[1]):
        part.requires_grad_(False)

    class Backbone(torch.nn.Module):
        out_channels = 128

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.pyramid = FeaturePyramidNetwork([24, 40, 112, 320], self.out_channels)

        def forward(self, batch):
            seen, found = network.bn1(network.conv_stem(batch)), {}
            for number, block in enumerate(network.blocks):
                seen = block(seen)
                if number in (1, 2, 4, 6):
                    found[str(number)] = seen
            return self.pyramid(found)

        def train(self, mode: bool = True):
            super().train(mode)
            for module in self.network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
            return self

    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.7, 1.0, 1.4),) * 4)
    return FasterRCNN(
        Backbone(),
        num_classes=classes + 1,
        min_size=SIDE * 3 // 4,
        max_size=SIDE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["1", "2", "4", "6"], output_size=7, sampling_ratio=2),
        box_score_thresh=0.01,
    )


def torchvisions(data: Path, allowed: float) -> dict:
    """Its own loop as its references have it, with AdamW, cosine, flips every way, in float32."""
    from medspectrum.detections import Detections

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    task, parts = task_and_cases(data)
    network = faster_rcnn(len(task.classes))

    def picture(case):
        return torch.from_numpy(case.images["image"].load().array[:, 0]).float() / 255

    head = [p for n, p in network.named_parameters() if p.requires_grad and ".network." not in n]
    body = [p for n, p in network.named_parameters() if p.requires_grad and ".network." in n]
    groups = [{"params": body, "lr": 2e-4}, {"params": head, "lr": 5e-4}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    rates = [group["lr"] for group in optimiser.param_groups]
    wall, cpu = time.perf_counter(), time.process_time()
    held = [(picture(c), *task.target(c)) for c in parts["train"]]
    steps, order = 0, []
    network.train()
    while (share := (time.process_time() - cpu) / allowed) < 1:
        factor = min(1.0, share / 0.05) * 0.5 * (1 + np.cos(np.pi * share))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * max(factor, 1e-3)
        images, targets = [], []
        for _ in range(8):
            order = order or list(rng.permutation(len(held)))
            pixels, boxes, labels = held[order.pop()]
            boxes = torch.from_numpy(boxes).float().clone()
            height, width = pixels.shape[1:]
            for axis, size in ((2, width), (1, height)):
                if rng.random() < 0.5:
                    pixels, low = pixels.flip(axis), 2 - axis
                    boxes[:, [low, low + 2]] = size - boxes[:, [low + 2, low]]
            images.append(pixels)
            targets.append({"boxes": boxes, "labels": torch.from_numpy(labels) + 1})
        loss = sum(network(images, targets).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head + body, 5.0)
        optimiser.step()
        steps += 1
    network.eval()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    def predict(cases):
        found = []
        with torch.inference_mode():
            for case in cases:
                one = network([picture(case)])[0]
                given = (one["boxes"].numpy(), one["scores"].numpy(), one["labels"].numpy() - 1)
                found.append(Detections.of(*given))
        return found

    kept = {"steps": steps, "training_cpu_seconds": cpu, "training_wall_seconds": wall}
    return kept | judged(task, parts, predict)


def main() -> None:
    if sys.argv[1] == "--one":
        _, _, name, data, allowed, epochs, out = sys.argv
        torch.set_num_threads(1)
        place = Path(out)
        made = (
            torchvisions(Path(data), float(allowed))
            if name == "torchvision"
            else ours(name, Path(data), float(epochs), place.parent / "cache")
        )
        place.write_text(json.dumps(made))
        return
    data, allowed, epochs, chosen = [*sys.argv[1:], *("600", "15", PARTS)[len(sys.argv) - 2 :]]
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for name in chosen.split(","):
            place = Path(folder) / f"{name}.json"
            command = [
                sys.executable,
                "-W",
                "ignore",
                __file__,
                "--one",
                name,
                data,
                allowed,
                epochs,
                str(place),
            ]
            running[name] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}), place
        found = {}
        for name, (process, place) in running.items():
            if process.wait() == 0:
                found[name] = json.loads(place.read_text())
    save(
        "bccd",
        {
            "side": SIDE,
            "cases": {"train": 205, "val": 87, "test": 72},
            "wanted": {"map50": 0.85, "training_minutes_on_two_cores": 40},
            "found": found,
        },
    )


if __name__ == "__main__":
    main()

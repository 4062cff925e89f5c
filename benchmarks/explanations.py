"""Do maps point at a planted cue? Beside Captum and pytorch-grad-cam on the same networks and pictures.

    python benchmarks/explanations.py [--data pneumoniamnist,wbc] [--models ...] [--adapted frozen,full,lora]
        [--seeds 3]

Pictures of PneumoniaMNIST (28 pixels) and of white blood cells (120 pixels; both under MEDSPECTRUM_DATA)
get a class by chance, and those of one class a chequered mark of 5 (17) pixels at a place by chance:
nothing but the mark tells the classes apart. A predictor learns from 160 pictures: a linear probe on frozen
features, or a network tuned wholly (full) or by low-rank deltas (lora, transformers) in 60 steps of 16
pictures. Of 6 test pictures with the mark, each map of the class's score is asked whether its highest point
lies in the mark, and again with the network's weights shuffled. Marks, pictures and places differ from seed
to seed. The peers get the same module and input, and the layers that their documentation names: the last
convolution, or the norm before the last block's attention (pytorch-grad-cam: pip install --no-deps grad-cam
opencv-python-headless ttach, left out where it is not there). Each run is added to the result file when it
is done, and one that the file holds is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from measurement import RESULTS, save

SIZE = 112
LEARNED, JUDGED = 160, 6
TUNED = {"batch_cases": 16, "least_steps": 60, "most_steps": 60}
MARKS = {"pneumoniamnist": 5, "wbc": 17}
HERE = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--data", default="pneumoniamnist,wbc")
    given.add_argument("--models", default="efficientnet-lite0,dinov2-s-derived")
    given.add_argument("--adapted", default="frozen,full,lora")
    given.add_argument("--seeds", type=int, default=3)
    asked = given.parse_args()
    kept = RESULTS / "explanations.json"
    runs: list[dict[str, Any]] = json.loads(kept.read_text())["result"]["runs"] if kept.exists() else []
    for seed in range(asked.seeds):
        for data in asked.data.split(","):
            for model in asked.models.split(","):
                for adapted in asked.adapted.split(","):
                    key = {"data": data, "model": model, "adapted": adapted, "seed": seed}
                    if any(all(r[k] == v for k, v in key.items()) for r in runs):
                        continue
                    runs.append(key | one(data, model, adapted, seed))
                    save("explanations", {"runs": runs, "together": together(runs)})


def pictures(data: str) -> list[np.ndarray]:
    """(h, w) or (h, w, 3) uint8 each: those that the set's first split or folder holds."""
    from PIL import Image

    if data == "pneumoniamnist":
        with np.load(HERE / "pneumoniamnist" / "pneumoniamnist.npz") as held:
            return list(held["train_images"])
    files = sorted((HERE / "wbc_seg" / "jiangxi_tecom").glob("*_image.png"))
    return [np.asarray(Image.open(f).convert("RGB")) for f in files]


def plant(data: str, seed: int, folder: Path) -> Path:
    """A table of pictures, classes by chance, and where the mark is or would be."""
    from PIL import Image

    found = pictures(data)
    rng = np.random.default_rng([seed, len(found)])
    count = LEARNED + 2 * JUDGED
    chosen = rng.permutation(len(found))[:count]
    side = MARKS[data]
    (folder / "marks").mkdir(parents=True)
    rows = [["image", "kind", "mask", "split", "patient"]]
    step = max(1, side // 5)
    chequered = (np.add.outer(np.arange(side) // step, np.arange(side) // step) % 2 * 255).astype(np.uint8)
    kinds = np.concatenate([rng.permutation(np.arange(n) % 2) for n in (LEARNED, 2 * JUDGED)])
    for number, (which, kind) in enumerate(zip(chosen, kinds, strict=True)):
        picture = found[which].copy()
        height, width = picture.shape[:2]
        y, x = rng.integers(1, height - side), rng.integers(1, width - side)
        mark = np.zeros((height, width), np.uint8)
        mark[y : y + side, x : x + side] = 1
        if kind:
            picture[y : y + side, x : x + side] = chequered if picture.ndim == 2 else chequered[..., None]
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
        Image.fromarray(mark).save(folder / "marks" / f"{number:03d}.png")
        part = "train" if number < LEARNED else "test"
        name = ("plain", "marked")[int(kind)]
        rows.append([f"{number:03d}.png", name, f"marks/{number:03d}.png", part, f"p{number}"])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "cases.csv"


def one(data: str, model: str, adapted: str, seed: int) -> dict[str, Any]:
    """Hits by method: ours, with shuffled weights, and the peers'."""
    from medspectrum.datasets import load
    from medspectrum.engine.attribution.randomised import randomised
    from medspectrum.models import resolve
    from medspectrum.registry import find
    from medspectrum.saliency.checks import marked, pointing
    from medspectrum.saliency.maps import Maps
    from medspectrum.saliency.seen import see
    from medspectrum.tasks.classify import Classify

    with tempfile.TemporaryDirectory() as place:
        cases = load(plant(data, seed, Path(place) / "data"), label="kind", mask="mask").cases
        encoder = resolve(model, size=SIZE, cache=Path(place) / "cache")
        task = Classify(["marked", "plain"])
        learned = [c for c in cases if c.split == "train"]
        fit = find("method", "linear_probe" if adapted == "frozen" else adapted).thing
        predictor: Any = fit(encoder, learned, task, **({} if adapted == "frozen" else TUNED))
        test = [c for c in cases if c.split == "test"]
        right = predictor.predict(test).argmax(axis=1) == [task.target(c) for c in test]
        hits: dict[str, list[float]] = {}
        share: list[float] = []
        seconds: dict[str, float] = {}
        for case in (c for c in test if task.target(c) == 0):
            seen = see(predictor, case, 0)
            inside = marked(case, "marked")
            assert inside is not None
            share.append(float(inside.mean()))
            name = next(n for n, part in seen.module.named_modules() if part is seen.network)
            blind_module = randomised(seen.module, seed)
            blind = Maps(seen.by(blind_module, blind_module.get_submodule(name)))
            own = Maps(seen)
            makers: dict[str, Callable[[], np.ndarray]] = {}
            for method in own.possible():
                makers[method] = partial(own.map, method)
                makers[f"{method}, shuffled weights"] = partial(blind.map, method)
            makers |= peers(seen)
            for what, make in makers.items():
                begun = time.process_time()
                heat = seen.back(make())["image"]
                seconds[what] = seconds.get(what, 0.0) + time.process_time() - begun
                hits.setdefault(what, []).append(pointing(heat, inside)[0])
    return {
        "accuracy": float(np.mean(right)),
        "share": float(np.mean(share)),
        "hits": hits,
        "cpu_seconds": {what: total / len(share) for what, total in seconds.items()},
    }


def peers(seen: Any) -> dict[str, Callable[[], np.ndarray]]:
    """Captum's and pytorch-grad-cam's maps (1, side, side) of the same module, by name."""
    import torch
    import torch.nn.functional as F
    from captum.attr import IntegratedGradients, LayerGradCam

    batch = seen.batch
    network = seen.network
    transformer = hasattr(network, "patch_embed")
    layer = network.blocks[-1].norm1 if transformer else network.bn2
    grid = batch.shape[-1] // 14

    def whole(maps: torch.Tensor) -> np.ndarray:
        flat = maps.detach().float()
        if flat.shape[-2:] != batch.shape[-2:]:
            flat = F.interpolate(flat[None], batch.shape[-2:], mode="bilinear", align_corners=False)[0]
        return flat.clamp_min(0).numpy()

    def captum_cam() -> np.ndarray:
        if transformer:
            raise NotImplementedError  # its LayerGradCam takes channels in front only
        return whole(LayerGradCam(seen.score, layer).attribute(batch)[:, 0])

    def captum_gradients() -> np.ndarray:
        found = IntegratedGradients(seen.score).attribute(batch, n_steps=16, internal_batch_size=16)
        return whole(found[0].sum(1))

    made: dict[str, Callable[[], np.ndarray]] = {"Captum IntegratedGradients, from zeros": captum_gradients}
    if not transformer:
        made["Captum LayerGradCam, last layer"] = captum_cam
    try:
        from pytorch_grad_cam import GradCAM, HiResCAM, LayerCAM
    except ImportError:
        return made

    class Flat(torch.nn.Module):
        """Pictures in, two logits out, as pytorch-grad-cam calls a model."""

        def __init__(self) -> None:
            super().__init__()
            self.whole = seen.module

        def forward(self, flat: torch.Tensor) -> torch.Tensor:
            odds = seen.score(flat[:, None])
            return torch.stack([odds, -odds], dim=1)

    def tokens(values: torch.Tensor) -> torch.Tensor:
        return values[:, -grid * grid :].transpose(1, 2).unflatten(2, (grid, grid))

    def pytorch_cam(kind: Any) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

            turned = tokens if transformer else None
            with kind(model=Flat(), target_layers=[layer], reshape_transform=turned) as cam:
                return cam(input_tensor=batch[:, 0], targets=[ClassifierOutputTarget(0)])

        return make

    for kind in (GradCAM, HiResCAM, LayerCAM):
        made[f"pytorch-grad-cam {kind.__name__}, last layer"] = pytorch_cam(kind)
    return made


def together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By data set, model and adaptation: hit rates over the seeds' pictures, with intervals over pictures."""
    from medspectrum.metrics.bootstrap import resampled

    table: dict[str, Any] = {}
    for run in runs:
        table.setdefault(f"{run['data']}, {run['model']}, {run['adapted']}", []).append(run)
    made: dict[str, Any] = {}
    for name, own in table.items():
        row: dict[str, Any] = {
            "seeds": len(own),
            "accuracy": float(np.mean([r["accuracy"] for r in own])),
            "share": float(np.mean([r["share"] for r in own])),
        }
        for method in dict.fromkeys(name for r in own for name in r["hits"]):
            hits = np.concatenate([r["hits"].get(method, []) for r in own])
            found = resampled(
                lambda w, h=hits: {"hit": h.mean() if w is None else h @ w / w.sum(axis=0)},
                [str(i) for i in range(len(hits))],
            )["hit"]
            row[method] = {**found, "pictures": len(hits)}
        made[name] = row
    return made


if __name__ == "__main__":
    main()

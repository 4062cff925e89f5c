"""Which vector to take from the DINOv2-S derived backbone: cross-validated on training data only.

    python benchmarks/dinov2_readout.py [--data FOLDER] [--cases 600]

Logistic regression (standardised, C = 0.01) in five folds, by patient where patients are known, on
PneumoniaMNIST's training split, malaria cells of the first quarter of patients by name, and white blood cells
(five types). No test split of the published benchmark is touched.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.formats import raster
from medspectrum.image import Image
from medspectrum.models import dinov2_s_derived, resolve
from medspectrum.store import digest, write_json

BLOCKS = (9, 12)
CANDIDATES = {
    "cls12": ("cls12",),
    "cls9": ("cls9",),
    "mean12": ("mean12",),
    "cls12-mean12": ("cls12", "mean12"),
    "cls9-mean9": ("cls9", "mean9"),
    "cls9-cls12": ("cls9", "cls12"),
    "cls9-cls12-mean12": ("cls9", "cls12", "mean12"),
    "cls9-cls12-mean9-mean12": ("cls9", "cls12", "mean9", "mean12"),
}
PARTS = ("cls9", "mean9", "cls12", "mean12")


def all_parts(size, cache, seed):
    """The backbone with every candidate part side by side."""
    import torch

    class Parts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dinov2_s_derived.build(size, cache, seed, blocks=12)

        def forward(self, x):
            x = self.inner.patch_embed(x)
            x = self.inner._pos_embed(x)
            out = []
            for number, block in enumerate(self.inner.blocks, start=1):
                x = block(x)
                if number in BLOCKS:
                    normal = self.inner.norm(x)
                    out += [normal[:, 0], normal[:, 1:].mean(dim=1)]
            return torch.cat(out, dim=1)

    return Parts().eval()


def _array(pixels: np.ndarray) -> Image:
    return Image(pixels[None, None], spacing_known=False)


def _from_array(name: str, pixels: np.ndarray) -> list[LazyImage]:
    return [
        LazyImage(f"{name}#{i}", partial(_array, p), partial(digest, p.tobytes()))
        for i, p in enumerate(pixels)
    ]


def sets(data: Path, count: int):
    """name -> (images, labels, groups or None)."""
    rng = np.random.default_rng(0)
    held = np.load(data / "pneumoniamnist" / "pneumoniamnist.npz")
    pick = rng.permutation(len(held["train_images"]))[:count]
    labels = held["train_labels"].ravel()[pick]
    yield "pneumoniamnist train", _from_array("cxr", held["train_images"][pick]), labels, None
    held = np.load(data / "malaria_cells" / "malaria_cells_50x50.npz")
    patients = held["patient"]
    few = np.unique(patients)[: len(np.unique(patients)) // 4]
    pick = rng.permutation(np.flatnonzero(np.isin(patients, few)))[:count]
    images = _from_array("cell", held["images"][pick])
    yield "malaria, first quarter of patients", images, held["labels"][pick], patients[pick]
    folder = data / "wbc_seg"
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    images, labels = [], []
    for row in rows:
        path = folder / row["site"] / f"{int(row['id']):03d}_image.png"
        if path.exists():
            images.append(LazyImage(str(path), partial(raster.read, path), partial(digest, str(path))))
            labels.append(row["wbc_class"])
    yield "white blood cells", images[:count], np.array(labels[:count]), None


def scored(rows: np.ndarray, labels: np.ndarray, groups) -> list[float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))
    if groups is None:
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
    else:
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    kind = "roc_auc" if len(np.unique(labels)) == 2 else "balanced_accuracy"
    return [float(v) for v in cross_val_score(fit, rows, labels, groups=groups, cv=folds, scoring=kind)]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", default=os.environ.get("MEDSPECTRUM_DATA") or "not-given")
    ask.add_argument("--cases", type=int, default=600)
    given = ask.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name, images, labels, groups in sets(Path(given.data), given.cases):
        whole = resolve("dinov2-s-derived").for_images(images)
        encoder = replace(whole, build=all_parts, identity=digest(whole.identity, "all parts"))
        rows = encoder.embed(images).pooled
        parts = dict(zip(PARTS, np.split(rows, 4, axis=1), strict=True))
        for candidate, names in CANDIDATES.items():
            folds = scored(np.concatenate([parts[n] for n in names], axis=1), labels, groups)
            found.setdefault(candidate, {})[name] = {"mean": round(float(np.mean(folds)), 4), "folds": folds}
        print(name, len(images), {c: v[name]["mean"] for c, v in found.items()}, flush=True)
    means = {c: round(float(np.mean([v["mean"] for v in by.values()])), 4) for c, by in found.items()}
    result = {"cases": given.cases, "mean_over_sets": means, "sets": found}
    write_json(Path(__file__).parent / "results" / "dinov2_readout.json", result)
    print(json.dumps(means, indent=1))


if __name__ == "__main__":
    main()

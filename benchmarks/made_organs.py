"""A made volume with labelled bodies, and a small network trained on such volumes, for benchmarks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

CLASSES = 15
FEATURES = (16, 16, 32, 64, 128, 16)


def made_volume(size: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(grey float32, labels uint8): ellipsoids and boxes of 14 classes in a noisy, shaded body.

    Every class has its own grey level and the noise is about as large as the step between levels, so that
    one voxel alone does not tell its class. Even classes are boxes, odd ones ellipsoids.
    """
    from scipy.ndimage import zoom

    labels = np.zeros(size, np.uint8)
    for number in range(max(2 * (CLASSES - 1), round(np.prod(size) / 36**3))):
        kind = 1 + number % (CLASSES - 1)
        radius, middle = rng.uniform(8, 24, 3), rng.uniform(0, 1, 3) * np.array(size)
        first = np.maximum(0, middle - radius).astype(int)
        end = np.minimum(size, middle + radius + 1).astype(int)
        part = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
        places = [
            (g - m) / r
            for g, m, r in zip(np.ogrid[part], middle, radius, strict=True)  # type: ignore[call-overload]
        ]
        if kind % 2:
            inside = sum(p**2 for p in places) < 1
        else:
            inside = np.maximum(np.maximum(*(abs(p) for p in places[:2])), abs(places[2])) < 0.8
        labels[part][inside] = kind
    level = np.linspace(-2, 2, CLASSES, dtype=np.float32)
    shade = rng.standard_normal([max(2, side // 32) for side in size]).astype(np.float32)
    shade = zoom(shade, [a / b for a, b in zip(size, shade.shape, strict=True)], order=1)
    grey = level[labels] + 0.05 * shade + 0.2 * rng.standard_normal(size, dtype=np.float32)
    return grey.astype(np.float32), labels


def network(seed: int = 0):
    """MONAI's BasicUNet at half its usual width: 1.4 million parameters.

    Its norms are over the batch, so that what it says of a voxel depends on the voxel's surroundings alone:
    norms over each window make it depend on where the window lies, with whatever way of joining windows.
    """
    import torch
    from monai.networks.nets import BasicUNet

    torch.manual_seed(seed)
    return BasicUNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, features=FEATURES, norm="batch")


def trained(path: Path, *, steps: int, side: int = 64):
    """The network after so many steps on made volumes; read from ``path`` where it lies there."""
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file, save_file

    from medspectrum.engine.precision import quick_training

    made = network()
    if path.exists():
        made.load_state_dict(load_file(path))
        return made.eval()
    made = made.to(memory_format=torch.channels_last_3d)
    rng = np.random.default_rng(1)
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    volumes = [made_volume((96, 96, 96), rng) for _ in range(24)]
    clock = time.perf_counter()
    made.train()
    for step in range(steps):
        grey, answer = [], []
        for _ in range(2):
            volume, labels = volumes[rng.integers(len(volumes))]
            corner = rng.integers(0, 96 - side + 1, 3)
            cut = tuple(slice(c, c + side) for c in corner)
            grey.append(volume[cut])
            answer.append(labels[cut])
        given = torch.from_numpy(np.stack(grey)[:, None]).contiguous(memory_format=torch.channels_last_3d)
        truth = torch.from_numpy(np.stack(answer).astype(np.int64))
        with quick_training():
            scores = made(given)
        loss = F.cross_entropy(scores.float(), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step + 1 == steps:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - clock:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, path)
    return made.eval()


def mean_dice(found: np.ndarray, answer: np.ndarray) -> float:
    """Mean over the classes that are there."""
    each = []
    for kind in range(1, CLASSES):
        a, b = found == kind, answer == kind
        if b.any():
            each.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(each))

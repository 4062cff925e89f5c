"""Learning to make pictures of a class: what the kinds of generators share.

A generator is trained in ``descend`` on pictures of the training part alone. How many steps fit into the time
asked for is measured once and kept with the weights, so that a killed training goes on to the same end.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import store
from medspectrum.engine.descend import Order, Progress, Rate, descend

if TYPE_CHECKING:
    import torch

KINDS = ("diffusion", "gan")
MEASURED = 4
"""Steps that are timed, after one that is not."""
LEAST_STEPS = 20
AT_ONCE = 64
"""Pictures drawn at once, and kept when they are done: a run that was killed draws the others."""


@dataclass(frozen=True)
class Generator:
    """A trained network, and what makes pictures with it.

    sample: (class indices (n,), seed, progress) -> (n, C, side, side) uint8. steps: it was trained for.
    """

    sample: Callable[..., np.ndarray]
    steps: int
    parameters: int
    bf16: bool


def learn(
    kind: str,
    pictures: np.ndarray,
    labels: np.ndarray,
    classes: int,
    folder: Path,
    *,
    seconds: float,
    steps: int | None = None,
    guidance: float = 2.0,
    batch_cases: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generator:
    """Train a generator, or take it from ``folder`` where the same one lies finished or begun.

    pictures: (n, C, side, side) float32 from -1 to 1. labels: (n,) class indices. seconds: of training
    here, turned into steps once; ``steps`` says them instead. guidance: of the diffusion, see there.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from medspectrum.engine import diffusion, gan

    made = {"diffusion": diffusion.make, "gan": gan.make}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = made(pictures.shape[1], pictures.shape[2], classes, guidance)
    network = parts.network.to(memory_format=torch.channels_last)
    about = store.digest(
        kind, pictures.tobytes(), labels.tobytes(), classes, seconds, steps, batch_cases, seed, "1"
    )
    tensor = torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last)
    answers = torch.from_numpy(labels.astype(np.int64))
    counts = np.bincount(labels, minlength=classes).astype(float)
    share = 1.0 / np.sqrt(counts[labels])  # between each case and each class alike
    order = Order(np.arange(len(labels)), seed, share / share.sum())

    def step_loss_of(own: Any, autocast: Any) -> Callable[[int, Any], Any]:
        def step_loss(step: int, rng: torch.Generator) -> torch.Tensor:
            chosen = torch.from_numpy(order.batch(step, batch_cases))
            with autocast():
                return parts.loss(own, tensor[chosen], answers[chosen], rng)

        return step_loss

    planned = _planned(folder, about, steps, seconds, network, step_loss_of, parts.rate, seed)
    weights = folder / f"{kind}-{about}.safetensors"
    if weights.is_file():
        network.load_state_dict(load_file(weights))
    else:
        descend(
            network,
            step_loss_of(network, _autocast(planned["bf16"])),
            rates=[Rate(list(network.parameters()), parts.rate)],
            steps=planned["steps"],
            about=about,
            average=0.999,
            warm_up=0.05,
            looks=10,
            seed=seed,
            checkpoint=folder / f"{kind}-{about}.pt",
            progress=progress,
        )
        with store.atomic(weights) as partial:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial)
        (folder / f"{kind}-{about}.pt").unlink(missing_ok=True)
    network.eval()

    def sample(wanted: np.ndarray, seed: int, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        found = []
        for begin in range(0, len(wanted), AT_ONCE):
            some = wanted[begin : begin + AT_ONCE]
            named = store.digest(about, guidance, seed, begin, some.tolist())
            found.append(_kept(folder / "made" / f"{named}.npy", lambda s=some, b=begin: drawn(s, [seed, b])))
            if told is not None:
                told(begin + len(some), len(wanted))
        return np.concatenate(found)

    def drawn(some: np.ndarray, start: list[int]) -> np.ndarray:
        rng = torch.Generator().manual_seed(int(np.random.SeedSequence(start).generate_state(1)[0]))
        with torch.inference_mode(), _autocast(planned["bf16"])():
            made = parts.sample(network, torch.from_numpy(some.astype(np.int64)), rng).float()
        return np.rint((made.clamp(-1, 1).numpy() + 1) * 127.5).astype(np.uint8)

    count = sum(p.numel() for p in network.parameters())
    return Generator(sample, planned["steps"], count, planned["bf16"])


@dataclass(frozen=True)
class Parts:
    """A network with its loss and its way to draw. rate: of learning.

    loss: (network, pictures, classes, generator) -> scalar.
    sample: (network, classes, generator) -> pictures.
    """

    network: Any
    loss: Callable[..., Any]
    sample: Callable[..., Any]
    rate: float


def _kept(place: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array read from a file, or made and written there."""
    if place.is_file():
        return np.load(place, allow_pickle=False)
    made = make()
    with store.atomic(place) as partial, partial.open("wb") as opened:
        np.save(opened, made)
    return made


def _autocast(bf16: bool) -> Callable[[], Any]:
    import torch

    return (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else contextlib.nullcontext


def _planned(
    folder: Path,
    about: str,
    steps: int | None,
    seconds: float,
    network: Any,
    step_loss_of: Callable[..., Any],
    rate: float,
    seed: int,
) -> dict[str, Any]:
    """How many steps, and whether in bf16: measured on a copy, or as they were when this training began."""
    place = folder / "training.json"
    if place.is_file():
        kept = store.read_json(place)
        if kept.get("about") == about:
            return kept
    took = {
        bf16: _seconds_a_step(copy.deepcopy(network), step_loss_of, bf16, rate, seed)
        for bf16 in (False, True)
    }
    bf16 = took[True] < 0.9 * took[False]
    fit = max(LEAST_STEPS, int(seconds / took[bf16]))
    planned = {"about": about, "steps": steps or fit, "bf16": bf16, "seconds_a_step": took[bf16]}
    store.write_json(place, planned)
    return planned


def _seconds_a_step(
    network: Any, step_loss_of: Callable[..., Any], bf16: bool, rate: float, seed: int
) -> float:
    import torch

    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), rate, foreach=False)
    loss = step_loss_of(network, _autocast(bf16))
    begun = 0.0
    with torch.random.fork_rng(devices=[]):
        rng = torch.Generator().manual_seed(seed)
        for step in range(MEASURED + 1):
            if step == 1:
                begun = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            loss(step, rng).backward()
            optimiser.step()
    return (time.perf_counter() - begun) / MEASURED

"""Training a network on class indices: prepared pictures in, a trained network out.

``class_loss`` weighs the classes, ``augment`` changes and mixes pictures, ``descend`` does the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import store
from medspectrum.distort import Augment, Mix
from medspectrum.engine.class_loss import class_loss, shares, weights_of
from medspectrum.engine.descend import Fitted, Order, Progress, Rate, descend

if TYPE_CHECKING:
    import torch

MEBIBYTE = 2**20


class Inputs:
    """Prepared pictures by index, kept in memory as float16 up to a bound and read again beyond it.

    load: index -> float32 array, one shape for all. bound_mb: memory for kept pictures.
    """

    def __init__(self, load: Callable[[int], np.ndarray], length: int, *, bound_mb: float = 1024.0) -> None:
        self._load = load
        self._length = length
        self._left = int(bound_mb * MEBIBYTE)
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._length

    def one(self, index: int) -> np.ndarray:
        """One picture as float16: rounded also when it is read anew, so that the bound changes no result."""
        kept = self._kept.get(index)
        if kept is None:
            kept = self._load(index).astype(np.float16)
            if kept.nbytes <= self._left:
                self._left -= kept.nbytes
                self._kept[index] = kept
        return kept

    def take(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Pictures as one float32 batch, channels last in memory where they are 2-D."""
        import torch

        batch = torch.from_numpy(np.stack([self.one(int(i)) for i in indices])).float()
        return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def hold_out(
    targets: np.ndarray, groups: np.ndarray, *, fraction: float, seed: int, least_groups: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Part indices into (training, validation) so that no group stands on both sides.

    Groups are dealt class by class (a group's class is its first case's). Where any class has fewer than
    ``least_groups`` groups nothing is held out: the validation part is empty.
    """
    rng = np.random.default_rng(seed)
    names, first = np.unique(groups, return_index=True)
    group_class = targets[first]
    kinds, counts = np.unique(group_class, return_counts=True)
    everything = np.arange(len(targets))
    if len(kinds) < 2 or len(kinds) < len(np.unique(targets)) or counts.min() < least_groups:
        return everything, everything[:0]
    held: list[Any] = []
    for kind, count in zip(kinds, counts, strict=True):
        members = names[group_class == kind]
        held.extend(rng.permutation(members)[: max(2, round(fraction * count))])
    inside = np.isin(groups, np.array(held))
    if len(np.unique(targets[~inside])) < len(np.unique(targets)):
        return everything, everything[:0]
    return everything[~inside], everything[inside]


def number_of_steps(cases: int, batch_cases: int, *, epochs: float, least_steps: int, most_steps: int) -> int:
    """Steps for so many passes over the cases, within a least (few cases) and a most (many)."""
    return int(min(most_steps, max(least_steps, math.ceil(epochs * cases / batch_cases))))


def fit(
    network: torch.nn.Module,
    inputs: Inputs,
    targets: np.ndarray,
    *,
    classes: int,
    rates: Sequence[Rate],
    steps: int,
    training: np.ndarray | None = None,
    validation: np.ndarray | None = None,
    batch_cases: int = 32,
    loss: str = "balanced",
    sampler: str = "cases",
    smoothing: float = 0.0,
    warm_up: float = 0.1,
    clip: float = 1.0,
    average: float = 0.98,
    looks: int = 4,
    patience: int = 3,
    augment: Augment | None = None,
    mix: Mix | None = None,
    max_seconds: float | None = None,
    frozen_statistics: bool = True,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train the network in place on pictures and their classes; see ``descend`` for what is not named here.

    targets: (n,) class indices. training, validation: indices into them (default: all, none). loss, sampler:
    how rare classes count, and how often they are drawn; see ``class_loss``. smoothing: of the labels, 0 to
    1. mix: of two pictures with both their classes.
    """
    import torch

    training = np.arange(len(targets)) if training is None else training
    held = np.arange(0) if validation is None else validation
    of_batch = class_loss(loss, np.bincount(targets[training], minlength=classes), smoothing=smoothing)
    order = Order(training, seed, shares(sampler, targets[training]))

    def step_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = order.batch(step, batch_cases)
        batch = inputs.take(chosen)
        if augment is not None:
            batch = augment(batch, generator)
        answer = torch.from_numpy(targets[chosen].astype(np.int64))
        done = step / steps
        if mix is None:
            return of_batch(network(batch), answer, done)
        batch, partner, share = mix(batch, generator)
        logits = network(batch)
        return share * of_batch(logits, answer, done) + (1 - share) * of_batch(logits, answer[partner], done)

    def held_out() -> float:
        return _mean_loss(network, inputs, targets, held, classes, batch_cases)

    return descend(
        network,
        step_loss,
        rates=rates,
        steps=steps,
        held_out=held_out if len(held) else None,
        about=store.digest(
            batch_cases,
            loss,
            sampler,
            smoothing,
            mix is not None,
            targets.tobytes(),
            training.tobytes(),
            held.tobytes(),
        ),
        warm_up=warm_up,
        clip=clip,
        average=average,
        looks=looks,
        patience=patience,
        max_seconds=max_seconds,
        frozen_statistics=frozen_statistics,
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )


def logits_of(
    network: torch.nn.Module, inputs: Inputs, indices: np.ndarray, *, batch_cases: int = 32
) -> np.ndarray:
    """What the network says of the pictures, in evaluation mode: (n, outputs) float32."""
    import torch

    network.eval()
    begins = range(0, len(indices), batch_cases)
    with torch.inference_mode():
        found = [network(inputs.take(indices[begin : begin + batch_cases])).numpy() for begin in begins]
    return np.concatenate(found)


def _mean_loss(
    network: Any, inputs: Inputs, targets: np.ndarray, part: np.ndarray, classes: int, batch_cases: int
) -> float:
    """Balanced cross-entropy over a part, the same whatever loss is trained with."""
    logits = logits_of(network, inputs, part, batch_cases=batch_cases).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    true = targets[part]
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(part)), true]
    return float((each * weights_of("balanced", np.bincount(true, minlength=classes))[true]).mean())

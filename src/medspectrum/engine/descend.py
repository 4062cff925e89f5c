"""The only training loop: steps down a loss that the caller computes, and keeps the best averaged weights.

AdamW (Loshchilov and Hutter, 2019) under a warm-up and a cosine, gradients clipped. The weights kept are a
running mean over the steps (Polyak and Juditsky, 1992): with few cases the last step alone depends on which
cases came last. The same seed and number of threads give the same bits on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import store

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
StepLoss = Callable[[int, "torch.Generator"], "torch.Tensor"]
"""(step, generator of random changes) -> the loss of that step's batch, with its graph."""


@dataclass(frozen=True)
class Rate:
    """Parameters that learn at one rate. Vectors (biases, scales) are never decayed."""

    parameters: Sequence[torch.nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0


@dataclass
class Fitted:
    """How the training went. ``best_step`` is the one whose weights the network now has."""

    steps: int = 0
    best_step: int = 0
    wall_seconds: float = 0.0
    stopped: str = "all steps done"
    validation_loss: list[tuple[int, float]] = field(default_factory=list)


def descend(
    network: torch.nn.Module,
    step_loss: StepLoss,
    *,
    rates: Sequence[Rate],
    steps: int,
    held_out: Callable[[], float] | None = None,
    about: str = "",
    warm_up: float = 0.1,
    clip: float = 1.0,
    average: float = 0.98,
    looks: int = 4,
    patience: int = 3,
    max_seconds: float | None = None,
    frozen_statistics: bool = True,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train the network in place; it ends in eval mode with the weights of its best look.

    held_out: the loss on cases that are not learned from. Without it all steps are done and the averaged
    weights of the end are kept; with it, it is looked at ``looks`` times, the best look is kept, and
    ``patience`` looks without gain end the training. The state before the first step counts as a look:
    training can only gain over where it began.
    max_seconds: the steps are cut to what fits, foreseen from the first ones, so that the learning rate still
    runs out. frozen_statistics: batch normalisation keeps its means and variances. checkpoint: a file that is
    written at every look; when it exists and is of this same training (``about`` names the data and loss),
    the training goes on from there.
    """
    import torch

    optimiser = torch.optim.AdamW(_groups(rates), foreach=False)
    begun = [group["lr"] for group in optimiser.param_groups]
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    state = _State(network, trained, frozen_statistics=frozen_statistics)
    fitted = Fitted()
    generator = torch.Generator().manual_seed(seed)
    every = max(1, math.ceil(steps / looks))
    clock = time.perf_counter()
    about = store.digest(about, seed, steps, warm_up, clip, average, looks, patience, begun)

    best, waited, step = math.inf, 0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resumed = _read(checkpoint, about)
        if resumed is not None:
            state.take_back(resumed["weights"])
            optimiser.load_state_dict(resumed["optimiser"])
            generator.set_state(resumed["augment_rng"])
            torch.set_rng_state(resumed["network_rng"])
            step, best, waited = resumed["step"], resumed["best"], resumed["waited"]
            fitted.best_step, fitted.validation_loss = resumed["best_step"], resumed["losses"]
        elif held_out is not None:
            best = held_out()
            fitted.validation_loss.append((0, best))
        while step < steps:
            _to_training(network, frozen_statistics)
            factor = _factor(step, steps, warm_up)
            for group, rate in zip(optimiser.param_groups, begun, strict=True):
                group["lr"] = rate * factor
            value = step_loss(step, generator)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, clip)
            optimiser.step()
            step += 1
            state.average(min(average, (1 + step) / (10 + step)))
            if progress is not None:
                progress("training", step, steps)
            if max_seconds is not None and step == min(5, steps):
                spent = time.perf_counter() - clock
                steps = min(steps, max(step, int(max_seconds / (spent / step))))
                every = max(1, math.ceil(steps / looks))
            late = max_seconds is not None and time.perf_counter() - clock > 1.25 * max_seconds
            if step % every == 0 or step == steps or late:
                if held_out is not None:
                    with state.averaged():
                        found = held_out()
                    fitted.validation_loss.append((step, found))
                    if found < best:
                        best, waited, fitted.best_step = found, 0, step
                        state.keep()
                    else:
                        waited += 1
                else:
                    fitted.best_step = step
                    state.keep()
                if checkpoint is not None:
                    _write(checkpoint, about, {
                        "weights": state.hand_out(), "optimiser": optimiser.state_dict(),
                        "augment_rng": generator.get_state(), "network_rng": torch.get_rng_state(),
                        "step": step, "best": best, "waited": waited,
                        "best_step": fitted.best_step, "losses": fitted.validation_loss,
                    })  # fmt: skip
                if late:
                    fitted.stopped = "time was up"
                    break
                if waited >= patience:
                    fitted.stopped = "no gain on the inner validation part"
                    break
    state.use_kept()
    network.eval()
    fitted.steps, fitted.wall_seconds = step, time.perf_counter() - clock
    return fitted


class Order:
    """Which cases come at which step: each pass is a new shuffle, a function of the seed and step alone.

    shares: chances of the cases, by which a pass draws as many as there are; None: each comes once.
    """

    def __init__(self, cases: np.ndarray, seed: int, shares: np.ndarray | None = None) -> None:
        self.cases, self.seed, self.shares = cases, seed, shares
        self.passes: dict[int, np.ndarray] = {}

    def batch(self, step: int, size: int) -> np.ndarray:
        """The cases of that step, at most ``size`` and no more than there are."""
        size = min(size, len(self.cases))
        begin = step * size
        positions = np.arange(begin, begin + size)
        return np.array([self._at(*divmod(int(p), len(self.cases))) for p in positions])

    def _at(self, turn: int, place: int) -> int:
        if turn not in self.passes:
            self.passes = {k: v for k, v in self.passes.items() if k == turn - 1}
            rng = np.random.default_rng([self.seed, turn])
            self.passes[turn] = (
                rng.permutation(self.cases)
                if self.shares is None
                else rng.choice(self.cases, len(self.cases), p=self.shares)
            )
        return int(self.passes[turn][place])


def _groups(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """Split each rate into matrices, which decay, and vectors, which do not."""
    groups: list[dict[str, Any]] = []
    for rate in rates:
        wanted = [p for p in rate.parameters if p.requires_grad]
        for decay, part in (
            (rate.weight_decay, [p for p in wanted if p.ndim > 1]),
            (0.0, [p for p in wanted if p.ndim <= 1]),
        ):
            if part:
                groups.append({"params": part, "lr": rate.learning_rate, "weight_decay": decay})
    return groups


def _factor(step: int, steps: int, warm_up: float) -> float:
    """Part of the learning rate at a step: up in a line, then down along a half cosine."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _to_training(network: Any, frozen_statistics: bool) -> None:
    import torch

    network.train()
    if frozen_statistics:
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


class _State:
    """The trained parameters and moving statistics three times: now, averaged, and kept as best."""

    def __init__(self, network: Any, trained: list[Any], *, frozen_statistics: bool) -> None:
        import torch

        self.now = [p.data for p in trained]
        if not frozen_statistics:
            for module in network.modules():
                if (
                    isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
                    and module.running_mean is not None
                ):
                    self.now += [module.running_mean, module.running_var]
        self.mean = [t.clone() for t in self.now]
        self.best = [t.clone() for t in self.now]

    def average(self, decay: float) -> None:
        for mean, now in zip(self.mean, self.now, strict=True):
            mean.lerp_(now, 1 - decay)

    def averaged(self) -> _Swapped:
        return _Swapped(self.now, self.mean)

    def keep(self) -> None:
        _copy(self.best, self.mean)

    def use_kept(self) -> None:
        _copy(self.now, self.best)

    def hand_out(self) -> dict[str, list[Any]]:
        return {"now": self.now, "mean": self.mean, "best": self.best}

    def take_back(self, found: dict[str, list[Any]]) -> None:
        for name, mine in self.hand_out().items():
            _copy(mine, found[name])


class _Swapped:
    """Inside the block the network has the other weights."""

    def __init__(self, now: list[Any], other: list[Any]) -> None:
        self.now, self.other = now, other

    def __enter__(self) -> None:
        self.held = [t.clone() for t in self.now]
        _copy(self.now, self.other)

    def __exit__(self, *_: object) -> None:
        _copy(self.now, self.held)


def _copy(into: list[Any], source: list[Any]) -> None:
    for a, b in zip(into, source, strict=True):
        a.copy_(b)


def _write(path: Path, about: str, content: dict[str, Any]) -> None:
    import torch

    with store.atomic(path) as partial:
        torch.save({"about": about, **content}, partial)


def _read(path: Path | None, about: str) -> dict[str, Any] | None:
    import torch

    if path is None or not path.is_file():
        return None
    found = torch.load(path, weights_only=True, map_location="cpu")
    return found if found.get("about") == about else None

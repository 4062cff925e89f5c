"""The only training loop: a network, prepared pictures and class indices in; a trained network out.

AdamW (Loshchilov and Hutter, 2019) under a warm-up and a cosine, gradients clipped, the loss weighted so
that every class counts the same. The weights kept are a running mean over the steps (Polyak and Juditsky,
1992): with few cases the last step alone depends on which cases came last. The same seed and number of
threads give the same bits on a CPU.
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

Augment = Callable[["torch.Tensor", "torch.Generator"], "torch.Tensor"]
Progress = Callable[[str, int, int], None]
LOSSES = ("balanced", "plain", "focal")
FOCAL_GAMMA = 2.0  # the value of Lin et al., 2017
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


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) float32: every class present weighs the same in sum, their mean over cases is 1."""
    counts = np.bincount(targets, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


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
    smoothing: float = 0.0,
    warm_up: float = 0.1,
    clip: float = 1.0,
    average: float = 0.98,
    looks: int = 4,
    patience: int = 3,
    augment: Augment | None = None,
    max_seconds: float | None = None,
    frozen_statistics: bool = True,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train the network in place; it ends in eval mode with the weights of its best look.

    targets: (n,) class indices. training, validation: indices into them (default: all, none). Without a
    validation part all steps are done and the averaged weights of the end are kept; with one, its loss is
    looked at ``looks`` times, the best look is kept, and ``patience`` looks without gain end the training.
    The state before the first step counts as a look: training can only gain over where it began.
    max_seconds: the steps are cut to what fits, foreseen from the first ones, so that the learning rate still
    runs out. frozen_statistics: batch normalisation keeps its means and variances. checkpoint: a file that is
    written at every look; when it exists and is of this same training, the training goes on from there.
    """
    import torch

    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is none of {', '.join(LOSSES)}")
    training = np.arange(len(targets)) if training is None else training
    validation = np.arange(0) if validation is None else validation
    weights = torch.from_numpy(class_weights(targets[training], classes))
    optimiser = torch.optim.AdamW(_groups(rates), foreach=False)
    begun = [group["lr"] for group in optimiser.param_groups]
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    state = _State(network, trained, frozen_statistics=frozen_statistics)
    fitted = Fitted()
    generator = torch.Generator().manual_seed(seed)
    every = max(1, math.ceil(steps / looks))
    order = _Order(training, seed)
    clock = time.perf_counter()
    about = store.digest(seed, steps, batch_cases, loss, smoothing, warm_up, clip, average, looks, patience)
    about = store.digest(about, begun, targets.tobytes(), training.tobytes(), validation.tobytes())

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
        elif len(validation):
            best = _mean_loss(network, inputs, targets, validation, classes, batch_cases)
            fitted.validation_loss.append((0, best))
        while step < steps:
            _to_training(network, frozen_statistics)
            factor = _factor(step, steps, warm_up)
            for group, rate in zip(optimiser.param_groups, begun, strict=True):
                group["lr"] = rate * factor
            chosen = order.batch(step, batch_cases)
            batch = inputs.take(chosen)
            if augment is not None:
                batch = augment(batch, generator)
            logits = network(batch)
            answer = torch.from_numpy(targets[chosen].astype(np.int64))
            value = _loss(logits, answer, weights if loss != "plain" else None, smoothing, loss == "focal")
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
                if len(validation):
                    with state.averaged():
                        found = _mean_loss(network, inputs, targets, validation, classes, batch_cases)
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


def _loss(logits: Any, answer: Any, weights: Any, smoothing: float, focal: bool) -> Any:
    """Cross-entropy, divided by the number of cases so that a rare class's batch is not scaled back down."""
    import torch.nn.functional as F

    each = F.cross_entropy(logits, answer, label_smoothing=smoothing, reduction="none")
    if focal:
        each = each * (1 - logits.softmax(1).gather(1, answer[:, None])[:, 0]) ** FOCAL_GAMMA
    return (each if weights is None else each * weights[answer]).mean()


def _mean_loss(
    network: Any, inputs: Inputs, targets: np.ndarray, part: np.ndarray, classes: int, batch_cases: int
) -> float:
    """Balanced cross-entropy over a part, the same whatever loss is trained with."""
    logits = logits_of(network, inputs, part, batch_cases=batch_cases).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    true = targets[part]
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(part)), true]
    return float((each * class_weights(true, classes)[true]).mean())


def _to_training(network: Any, frozen_statistics: bool) -> None:
    import torch

    network.train()
    if frozen_statistics:
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


class _Order:
    """Which cases come at which step: each pass is a new shuffle, a function of the seed and step alone."""

    def __init__(self, cases: np.ndarray, seed: int) -> None:
        self.cases, self.seed = cases, seed
        self.passes: dict[int, np.ndarray] = {}

    def batch(self, step: int, size: int) -> np.ndarray:
        size = min(size, len(self.cases)) if len(self.cases) < size else size
        begin = step * size
        positions = np.arange(begin, begin + size)
        return np.array([self._at(*divmod(int(p), len(self.cases))) for p in positions])

    def _at(self, turn: int, place: int) -> int:
        if turn not in self.passes:
            self.passes = {k: v for k, v in self.passes.items() if k == turn - 1}
            self.passes[turn] = np.random.default_rng([self.seed, turn]).permutation(self.cases)
        return int(self.passes[turn][place])


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

"""What all methods that change a network share: the way from the linear probe on, and the predictor.

Every method starts where the linear probe ends (Kumar et al., "Fine-tuning can distort pretrained features",
ICLR 2022): the head is that probe, so the first step does not tear up what the network knows, and with a
handful of cases the result stays close to the probe. A method says what may change in the network by one
function, ``change(network, encoder, **structure)``; all the rest is here.
"""

from __future__ import annotations

import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from medspectrum import augment as augmentation
from medspectrum import distort as distortion
from medspectrum.case import Case, Task
from medspectrum.engine import class_loss, eager, openvino, solvers, train
from medspectrum.errors import UserError
from medspectrum.methods import _structure, linear_probe
from medspectrum.methods._features import mean_features
from medspectrum.methods._head import Labelled
from medspectrum.methods._scale import scale_features

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

Change = Callable[..., None]
"""(network, encoder, **structure): freezes, adds parts, and marks by ``requires_grad`` what learns."""

MOST_PICTURES = 8  # pictures of one case that are trained and predicted on: slices, views
VALIDATION_FRACTION = 0.15
MOST_VALIDATION_CASES = 400  # more would cost time at every look and decide little
CAUTIOUS_BELOW = 200
"""Labelled cases: with fewer, the learning rates fall with the root of their number, as the gradient's
direction is known that much worse and AdamW's steps do not shrink with it."""
LEAST_PATIENTS_TO_HOLD_OUT = 30  # per class; below, an inner validation part says little and costs much


class Training(TypedDict, total=False):
    """Settings that every tuning method takes; the defaults are those of ``tune``.

    head_learning_rate: peak, for the head. weight_decay: of matrices. epochs: passes over the labelled cases,
    within ``least_steps`` and ``most_steps`` steps of ``batch_cases``. loss: balanced, plain, focal,
    effective, adjusted or ldam; sampler: cases, classes or root (see ``engine.class_loss``). retrain_head:
    fit the head anew, balanced, on what the tuned network says of the labelled cases (decoupled training;
    Kang et al., ICLR 2020). smoothing: of the labels, 0 to 1. augment: small random changes by modality.
    distort: further ones, as an apparatus makes them: names joined by + (see ``augment.DISTORTIONS``), or
    modality for those that fit it. mix: none, mixup or cutmix. mirrored: predict on the picture and its
    mirror image. max_seconds: the steps are cut to what fits in there.
    """

    head_learning_rate: float
    weight_decay: float
    epochs: float
    least_steps: int
    most_steps: int
    batch_cases: int
    loss: str
    sampler: str
    retrain_head: bool
    smoothing: float
    augment: bool
    distort: str
    mix: str
    mirrored: bool
    max_seconds: float | None


@dataclass(frozen=True)
class TunedPredictor:
    """A network with a head, as ``case.Predictor``: holds what was trained, and runs it by the engine."""

    classes: tuple[str, ...]
    trained_parameters: int
    encoder: Encoder
    module: Any
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    _ready: list[Any] = field(default_factory=list, compare=False)

    def predict(self, cases: Sequence[Case]) -> np.ndarray:
        """(n, k) float64 probabilities, rows sum to 1; a class without labelled cases gets 0."""
        present = self.settings["present"]
        logits = np.zeros((len(cases), len(present)))
        if not self._ready:
            self._ready.append(runner(self.module, self._shape()))
        jobs = ((i, self._input(case)) for i, case in enumerate(cases))

        def done(place: int, outputs: list[np.ndarray]) -> None:
            logits[place] = outputs[0]

        self._ready[0].run(jobs, done)
        logits -= logits.max(axis=1, keepdims=True)
        likely = np.exp(logits)
        probabilities = np.zeros((len(cases), len(self.classes)))
        probabilities[:, present] = likely / likely.sum(axis=1, keepdims=True)
        return probabilities

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What was trained, by the network's own names, and what was set."""
        return dict(self.arrays), dict(self.settings)

    def _input(self, case: Case) -> np.ndarray:
        return pictures(self.encoder, case, self.settings["pictures"])

    def _shape(self) -> tuple[int, ...]:
        channels, side = len(self.encoder.card.mean), self.encoder.size[0]
        count = self.settings["pictures"]
        return (1, count, channels, side, side) if count > 1 else (1, channels, side, side)


def tune(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    change: Change,
    *,
    structure: dict[str, Any],
    seed: int,
    learning_rate: float,
    from_probe: bool = True,
    frozen_statistics: bool = True,
    head_learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    epochs: float = 4.0,
    least_steps: int = 30,
    most_steps: int = 200,
    batch_cases: int = 32,
    loss: str = "balanced",
    sampler: str = "cases",
    retrain_head: bool = False,
    smoothing: float = 0.05,
    augment: bool = True,
    distort: str = "",
    mix: str = "none",
    mirrored: bool = False,
    max_seconds: float | None = None,
) -> TunedPredictor:
    """Adapt the network to the labelled cases. ``Training`` says what its settings mean.

    structure: the settings of ``change``. from_probe: start the head as the linear probe on the unchanged
    network, else at zero. frozen_statistics: batch normalisation keeps its means and variances.
    Raises UserError where there is no labelled case, or where the model is not a 2-D network.
    """
    import torch

    if not cases:
        raise UserError("tuning needs labelled cases; this labelled set is empty")
    _check_names(loss, sampler, distort, mix)
    if getattr(model, "network", None) is None or model.card.dims != 2:
        raise UserError(f"{model.card.name} is no 2-D network that can be tuned; use linear_probe or ridge")
    named = np.array([task.target(case) for case in cases])
    present, targets = np.unique(named, return_inverse=True)
    groups = np.unique([case.patient for case in cases], return_inverse=True)[1]
    count = _pictures_per_case(model, cases)
    settings = {
        "structure": structure, "present": [int(p) for p in present], "pictures": count,
        "mirrored": mirrored, "classes": list(task.classes), "seed": seed,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _assemble(model, change, settings)
    training, validation = train.hold_out(
        targets,
        groups,
        fraction=min(VALIDATION_FRACTION, MOST_VALIDATION_CASES / len(cases)),
        seed=seed,
        least_groups=LEAST_PATIENTS_TO_HOLD_OUT,
    )
    if from_probe:
        # not on the held-out part, or the start would look better there than it is
        _start_from_probe(module, model, [cases[i] for i in training], targets[training], present, seed)
    settings["steps"] = 0
    if len(present) > 1:
        inputs = train.Inputs(lambda i: pictures(model, cases[i], count), len(cases))
        if not from_probe:
            _centre_features(module, inputs, targets)
        trust = min(1.0, (len(cases) / CAUTIOUS_BELOW) ** 0.5) if from_probe else 1.0
        body = [p for n, p in module.named_parameters() if p.requires_grad and not n.startswith("head.")]
        fitted = train.fit(
            module,
            inputs,
            targets,
            classes=len(present),
            rates=[
                train.Rate(body, trust * learning_rate, weight_decay),
                train.Rate(list(module.head.parameters()), trust * head_learning_rate, weight_decay),
            ],
            steps=train.number_of_steps(
                len(training), batch_cases, epochs=epochs, least_steps=least_steps, most_steps=most_steps
            ),
            training=training,
            validation=validation,
            batch_cases=batch_cases,
            loss=loss,
            sampler=sampler,
            smoothing=smoothing,
            augment=_augment_of(cases, gentle=augment, distort=distort),
            mix=distortion.mixing(mix),
            max_seconds=max_seconds,
            frozen_statistics=frozen_statistics,
            seed=seed,
        )
        settings["steps"] = fitted.best_step
        if retrain_head:
            seen = _features_of(module, inputs, training)
            people = [cases[i].patient for i in training]
            mean, factor = _set_standard(module, seen, targets[training])
            _set_head(module, seen, targets[training], people, seed, mean, factor)
    return _predictor(model, module, settings, statistics=not frozen_statistics)


def facts(**changed: Unpack[Training]) -> dict[str, Any]:
    """What the registry knows of a tuning method: ``shared``, its training settings with their defaults, and
    ``pictures_seen``, (labels, settings) -> the pictures that its steps will look at.
    """
    defaults = {n: p.default for n, p in inspect.signature(tune).parameters.items()}
    shared: dict[str, Any] = {n: defaults[n] for n in Training.__annotations__} | dict(changed)

    def pictures_seen(labels: int, settings: Mapping[str, Any]) -> int:
        chosen = {**shared, **settings}
        steps = train.number_of_steps(
            labels,
            chosen["batch_cases"],
            epochs=chosen["epochs"],
            least_steps=chosen["least_steps"],
            most_steps=chosen["most_steps"],
        )
        return steps * min(labels, chosen["batch_cases"])

    return {"shared": shared, "pictures_seen": pictures_seen}


FACTS = facts()


def restore(
    change: Change, model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> TunedPredictor:
    """The predictor that was saved: the model's own network, changed as before, with the saved arrays in it.

    Raises UserError where the arrays are not those of this network.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        module = _assemble(model, change, settings)
    mine = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, array in arrays.items():
            if name not in mine or tuple(mine[name].shape) != array.shape:
                raise UserError(
                    f"the saved part {name} {array.shape} does not fit {model.card.name}; "
                    "give the model this predictor was made with"
                )
            mine[name].copy_(torch.from_numpy(np.array(array)))
    module.eval()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    classes = tuple(settings["classes"])
    return TunedPredictor(classes, trained, model, module, dict(arrays), dict(settings))


def pictures(encoder: Encoder, case: Case, count: int) -> np.ndarray:
    """A case's prepared input: (C, H, W), or (count, C, H, W) evenly chosen among its slices and views.

    Where a case has fewer than ``count`` pictures some come twice.
    """
    stack: list[np.ndarray] = []
    for role in sorted(case.images):
        made = encoder.prepare(case.images[role].load())
        stack.extend(made if made.ndim == 4 else [made])
    if count == 1:
        return stack[len(stack) // 2]
    chosen = np.linspace(0, len(stack) - 1, count).round().astype(int)
    return np.stack([stack[i] for i in chosen])


def _pictures_per_case(encoder: Encoder, cases: Sequence[Case]) -> int:
    """How many pictures each case is seen by: the most that one has, at most ``MOST_PICTURES``."""
    most = 1
    for case in cases[:16]:
        found = 0
        for image in case.images.values():
            read = image.load()
            found += encoder.prepare(read).shape[0] if read.is_volume else 1
        most = max(most, found)
    return min(most, MOST_PICTURES)


def _check_names(loss: str, sampler: str, distort: str, mix: str) -> None:
    """Raises UserError where a setting is a name that is not known."""
    known = set(distortion.DISTORTIONS)
    for name, given, allowed in (
        ("loss", {loss}, set(class_loss.LOSSES)),
        ("sampler", {sampler}, set(class_loss.SAMPLERS)),
        ("mix", {mix}, set(distortion.MIXES)),
        ("distort", set(filter(None, distort.split("+"))), known if distort != "modality" else {"modality"}),
    ):
        if given - allowed:
            raise UserError(
                f"{name} is one of {', '.join(sorted(allowed))}, not {', '.join(given - allowed)}"
            )


def _augment_of(cases: Sequence[Case], *, gentle: bool, distort: str) -> train.Augment | None:
    """The augmentation for the modality that most cases have; None where nothing is to change."""
    if not gentle and not distort:
        return None
    seen = Counter(image.load().modality for case in cases[:16] for image in case.images.values())
    change = augmentation.chosen(seen.most_common(1)[0][0], gentle=gentle, distort=distort)

    def each_picture(batch: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        if batch.ndim == 4:
            return change(batch, rng)
        return change(batch.flatten(0, 1), rng).reshape(batch.shape)

    return each_picture


def _assemble(model: Encoder, change: Change, settings: dict[str, Any]) -> Any:
    """Network and head as one module: pictures -> mean features -> standardised -> logits."""
    import torch

    network = model.network()
    change(network, model, **settings["structure"])
    outputs, mirrored = len(settings["present"]), settings["mirrored"]

    class Tuned(torch.nn.Module):
        feature_mean: torch.Tensor
        feature_scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.head = torch.nn.Linear(model.card.width, outputs)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
            self.register_buffer("feature_mean", torch.zeros(model.card.width))
            self.register_buffer("feature_scale", torch.ones(model.card.width))

        def features(self, batch: torch.Tensor) -> torch.Tensor:
            if batch.ndim == 5:
                seen = self.network(batch.flatten(0, 1))
                return seen.reshape(batch.shape[0], batch.shape[1], -1).mean(1)
            return self.network(batch)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen = self.features(batch)
            if mirrored and not self.training:
                seen = (seen + self.features(batch.flip(-1))) / 2
            return self.head((seen - self.feature_mean) * self.feature_scale)

    return Tuned().eval().to(memory_format=torch.channels_last)


def _set_standard(module: Any, features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale the features before the head, as the linear probe does; gives mean and factor."""
    import torch

    balanced = solvers.class_weights(targets, int(targets.max()) + 1)
    mean, factor = scale_features(features, targets, balanced)
    module.feature_mean.copy_(torch.from_numpy(mean.astype(np.float32)))
    module.feature_scale.copy_(torch.from_numpy(factor.astype(np.float32)))
    return mean, factor


def _centre_features(module: Any, inputs: train.Inputs, targets: np.ndarray) -> None:
    """The same for a network whose features are not in the cache, from at most 256 cases."""
    import torch

    some = np.random.default_rng(0).permutation(len(inputs))[:256]
    with torch.inference_mode():
        seen = torch.cat([module.features(inputs.take([place])) for place in some])
    _set_standard(module, seen.numpy().astype(np.float64), np.unique(targets[some], return_inverse=True)[1])


def _start_from_probe(
    module: Any, model: Encoder, cases: Sequence[Case], targets: np.ndarray, present: np.ndarray, seed: int
) -> None:
    """Put the linear probe on the unchanged network's features into the head."""
    features = mean_features(model, cases)
    mean, factor = _set_standard(module, features, targets)
    if len(present) < 2:
        return
    _set_head(module, features, targets, [case.patient for case in cases], seed, mean, factor)


def _features_of(module: Any, inputs: train.Inputs, places: np.ndarray) -> np.ndarray:
    """(n, d) float64: what the network says of these cases' pictures, before they are standardised."""
    import torch

    module.eval()
    with torch.inference_mode():
        seen = [module.features(inputs.take(places[i : i + 32])) for i in range(0, len(places), 32)]
    return torch.cat(seen).numpy().astype(np.float64)


def _set_head(
    module: Any,
    features: np.ndarray,
    targets: np.ndarray,
    patients: list[str],
    seed: int,
    mean: np.ndarray,
    factor: np.ndarray,
) -> None:
    """The head becomes the linear probe on these features, which are standardised by mean and factor."""
    import torch

    present = np.unique(targets)
    given = Labelled(features.astype(np.float32), targets, present, patients, ())
    weights, intercepts, _ = linear_probe.fit_logistic(given, None, seed)
    bias = intercepts + mean @ weights
    weight = weights.T / factor
    if len(present) == 2:  # one logit for the second class, shared between the two outputs
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        module.head.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
        module.head.bias.copy_(torch.from_numpy(bias.astype(np.float32)))


def _predictor(model: Encoder, module: Any, settings: dict[str, Any], *, statistics: bool) -> TunedPredictor:
    learned = {n: p for n, p in module.named_parameters() if p.requires_grad}
    kept = {**learned, "feature_mean": module.feature_mean, "feature_scale": module.feature_scale}
    if statistics:
        kept.update({n: b for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))})
    arrays = {n: np.array(t.detach().numpy(), order="C") for n, t in kept.items()}
    trained = sum(p.numel() for p in learned.values())
    return TunedPredictor(tuple(settings["classes"]), trained, model, module, arrays, settings)


def runner(module: Any, shape: tuple[int, ...]) -> Any:
    """The module ready to run: by OpenVINO, or by torch where that cannot convert it."""
    merged = _structure.merged(module).eval()
    streams = openvino.processors()
    with tempfile.TemporaryDirectory(prefix="medspectrum-") as folder:
        try:
            openvino.convert(merged, shape, Path(folder) / "tuned")
            return openvino.Compiled(Path(folder) / "tuned", precision="f32", streams=streams)
        except Exception:  # noqa: BLE001 - converters raise anything; torch takes over
            return eager.Eager(merged, streams=streams)

"""What methods share that change the encoder itself to tell things apart: from the frozen decoder on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, Task
from medspectrum.engine import apart
from medspectrum.engine.descend import Rate
from medspectrum.engine.readout import level_module
from medspectrum.engine.train import Inputs
from medspectrum.errors import UserError
from medspectrum.methods import _apart, _dense, distance_decoder

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder

AIM = distance_decoder.AIM
FACTS = _apart.facts(epochs=3.0, least_steps=60, most_steps=250, learning_rate=5e-4)


def tune(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    change: Callable[..., None],
    *,
    structure: dict[str, Any],
    seed: int,
    encoder_learning_rate: float,
    mirrored: bool,
    training: _apart.Training,
) -> _apart.ApartPredictor:
    """Train the decoder alone, then with what ``change`` opens in the encoder; see ``_apart.Training``."""
    chosen: dict[str, Any] = {**FACTS["shared"], **training}
    if getattr(model, "network", None) is None or model.card.dims != 2:
        raise UserError(f"{model.card.name} is no 2-D network that can be tuned; use distance_decoder")
    limits = {n: chosen[n] for n in ("least_steps", "most_steps")}
    begun = distance_decoder.distance_decoder(model, cases, task, seed=seed, **limits)  # type: ignore[arg-type]
    settings = {**begun.settings, "structure": structure, "mirrored": mirrored}
    module = _assemble(model, change, settings)
    _apart.load_weights(module.decoder, begun.arrays, model.card.name)
    side = _apart.side_of(task)
    learnt, held = _apart.hold_out(cases, seed)
    given = _apart.labelled_tiles([cases[i] for i in learnt], task, side, AIM)
    flat = [tile for own in given for tile in own]
    place = {id(tile): i for i, tile in enumerate(flat)}
    inputs = Inputs(lambda i: _dense.pictures(model, [flat[i].images])[0].numpy(), len(flat))
    body = [p for n, p in module.named_parameters() if p.requires_grad and not n.startswith("decoder.")]
    head = [p for p in module.decoder.parameters() if p.requires_grad]
    settings["steps"] = _apart.learn(
        module,
        given,
        lambda some: (inputs.take([place[id(tile)] for tile in some]),),
        kinds=len(task.classes),
        aim=AIM,
        rates=[
            Rate(body, encoder_learning_rate, chosen["weight_decay"]),
            Rate(head, chosen["learning_rate"], chosen["weight_decay"]),
        ],
        steps=_apart.number_of_steps(len(given), chosen),
        seed=seed,
        moved=True,
    )
    module.eval()
    rule = _apart.chosen_rule(_answer(model, module, mirrored=mirrored), [cases[i] for i in held], task, AIM)
    learned = {n for n, p in module.named_parameters() if p.requires_grad}
    arrays = {n: a for n, a in _apart.kept_arrays(module).items() if n in learned or n.startswith("decoder.")}
    return _predictor(model, module, settings, rule, arrays)


def restore(
    change: Callable[..., None], model: Encoder, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> _apart.ApartPredictor:
    """The predictor that was saved. Raises UserError where the arrays are not those of this network."""
    module = _assemble(model, change, settings)
    _apart.load_weights(module, arrays, f"{model.card.name}; give the model this predictor was made with")
    return _predictor(model, module.eval(), settings, apart.Rule(**settings["rule"]), dict(arrays))


def _predictor(
    model: Encoder, module: Any, settings: dict[str, Any], rule: apart.Rule, arrays: dict[str, np.ndarray]
) -> _apart.ApartPredictor:
    return _apart.ApartPredictor(
        tuple(settings["classes"]),
        sum(p.numel() for p in module.parameters() if p.requires_grad),
        _answer(model, module, mirrored=settings["mirrored"]),
        settings["side"],
        AIM,
        rule,
        arrays,
        settings,
    )


def _answer(model: Encoder, module: Any, *, mirrored: bool) -> _apart.Answer:
    return _apart.mirrored_answer(module, lambda images: _dense.pictures(model, images), mirrored=mirrored)


def _assemble(model: Encoder, change: Callable[..., None], settings: dict[str, Any]) -> Any:
    """Pictures (n, C, side, side) -> scores at half the side; several roles stand along C."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        network = model.network()
        change(network, model, **settings["structure"])
    seen = level_module(network, _dense.LEVEL)
    own = len(model.card.mean)
    roles = settings["image_channels"] // own
    made = distance_decoder.network(settings, model.size[-1])

    class Apart(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = seen
            self.decoder = made

        def train(self, mode: bool = True) -> Apart:
            super().train(mode)
            self.encoder.eval()  # its statistics are of far more pictures than these
            return self

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            by_role = [self.encoder(batch[:, own * r : own * (r + 1)]) for r in range(roles)]
            maps = [torch.cat(parts, dim=1) for parts in zip(*by_role, strict=True)]
            return self.decoder(maps, batch)

    return Apart().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

"""What may be done at a new centre without a single new label: four remedies, one function each.

* ``harmonise``: intensities or colours of the centre's images follow those learned from (``appearance``). One
  map for all of its images, so that what makes an image differ from its neighbours stays.
* ``align_features``: mean and spread of each frozen feature over the centre become those learned from:
  ComBat's location and scale (Johnson et al., Biostatistics 8:118, 2007), drawn to no change as by
  ``PRIOR_CASES`` cases more. It takes for granted that classes are as common as they were.
* ``batch_statistics``: batch norms take means and variances from the centre's images, mixed with those they
  have as from ``PRIOR_CASES`` images more (Schneider et al., "Improving robustness against common corruptions
  by covariate shift adaptation", NeurIPS 2020). Where a network kept the statistics of its pretraining while
  its head was trained, they move by as much as the centre's differ from those of cases learned from, which
  have to be in the data for it.
* ``entropy``: after that, scale and shift of the norms descend the answers' entropy for one pass (Tent: Wang
  et al., ICLR 2021).

Settings are those of the papers and were not chosen on any data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medspectrum import registry
from medspectrum.appearance import Change, change_between, evenly, intensities
from medspectrum.case import Case, Features, LazyImage, LeftOut
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.methods._features import mean_features
from medspectrum.reference import Reference
from medspectrum.store import digest

PRIOR_CASES = 16.0
BATCH = 16
ENTROPY_RATE = 1e-3
MOST_IMAGES = 96  # of a centre that norms are adapted to, and learned from that they are compared with


@dataclass(frozen=True)
class Adapted:
    """A predictor as it can be made again on a changed model: its method and what it learned."""

    method: str
    model: Any
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]

    @classmethod
    def of(cls, method: str, model: Any, predictor: Any) -> Adapted:
        """Take a predictor apart."""
        arrays, settings = predictor.state()
        return cls(method, model, arrays, settings)

    def on(self, model: Any) -> Any:
        """The same predictor on another model."""
        given = {**self.settings}
        return registry.find("method", self.method).facts["restore"](model, dict(self.arrays), given)

    @property
    def reads_pooled(self) -> bool:
        """Whether it is a head on frozen pooled features."""
        facts = registry.find("method", self.method).facts
        return (
            self.model is not None
            and facts.get("trains") in ("head", "nothing")
            and facts.get("task", "classify") == "classify"
        )


@dataclass(frozen=True)
class Unlabelled:
    """A centre's cases, whose labels nobody looks at, with what is remembered of those learned from.

    learned: some of those, where they are at hand.
    """

    cases: Sequence[Case]
    reference: Reference
    learned: Sequence[Case] = ()
    seed: int = 0


Remedy = Callable[[Adapted, Unlabelled], Any]
"""Gives predictions of the cases. Raises UserError where it cannot serve."""


def harmonise(adapted: Adapted, here: Unlabelled) -> Any:
    """Intensities or colours follow those learned from."""
    moved = _followed(here.cases, _change(here.cases, here.reference.arrays))
    return adapted.on(adapted.model).predict(moved)


def _change(cases: Sequence[Case], there: Mapping[str, np.ndarray]) -> Change:
    own = intensities([image for case in cases for image in case.images.values()])
    change = change_between(own, there)
    if change is None:
        raise UserError("harmonising needs images of the kind learned from, grey or in colour")
    return change


def _followed(cases: Sequence[Case], change: Change) -> list[Case]:
    """The cases whose images are changed when they are read."""
    name = digest("harmonised", *(np.round(a, 9).tolist() for a in change.args))

    def of(lazy: LazyImage) -> LazyImage:
        return LazyImage(
            f"{lazy.source}#harmonised", partial(_changed, lazy, change), partial(digest, lazy.key(), name)
        )

    return [replace(case, images={role: of(lazy) for role, lazy in case.images.items()}) for case in cases]


def _changed(lazy: LazyImage, change: Change) -> Image:
    return change(lazy.load())


@dataclass(frozen=True)
class Seen:
    """A model whose pooled features come from elsewhere: of the images asked for, by ``rows``."""

    model: Any
    rows: Callable[[Sequence[LazyImage]], np.ndarray]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def embed(self, images: Sequence[LazyImage], level: str = "pooled") -> Features:
        """Pooled features; nothing else is served."""
        if level != "pooled":
            raise UserError("only pooled features are changed")
        return Features(np.asarray(self.rows(images), np.float32))

    def ensure(self, *_: Any, **__: Any) -> list[LeftOut]:
        """Nothing is kept."""
        return []


def align_features(adapted: Adapted, here: Unlabelled) -> Any:
    """Mean and spread of the frozen features become those learned from."""
    if not adapted.reads_pooled:
        raise UserError("only heads on frozen features can be given aligned ones")
    reference = here.reference
    if not reference.has("feature_mean"):
        raise UserError("the predictor was trained on too few cases to know how its features lie")
    mean, spread = (reference[f"feature_{n}"].astype(np.float64) for n in ("mean", "spread"))
    rows_here = mean_features(adapted.model, here.cases)
    weight = len(rows_here) / (len(rows_here) + PRIOR_CASES)
    own_mean = weight * rows_here.mean(axis=0) + (1 - weight) * mean
    own_spread = np.sqrt(weight * rows_here.var(axis=0) + (1 - weight) * spread**2)
    scale = np.where(own_spread > 1e-9, spread / np.maximum(own_spread, 1e-9), 1.0)

    def rows(images: Sequence[LazyImage]) -> np.ndarray:
        return (
            np.asarray(adapted.model.embed(images, "pooled").pooled, np.float64) - own_mean
        ) * scale + mean

    return adapted.on(Seen(adapted.model, rows)).predict(here.cases)


def batch_statistics(adapted: Adapted, here: Unlabelled) -> Any:
    """Batch norms take their statistics from the centre's images."""
    return _with_norms(adapted, here, entropy=False)


def entropy(adapted: Adapted, here: Unlabelled) -> Any:
    """Norms descend the entropy of the answers."""
    return _with_norms(adapted, here, entropy=True)


REMEDIES: dict[str, Remedy] = {
    "harmonise": harmonise,
    "align_features": align_features,
    "batch_statistics": batch_statistics,
    "entropy": entropy,
}


def chosen(names: str) -> tuple[str, ...]:
    """Remedies named by the user, ``none``, or all where empty. Raises UserError for an unknown name."""
    asked = tuple(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    if asked == ("none",):
        return ()
    unknown = [n for n in asked if n not in REMEDIES]
    if unknown:
        raise UserError(f"there is no remedy {unknown[0]!r}; there are {', '.join(REMEDIES)}, and none")
    return asked or tuple(REMEDIES)


def _with_norms(adapted: Adapted, here: Unlabelled, *, entropy: bool) -> Any:
    """Predictions once the network's norms were adapted to these cases."""
    from medspectrum.engine import norms

    if adapted.model is None or getattr(adapted.model, "network", None) is None:
        raise UserError("there is no network whose norms could be adapted")
    if adapted.model.card.dims != 2:
        raise UserError("norms are adapted in 2-D networks only")
    predictor = adapted.on(adapted.model)
    module = getattr(predictor, "module", None)
    learned = evenly(here.learned, MOST_IMAGES)
    if module is not None:
        if not hasattr(predictor, "_input"):
            raise UserError("norms are adapted in networks that classify only")
        inputs = [predictor._input(case) for case in here.cases]
        if inputs[0].ndim != 3:
            raise UserError("norms are adapted in tuned networks where each case is one picture only")
        own = any("running_mean" in name for name in adapted.arrays)
        before = None if own else [predictor._input(case) for case in learned]
        _adapt(norms, module, inputs, before, None, here.seed, entropy=entropy)
        return norms.probabilities_by(module, inputs, predictor.settings["present"], len(predictor.classes))
    if not adapted.reads_pooled:
        raise UserError("norms are adapted under heads on pooled features and in tuned networks only")
    network = adapted.model.network()
    prepared = _prepared(adapted.model, here.cases)
    stacks = list(prepared.values())
    head = norms.linear_head(predictor) if entropy else None
    if entropy and head is None:
        raise UserError("entropy descends through linear heads and tuned networks only")
    before = list(_prepared(adapted.model, learned).values())
    _adapt(norms, network, stacks, before, head, here.seed, entropy=entropy)
    kept = dict(zip(prepared, norms.pooled(network, stacks), strict=True))
    seen = Seen(adapted.model, lambda images: np.stack([kept[i.key()] for i in images]))
    return adapted.on(seen).predict(here.cases)


def _prepared(model: Any, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Each image's slices as the network takes them, by the image's key."""
    made = {im.key(): model.prepare(im.load()) for c in cases for im in c.images.values()}
    return {key: one if one.ndim == 4 else one[None] for key, one in made.items()}


def _adapt(
    norms: Any,
    network: Any,
    stacks: Sequence[np.ndarray],
    learned: Sequence[np.ndarray] | None,
    head: Any,
    seed: int,
    *,
    entropy: bool,
) -> None:
    """learned: images learned from; None where the network's statistics are of those already."""
    some = [stacks[i] for i in np.random.default_rng([seed, 11]).permutation(len(stacks))[:MOST_IMAGES]]
    if learned is None:
        renewed = norms.renew_statistics(network, some, prior=PRIOR_CASES)
    else:
        renewed = norms.carry_statistics(network, some, learned, prior=PRIOR_CASES)
    if not entropy and not renewed:
        raise UserError(
            "there is no batch norm whose statistics could follow, or the data hold no case learned from"
        )
    if entropy:
        norms.descend_entropy(network, some, head, rate=ENTROPY_RATE, batch=BATCH, seed=seed)

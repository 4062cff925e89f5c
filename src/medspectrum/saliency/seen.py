"""A case as a predictor's network sees it, the score explained, and the way back to its own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import transforms
from medspectrum.case import Case
from medspectrum.engine import heads, planes
from medspectrum.errors import UserError
from medspectrum.image import Image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class View:
    """One picture that the network is shown: of which image, which slice of it along which axis."""

    role: str
    axis: int
    place: int


@dataclass(frozen=True)
class Seen:
    """What is explained of one case.

    module: batch (n, p, C, side, side) -> (n, c) logits, differentiable. network: the part of it that looks
    at pictures, or None where no part does alone. batch: (1, p, C, side, side), or of volumes
    (1, p, C, Z, Y, X). views: what each of the p pictures is. images: by role. column: of the logits, the one
    explained. alone: the score is of one slice, and says nothing of the others. extents: by role the part of
    the volume, turned to RAS, that a network for volumes is shown.
    """

    case: Case
    module: Any
    network: Any
    batch: torch.Tensor
    views: tuple[View, ...]
    images: dict[str, Image]
    column: int
    alone: bool = False
    extents: dict[str, tuple[slice, slice, slice]] | None = None

    @property
    def channels(self) -> int:
        """The axis of the batch along which channels lie."""
        return 2

    def score(self, batch: torch.Tensor) -> torch.Tensor:
        """(n,) the log odds of the class against all others."""
        import torch

        logits = self.module(batch)
        others = [i for i in range(logits.shape[1]) if i != self.column]
        return logits[:, self.column] - torch.logsumexp(logits[:, others], dim=1)

    def sureness(self, batch: torch.Tensor) -> torch.Tensor:
        """(n,) the probability of the class."""
        return self.score(batch).sigmoid()

    def by(self, module: Any, network: Any) -> Seen:
        """The same case before another network."""
        return replace(self, module=module, network=network)

    def back(self, maps: np.ndarray) -> dict[str, np.ndarray]:
        """Maps (p, side, side) over what the network saw as one (Z, Y, X) float32 on each image's own grid.

        Slices of a volume that were not shown lie between those that were, weighted by distance.
        """
        import torch

        if self.extents is not None:
            return {
                view.role: _into(maps[i], self.images[view.role], self.extents[view.role])
                for i, view in enumerate(self.views)
            }
        side = maps.shape[-1]
        found = {}
        for role, image in self.images.items():
            own = [(i, view) for i, view in enumerate(self.views) if view.role == role]
            if not own:
                found[role] = np.zeros(image.size, np.float32)
                continue
            axis = own[0][1].axis
            height, width = (n for i, n in enumerate(image.size) if i != axis)
            chosen = torch.from_numpy(np.stack([maps[i] for i, _ in own]).astype(np.float32))[:, None]
            flat = planes.to_plane(chosen, (height, width), side)[:, 0].numpy()
            if self.alone:
                found[role] = np.zeros(image.size, np.float32)
                np.moveaxis(found[role], axis, 0)[own[0][1].place] = flat[0]
            else:
                found[role] = _between(flat, [view.place for _, view in own], axis, image.size)
        return found

    def told_of(self, whole: np.ndarray) -> np.ndarray:
        """The part of (Z, Y, X) that the score is of: all, or the one slice."""
        if not self.alone:
            return whole
        view = self.views[0]
        return np.take(whole, view.place, axis=view.axis)


def _into(volume: np.ndarray, image: Image, extent: tuple[slice, slice, slice]) -> np.ndarray:
    """A map over the part of the turned volume that was looked at, on the image's own grid; 0 elsewhere."""
    import torch
    import torch.nn.functional as F

    numbers = transforms.oriented(Image(np.arange(np.prod(image.size)).reshape(1, *image.size), image.affine))
    part = numbers[0][extent]
    resized = F.interpolate(
        torch.from_numpy(np.array(volume, np.float32))[None, None],
        tuple(part.shape),
        mode="trilinear",
        align_corners=False,
    )
    made = np.zeros(int(np.prod(image.size)), np.float32)
    made[part.ravel()] = resized[0, 0].numpy().ravel()
    return made.reshape(image.size)


def _between(flat: np.ndarray, places: Sequence[int], axis: int, size: tuple[int, int, int]) -> np.ndarray:
    depth = size[axis]
    order = np.argsort(places, kind="stable")
    known = np.asarray(places, float)[order]
    wanted = np.arange(depth)
    above = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
    below = np.clip(above - 1, 0, None)
    below = np.where(known[above] <= wanted, above, below)
    gap = np.maximum(known[above] - known[below], 1e-9)
    share = np.clip((wanted - known[below]) / gap, 0, 1).astype(np.float32)[:, None, None]
    whole = flat[order[below]] * (1 - share) + flat[order[above]] * share
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis))


def see(predictor: Any, case: Case, column: int) -> Seen:
    """The case as the predictor's network sees it. Raises UserError where nothing can be differentiated."""
    import torch

    model = predictor.encoder if hasattr(predictor, "encoder") else predictor.model
    if getattr(model, "network", None) is None:
        raise UserError(
            f"{model.card.name} is no network here, so no score can be followed back into pictures"
        )
    images = {role: case.images[role].load() for role in sorted(case.images)}
    stack: list[np.ndarray] = []
    views: list[View] = []
    groups: list[tuple[int, int]] = []
    volumes = model.card.dims == 3
    extents = {role: _extent(model, image) for role, image in images.items()} if volumes else None
    for role, image in images.items():
        made = model.prepare(image)
        pictures = made[None] if volumes or made.ndim == 3 else made
        groups.append((len(stack), len(stack) + len(pictures)))
        stack.extend(pictures)
        views.extend([View(role, 0, 0)] if volumes else _views(role, image, model.most_slices))
    module, network, chosen = _module(predictor, model, groups, len(stack))
    batch = torch.from_numpy(np.stack([stack[i] for i in chosen]))[None]
    for part in module.parameters():
        part.requires_grad_(part.is_floating_point())
    return Seen(
        case, module, network, batch, tuple(views[i] for i in chosen), images, column, extents=extents
    )


def _extent(model: Any, image: Image) -> tuple[slice, slice, slice]:
    """What of the volume, turned to RAS, the model is shown. Raises UserError where it is unknown."""
    from medspectrum.models._volumes import extent

    found = extent(model.own_input, image)
    if found is None:
        raise UserError(
            f"{model.card.name} prepares its input in a way of its own, so no map finds its way back"
        )
    return found


def _views(role: str, image: Image, most: int) -> list[View]:
    if not image.is_volume:
        return [View(role, 0, 0)]
    axis = transforms.through_plane_axis(image) - 1
    return [View(role, axis, int(i)) for i in transforms.slice_places(image.size[axis], most)]


def _module(
    predictor: Any, model: Any, groups: list[tuple[int, int]], count: int
) -> tuple[Any, Any, np.ndarray]:
    """Module, the network in it, and which of the case's pictures it is shown."""
    if hasattr(predictor, "head"):
        head, network = predictor.head(), model.network()
        joined = sum(1 for _ in groups) * model.card.width == _width(head)
        return heads.on_features(network, head, groups, joined=joined), network, np.arange(count)
    pictures = int(predictor.settings["pictures"])
    # as ``methods._tuned.pictures`` chooses
    chosen = (
        np.array([count // 2]) if pictures == 1 else np.linspace(0, count - 1, pictures).round().astype(int)
    )
    return heads.of_tuned(predictor.module), predictor.module.network, chosen


def _width(head: Any) -> int:
    """How many features a head takes."""
    sizes = {name: tuple(part.shape) for name, part in head.named_parameters()}
    return sizes["weights"][0] if "weights" in sizes else next(s[0] for s in sizes.values() if len(s) == 1)

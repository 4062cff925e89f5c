"""Whole images outlined by a network that nnU-Net trained, as its plans say, without a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry
from medspectrum.case import Case
from medspectrum.datasets import _files
from medspectrum.datasets.nnunet import CHANNEL
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.models import _nnunet_whole
from medspectrum.models._nnunet_plans import Plans
from medspectrum.models.nnunet_folder import Trained, load
from medspectrum.progress import Progress

PREFIX = "nnunet:"
FLAT_SPACING_MM = 999.0
"""Between the slices of a picture, which has none: as nnU-Net reads pictures."""


def named(model: Path, cache: Path | None = None) -> Trained | None:
    """The network that ``nnunet:FOLDER`` or a row of such networks names; None where it is no such name.

    Raises UserError where there is no such folder, or a row's file is not in its place.
    """
    words = str(model)
    if words.startswith(PREFIX):
        return load(words.removeprefix(PREFIX))
    row = None if model.exists() else registry.entries("model").get(words)
    if row is None or row.facts["card"].file_format != "nnunet" or row.facts["card"].status == "card":
        return None
    found = row.thing(cache=cache)
    if not isinstance(found, Trained):
        raise UserError(
            f"{words} is of nnU-Net's first version, whose plans are a pickle that is not opened; "
            "give a network of the second as nnunet:FOLDER"
        )
    return found


def values_of(plans: Plans) -> dict[str, int]:
    """The value in masks of each label; of nested regions that of the voxels which no smaller one claims."""
    if plans.region_order:
        names = [name for name, own in plans.labels.items() if name != "ignore" and own not in (0, (0,))]
        return dict(zip(names, plans.region_order, strict=True))
    flat = {name: own[0] if isinstance(own, tuple) else own for name, own in plans.labels.items()}
    return {name: own for name, own in flat.items() if own and name != "ignore"}


def outliner(trained: Trained, cache: Path | None, progress: Progress) -> Callable[[Case, Image], np.ndarray]:
    """``(case, its image) -> (Z, Y, X) labels``, the network made ready once.

    Raises UserError there for a case with other channels than the network learned from, or whose images do
    not lie on one grid.
    """
    from medspectrum.engine.window_network import window_network

    plans = trained.plans
    step = progress.step("windows of an image")
    run = window_network(trained.network, roi=plans.patch, channels=len(plans.channels), cache=cache)

    def answer(case: Case, image: Image) -> np.ndarray:
        volume = channels_of(case, image, plans.channels)
        spacing = image.spacing_mm if image.is_volume else (FLAT_SPACING_MM, *image.spacing_mm[1:])
        turn: Any = _upright(image.affine) if plans.upright else None
        if turn is not None:
            volume, spacing = _turned(volume, turn), tuple(spacing[int(axis)] for axis in turn[0])
        labels = _nnunet_whole.labels_of(plans, run, volume, spacing, mirror=trained.mirror, progress=step)
        return labels if turn is None else _turned_back(labels, turn)

    return answer


def channels_of(case: Case, image: Image, names: Sequence[str]) -> np.ndarray:
    """(channels, Z, Y, X) of a case: its images in the order of their roles, or one image's own channels.

    Raises UserError where they are not as many as the network takes, or not on the grid of ``image``.
    """
    parts = []
    roles = list(names) if set(names) == set(case.images) else sorted(case.images)
    for role in roles:
        one = case.images[role].load()
        if one.size != image.size:
            raise UserError(f"its images have {one.size} and {image.size} voxels; bring them onto one grid")
        parts.append(one.array)
    volume = np.concatenate(parts)
    if len(names) == 1 and len(volume) == 3 and (volume[:1] == volume).all():
        volume = volume[:1]  # a grey picture stored in colour
    if len(volume) != len(names):
        raise UserError(
            f"has {len(volume)} channels, the network takes {len(names)}: {', '.join(names)}; name files as "
            "nnU-Net does (CASE_0000, CASE_0001)"
        )
    return volume


def together(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Cases whose files are single channels, ``CASE_0000``, ``CASE_0001``, as one case each; others as they
    are.
    """
    found: dict[str, dict[str, Case]] = {}
    for case in cases:
        told = CHANNEL.match(_files.stem(case.id)) if len(names) > 1 and len(case.images) == 1 else None
        if told is None or int(told["channel"]) >= len(names):
            return list(cases)
        found.setdefault(told["case"], {})[names[int(told["channel"])]] = case
    return [
        replace(
            own[next(iter(own))],
            id=name,
            images={n: next(iter(own[n].images.values())) for n in names if n in own},
        )
        for name, own in found.items()
    ]


def name_of(case: Case, file: str) -> str:
    """What a mask is called: as its image's file, without the channel where a case has several."""
    told = CHANNEL.match(file) if len(case.images) > 1 else None
    return told["case"] if told else file


def _upright(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(axes of (Z, Y, X) in the order of RAS, those to be flipped after) of an image."""
    from nibabel.orientations import io_orientation

    told = io_orientation(affine)  # of x, y, z: which axis of the body, and its direction
    place = {int(axis): 2 - own for own, (axis, _) in enumerate(told)}
    flip = {int(axis) for axis, way in told if way < 0}
    order = tuple(place[2 - a] for a in range(3))
    return order, tuple(a for a in range(3) if 2 - a in flip)


def _turned(volume: np.ndarray, turn: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    order, flip = turn
    moved = volume.transpose(0, *(axis + 1 for axis in order))
    return np.flip(moved, tuple(axis + 1 for axis in flip))


def _turned_back(labels: np.ndarray, turn: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    order, flip = turn
    return np.ascontiguousarray(np.flip(labels, flip).transpose(np.argsort(order)))

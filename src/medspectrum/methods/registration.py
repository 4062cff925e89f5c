"""Ways of bringing one image onto another, as methods to compare; none of them sees a label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medspectrum.case import Case, Model, Task
from medspectrum.engine.align.pipeline import STIFFNESS
from medspectrum.errors import UserError
from medspectrum.methods._registering import (
    RegisterPredictor,
    components,
    pair_of,
    predictor_for,
    restored,
)
from medspectrum.registry import method

if TYPE_CHECKING:
    from medspectrum.engine.encoder import Encoder

COMPONENTS = 16
FEATURE_WEIGHT = 1.0


def _no_itk() -> str:
    """Why SimpleITK's methods cannot be tried, or ''."""
    return "" if find_spec("SimpleITK") else 'needs SimpleITK: pip install "medspectrum[itk]"'


_alone: Any = partial(
    method,
    task="register",
    trains="nothing",
    restore=restored,
    needs_model=False,
    uses_labels=False,
    level="registration",
)
"""Registers a method that needs no encoder."""


@method(
    "unregistered",
    task="register",
    trains="nothing",
    cost=0,
    restore=restored,
    needs_model=False,
    uses_labels=False,
)
def unregistered(
    model: Model | None,  # noqa: ARG001 - every method is called alike
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
) -> RegisterPredictor:
    """Leave the images where their headers place them, or middle on middle: what others are compared with."""
    return predictor_for(task, "unregistered")


@_alone("rigid", cost=0)
def rigid(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
) -> RegisterPredictor:
    """Turn and shift, by blocks whose descriptors look alike, then all voxels."""
    return predictor_for(task, "rigid")


@_alone("affine", cost=0)
def affine(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
) -> RegisterPredictor:
    """Turn, shift, stretch and shear, from the rigid result on."""
    return predictor_for(task, "affine")


@_alone("demons", cost=1)
def demons(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
    pre: str = "rigid",
) -> RegisterPredictor:
    """Follow the slopes of brightness, of large images at half their resolution; for images of one contrast.

    pre: the start before it: rigid, affine or none.
    """
    return predictor_for(task, "demons", pre=pre)


@_alone("convex_adam", cost=1)
def convex_adam(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
    pre: str = "rigid",
    stiffness: float = STIFFNESS,
) -> RegisterPredictor:
    """Match MIND descriptors over many shifts, keep the coherent ones, refine by Adam; any contrasts.

    pre: the start before it: rigid, affine or none. stiffness: weight of an even field; more moves less.
    """
    return predictor_for(task, "convex_adam", pre=pre, stiffness=stiffness)


@method(
    "convex_adam_features",
    task="register",
    trains="nothing",
    cost=1,
    restore=restored,
    uses_labels=False,
)
def convex_adam_features(
    model: Encoder,
    cases: Sequence[Case],
    task: Task,
    *,
    seed: int = 0,
    pre: str = "rigid",
    stiffness: float = STIFFNESS,
    feature_weight: float = FEATURE_WEIGHT,
    count: int = COMPONENTS,
) -> RegisterPredictor:
    """The same with a frozen encoder's maps beside the descriptors: the encoder that classifies registers.

    feature_weight: what the maps count, descriptors count 1. count: principal components kept of them,
    found on images of the training part without their labels.
    """
    images = list({image.source: image for case in cases for image in pair_of(case)}.values())
    if not images:
        raise UserError("there is no pair to learn the encoder's components from; labels are not needed")
    mean, turn = components(model, images, count=count, seed=seed)
    settings = {"pre": pre, "stiffness": stiffness, "feature_weight": feature_weight}
    return RegisterPredictor(
        tuple(task.classes), tuple(task.settings()["values"]), "convex_adam", settings, model, mean, turn
    )


@_alone("itk_demons", cost=1, available=_no_itk)
def itk_demons(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
    pre: str = "rigid",
) -> RegisterPredictor:
    """SimpleITK's fast symmetric forces demons after its own rigid start; volumes only."""
    return predictor_for(task, "itk_demons", pre=pre)


@_alone("itk_bspline", cost=1, available=_no_itk)
def itk_bspline(
    model: Model | None,  # noqa: ARG001
    cases: Sequence[Case],  # noqa: ARG001
    task: Task,
    *,
    seed: int = 0,  # noqa: ARG001
    pre: str = "rigid",
) -> RegisterPredictor:
    """SimpleITK's B-splines by correlation after its own rigid start; volumes only."""
    return predictor_for(task, "itk_bspline", pre=pre)

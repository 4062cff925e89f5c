"""From two images to one displacement field: the working lattice, the start, the dense step.

Conventions, used everywhere: a field lies on the **fixed** image's grid, holds RAS mm, and maps a fixed
point to the moving point that belongs there; so the warped image is read at ``p + field(p)``.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from medspectrum.engine.align.affine import matched
from medspectrum.engine.align.alike import local_correlation, mind_distance
from medspectrum.engine.align.demons import demons_field
from medspectrum.engine.align.dense import convex_start, refine
from medspectrum.engine.align.grid import Grid, grid_of, inside, own_spacing, resampled, shrunk, working_grid
from medspectrum.engine.align.mind import constant, grey, locally_normalised, mind
from medspectrum.engine.align.move import finished, in_mm, resized
from medspectrum.engine.align.polish import polished
from medspectrum.engine.threads import one_blas_thread, one_torch_thread
from medspectrum.errors import UserError
from medspectrum.image import Image

METHODS = ("convex_adam", "demons", "affine", "rigid", "unregistered", "itk_demons", "itk_bspline")
STILL = ("rigid", "affine", "unregistered")
"""Methods that move no point against its neighbours but for a turn and stretch of the whole."""
STARTS = ("header", "centres")
MOST_START_VOXELS = 70_000
MOST_DENSE_VOXELS = 130_000
LEAST_OVERLAP = 0.05
LEAST_CORRELATION = 0.2
STIFFNESS = 0.3


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What a registration found.

    field: (Z, Y, X, 3) float32 on the fixed grid, RAS mm, fixed point to moving point. fixed: that grid.
    start: (4, 4) rigid or affine part, RAS mm; the field includes it. facts: method, seconds, overlap,
    and how alike both images are before and after (mean squared difference of MIND descriptors, 0 alike).
    """

    field: np.ndarray
    fixed: Grid
    start: np.ndarray
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@one_blas_thread
@one_torch_thread
def align(
    moving: Image,
    fixed: Image,
    *,
    method: str = "convex_adam",
    start: str = "header",
    pre: str = "rigid",
    features: tuple[Image, Image] | None = None,
    feature_weight: float = 1.0,
    stiffness: float = STIFFNESS,
    most_voxels: int = MOST_DENSE_VOXELS,
) -> Alignment:
    """Find where each point of the fixed image lies in the moving one.

    method: one of ``METHODS``; ``unregistered`` is the start alone. start: ``header`` trusts the files'
    positions; ``centres`` first puts the middles of both images onto each other. pre: ``rigid``,
    ``affine`` or ``none``, before a dense method.
    features: (of the moving, of the fixed), feature maps (C, Z, Y, X) with their affines, used beside the
    descriptors by ``convex_adam``. feature_weight: what they count beside them. stiffness: how much
    ``convex_adam`` holds the field even. most_voxels: of the working lattice; more are finer and slower.
    It runs on one thread: equal input gives equal bits, and several pairs may run side by side.

    Raises UserError where an image is blank, or where both do not overlap.
    """
    if method not in METHODS:
        raise UserError(f"there is no method {method!r} of registration; there are {', '.join(METHODS)}")
    if pre not in ("rigid", "affine", "none"):
        raise UserError(f"the step before a dense method is rigid, affine or none; got {pre!r}")
    for name, image in (("moving", moving), ("fixed", fixed)):
        if constant(image):
            raise UserError(f"the {name} image has the same value everywhere; there is nothing to align")
    began = time.perf_counter()
    first = start_map(moving, fixed, start)
    overlap = overlap_share(moving, fixed, first)
    if overlap < LEAST_OVERLAP:
        found = "do not overlap" if overlap == 0 else f"overlap by {overlap:.1%} of the smaller one only"
        raise UserError(
            f"the moving and the fixed image {found} where their files place them in space; "
            "ask for the start 'centres', which puts their middles onto each other, or correct the headers"
        )
    if method.startswith("itk_"):
        from medspectrum.engine.align import itk

        found_field, first = itk.run(moving, fixed, first, method=method, pre=pre)
        return _told(moving, fixed, found_field, first, method, start, overlap, began)
    a, b = grey(moving), grey(fixed)
    kind = method if method in ("rigid", "affine") else "none" if method == "unregistered" else pre
    if kind != "none":
        coarse = working_grid(grid_of(b), MOST_START_VOXELS)
        fine_a, fine_b = shrunk(a, own_spacing(a, coarse)), shrunk(b, coarse.spacing_mm)
        first = matched(fine_a, fine_b, coarse, first, rigid=True)
        first = polished(fine_a, fine_b, coarse, first, rigid=True)
        if kind == "affine":
            first = matched(fine_a, fine_b, coarse, first, rigid=False, rounds=((4, 2), (3, 2), (3, 2)))
            first = polished(fine_a, fine_b, coarse, first, rigid=False)
    if method in STILL:
        import torch

        one = grid_of(b).with_size((1, 1, 1))
        found_field = in_mm(torch.zeros((3, 1, 1, 1)), one, grid_of(b), first)
    elif method == "demons":
        found_field = demons_field(a, b, first, most_voxels=most_voxels)
    else:
        grid = working_grid(grid_of(b), most_voxels)
        found_field = _convex_adam(a, b, grid, first, features, feature_weight, stiffness)
    return _told(moving, fixed, found_field, first, method, start, overlap, began)


def _convex_adam(
    moving: Image,
    fixed: Image,
    grid: Grid,
    first: np.ndarray,
    features: tuple[Image, Image] | None,
    feature_weight: float,
    stiffness: float,
) -> np.ndarray:
    import torch

    finest = min(grid.spacing_mm)
    aspect = [s / finest for s in grid.spacing_mm]
    there = resampled(shrunk(moving, own_spacing(moving, grid)), grid, first)[0]
    here = resampled(shrunk(fixed, grid.spacing_mm), grid)[0]
    covered = inside(grid_of(moving), grid, first)
    a, b = _described(there, here, covered, aspect)
    if features is not None:
        scale = feature_weight**0.5 * _feature_scale(features)
        more = (resampled(features[0], grid, first), resampled(features[1], grid))
        a, b = torch.cat((a, more[0] * scale)), torch.cat((b, more[1] * scale))
    block = [max(1, round(3 / s)) for s in aspect]
    field = convex_start(b, a, block=block, reach=2)
    field = refine(b, a, field, stiffness=stiffness, covered=covered, aspect=aspect)
    return finished(field, grid, grid_of(fixed), first)


def _described(moving: Any, fixed: Any, covered: Any, aspect: list[float]) -> tuple[Any, Any]:
    """Descriptors of both; brightness beside them where it goes along (equal contrasts)."""
    import torch

    a, b = mind(moving, aspect=aspect), mind(fixed, aspect=aspect)
    bright = [locally_normalised(v, aspect=aspect) for v in (moving, fixed)]
    if local_correlation(bright[0], bright[1], covered) < LEAST_CORRELATION:
        return a, b
    return torch.cat((a, 0.5 * bright[0])), torch.cat((b, 0.5 * bright[1]))


def start_map(moving: Image, fixed: Image, start: str) -> np.ndarray:
    """(4, 4), RAS mm, fixed to moving. Raises UserError for a start that does not exist."""
    if start not in STARTS:
        raise UserError(f"there is no start {start!r}; there are {', '.join(STARTS)}")
    made = np.eye(4)
    if start == "centres":
        made[:3, 3] = grid_of(moving).centre_mm - grid_of(fixed).centre_mm
    return made


def overlap_share(moving: Image, fixed: Image, through: np.ndarray) -> float:
    """The volume that both share, by that of the smaller one; 0 to 1."""
    grid = working_grid(grid_of(fixed), MOST_START_VOXELS)
    shared = float(inside(grid_of(moving), grid, through).float().mean())
    volumes = [float(np.prod(g.size) * np.prod(g.spacing_mm)) for g in (grid_of(fixed), grid_of(moving))]
    return min(1.0, shared * volumes[0] / min(volumes))


def _feature_scale(features: tuple[Image, Image]) -> float:
    """Brings feature maps to a mean square of 1 together, as the descriptors' sum is of that order."""
    mean = np.mean([float(np.square(f.array, dtype=np.float64).sum(axis=0).mean()) for f in features])
    return float(1 / np.sqrt(max(mean, 1e-12)))


def _told(
    moving: Image,
    fixed: Image,
    found: np.ndarray,
    first: np.ndarray,
    method: str,
    start: str,
    overlap: float,
    began: float,
) -> Alignment:
    import torch

    seconds = time.perf_counter() - began
    a, b = grey(moving), grey(fixed)
    lattice = working_grid(grid_of(b), MOST_START_VOXELS)
    whole = torch.from_numpy(np.ascontiguousarray(np.moveaxis(found, -1, 0)))
    before = mind_distance(a, b, lattice, start_map(moving, fixed, start))
    after = mind_distance(a, b, lattice, np.eye(4), resized(whole, lattice.size))
    facts = {
        "method": method,
        "start": start,
        "seconds": round(seconds, 3),
        "overlap": round(overlap, 4),
        "mind_distance_before": round(before, 5),
        "mind_distance_after": round(after, 5),
    }
    return Alignment(found, grid_of(fixed), first, facts)

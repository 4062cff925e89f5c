"""Asymmetric volumes with known motion, for tests of registration and of geometry."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from medspectrum.image import Image

SPOTS_MM = np.array(
    [(-10, -6, -7), (9, -8, 2), (-4, 9, 6), (7, 7, -8), (0, 0, 0), (-9, 4, -2), (4, -3, 9)], float
)
SIZES_MM = np.array([4.5, 3.5, 5.0, 3.0, 6.0, 2.8, 3.3])
BRIGHTNESS = np.array([1.0, 0.7, 0.5, 0.9, 0.35, 0.8, 0.6])


def brightness(points_mm: np.ndarray) -> np.ndarray:
    """Seven soft balls of different size and brightness, no symmetry among them, at points (..., 3)."""
    made = np.zeros(points_mm.shape[:-1])
    for spot, size, bright in zip(SPOTS_MM, SIZES_MM, BRIGHTNESS, strict=True):
        distance = np.linalg.norm(points_mm - spot, axis=-1)
        made += bright / (1 + np.exp((distance - size) / 0.5))
    return made


def labels_at(points_mm: np.ndarray) -> np.ndarray:
    """The number of the ball (1 to 7) that a point lies in, else 0."""
    made = np.zeros(points_mm.shape[:-1], np.uint8)
    for number, (spot, size) in enumerate(zip(SPOTS_MM, SIZES_MM, strict=True), start=1):
        made[np.linalg.norm(points_mm - spot, axis=-1) < size] = number
    return made


def lattice_mm(size: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """(Z, Y, X, 3): where the voxels lie, RAS mm."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    return np.stack((x, y, z), axis=-1) @ affine[:3, :3].T + affine[:3, 3]


def centred(size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """An affine, axes along RAS, that puts the middle of the lattice at 0; both in the order Z, Y, X."""
    made = np.diag([*spacing_mm[::-1], 1.0])
    made[:3, 3] = -made[:3, :3] @ ((np.array(size[::-1]) - 1) / 2)
    return made


def phantom(
    size: tuple[int, int, int] = (36, 36, 36),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    affine: np.ndarray | None = None,
    back=lambda points: points,
    kind: type = np.float32,
    of=brightness,
) -> Image:
    """The balls seen at ``back(p)``: so a fixed image with ``back`` = phi matches a moving one without."""
    affine = centred(size, spacing_mm) if affine is None else affine
    values = of(back(lattice_mm(size, affine)))
    scaled = values * 1000 if of is brightness and np.dtype(kind).kind in "iu" else values
    return Image(scaled[None].astype(kind), affine, "MR")


def turned(image: Image, order: tuple[int, int, int], flips: tuple[int, int, int]) -> Image:
    """The same picture in the same place, stored with its axes (x, y, z) in another order and direction."""
    array = np.transpose(image.array[0], (2, 1, 0))  # x, y, z
    matrix = np.eye(4)
    array = np.transpose(array, order)
    matrix[:3, :3] = np.eye(3)[:, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            turn = np.eye(4)
            turn[axis, axis], turn[axis, 3] = -1, array.shape[axis] - 1
            matrix = matrix @ turn
    stored = np.ascontiguousarray(np.transpose(array, (2, 1, 0)))[None]
    return Image(stored, image.affine @ matrix, image.modality)


ALL_48 = [(order, flips) for order in permutations(range(3)) for flips in product((0, 1), repeat=3)]


def turn_about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """(3, 3) rotation."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def wave(points_mm: np.ndarray, *, height_mm: float = 2.0, length_mm: float = 30.0) -> np.ndarray:
    """A smooth displacement (..., 3) without folds."""
    x, y, z = np.moveaxis(points_mm, -1, 0)
    k = 2 * np.pi / length_mm
    return height_mm * np.stack((np.sin(k * y), np.cos(k * z), np.sin(k * x + 1)), axis=-1)

"""How bright and of which colours a set of images is, and what makes another set look like it.

Grey images have a mean quantile function, which others are made to follow. Colours are told as optical
densities, in which stains add up (Ruifrok and Johnston, 2001), by three facts of each picture: its *light*
(density where it is brightest), the *spread* of each stain's amount, and its mean. Where the light is as it
was, only the stains can differ: each stain's amount gets a gain, which leaves white what is white. Where the
light differs too, so may everything, and mean and covariance of the densities become those of the other set
(Pitie and Kokaram, "The linear Monge-Kantorovitch linear colour mapping", 2007). Differences are shrunk by
what pictures of one set differ by among themselves (James and Stein, 1961), so that a few pictures of the
same lab are left as they are. One map for all images of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from medspectrum.case import LazyImage
from medspectrum.distort import STAINS
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.image import Image
from medspectrum.shifts import like, values_of

LOOKED_AT = {"picture": 48, "volume": 8}  # images whose intensities are looked at: it has to cost no time
QUANTILES = np.linspace(0, 1, 129)
LIGHT = 0.02
"""Quantile of a picture's densities that tells its light."""
OTHER_LIGHT = 0.05
"""Change of that density (an eighth of a photographic stop) from which the light is another one."""
SURE = 2.0
"""Standard errors within which two sets do not differ."""
_PIXELS = 20_000

Change = partial[Image]
"""Image -> Image; its arguments are arrays, by which the change is known again."""


def evenly(some: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly chosen."""
    if len(some) <= most:
        return list(some)
    return [some[i] for i in np.linspace(0, len(some) - 1, most).astype(int)]


def unit_values(image: Image) -> np.ndarray:
    """(C, n) evenly chosen intensities: on 0-1, of CT in HU over 400."""
    values, offset, span = values_of(image)
    flat = values.reshape(len(values), -1)
    step = max(1, flat.shape[1] // _PIXELS)
    return (flat[:, ::step] - offset) / span


def densities(unit: np.ndarray) -> np.ndarray:
    """Optical density of intensities on 0-1."""
    return -np.log(np.clip(unit, 1 / 255, 1.0))


def intensities(images: Sequence[LazyImage]) -> dict[str, np.ndarray]:
    """Of grey images the mean quantile function; of colour ones mean, covariance, light and spread.

    {} where none can be read. At most 48 pictures or 8 volumes are looked at, evenly chosen. Light and spread
    (of the log of each stain's deviation) come with the variance of their means over pictures.
    """
    curves: list[np.ndarray] = []
    colours: list[np.ndarray] = []
    some, read = evenly(images, LOOKED_AT["picture"]), 0
    for lazy in some:
        try:
            image = lazy.load()
        except (UserError, UnreadableFile, OSError, ValueError):
            continue
        unit = unit_values(image)
        if len(unit) == 3:
            colours.append(densities(unit))
        else:
            curves.append(np.quantile(unit.mean(axis=0), QUANTILES))
        read += 1
        if image.is_volume and read >= LOOKED_AT["volume"]:
            break
    if colours and len(colours) >= len(curves):
        whole = np.concatenate(colours, axis=1)
        return {"colour_mean": whole.mean(axis=1), "colour_covariance": np.cov(whole), **_facts(colours)}
    return {"intensity_curve": np.mean(curves, axis=0)} if curves else {}


def _stains() -> np.ndarray:
    """(3, 3): rows are the stains' densities in red, green and blue, of length one."""
    vectors = np.array(STAINS)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _facts(colours: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Light and spread of pictures, (3, n) densities each, and the variance of their means."""
    apart = np.linalg.inv(_stains()).T
    each = {
        "light": np.array([np.quantile(c, LIGHT, axis=1) for c in colours]),
        "spread": np.array([np.log((apart @ c).std(axis=1) + 1e-3) for c in colours]),
    }
    found = {}
    for name, rows in each.items():
        found[f"colour_{name}"] = rows.mean(axis=0)
        found[f"colour_{name}_error"] = rows.var(axis=0) / len(rows)
    return found


def _differ(here: np.ndarray, there: np.ndarray, error: np.ndarray) -> np.ndarray:
    """What is between two means beyond chance. error: variance of the difference."""
    off = there - here
    return off * np.clip(1 - SURE**2 * error / np.maximum(off**2, 1e-12), 0, 1)


def change_between(here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray]) -> Change | None:
    """What makes images with ``intensities`` here look like those there; None where their kinds differ."""
    if "intensity_curve" in here and "intensity_curve" in there:
        return partial(_follow_curve, here["intensity_curve"], there["intensity_curve"])
    if not ("colour_mean" in here and "colour_mean" in there):
        return None
    if "colour_light" in there:
        error = {n: here[f"colour_{n}_error"] + there[f"colour_{n}_error"] for n in ("light", "spread")}
        light = _differ(here["colour_light"], there["colour_light"], error["light"])
        if np.abs(light).max() < OTHER_LIGHT:
            gain = np.exp(_differ(here["colour_spread"], there["colour_spread"], error["spread"]))
            matrix = _stains().T @ np.diag(gain) @ np.linalg.inv(_stains()).T
            left = matrix**2 @ here["colour_light_error"] + there["colour_light_error"]
            light = _differ(matrix @ here["colour_light"], there["colour_light"], left)
            return partial(_follow_colours, matrix, np.zeros(3), light)
    matrix = _transport(here["colour_covariance"], there["colour_covariance"])
    return partial(_follow_colours, matrix, here["colour_mean"], there["colour_mean"])


def _follow_curve(here: np.ndarray, there: np.ndarray, image: Image) -> Image:
    values, offset, span = values_of(image)
    rising = np.maximum.accumulate(here + 1e-9 * QUANTILES)
    unit = (values - offset) / span
    made = np.interp(unit, rising, there)
    beyond = np.where(unit < rising[0], unit - rising[0], np.where(unit > rising[-1], unit - rising[-1], 0.0))
    return like(image, ((made + beyond) * span + offset).astype(np.float32))


def _transport(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The symmetric matrix that turns one covariance into another with the least movement."""

    def root(matrix: np.ndarray, power: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.maximum(values, 1e-8) ** power) @ vectors.T

    outer, inner = root(here, 0.5), root(here, -0.5)
    return inner @ root(outer @ there @ outer, 0.5) @ inner


def _follow_colours(matrix: np.ndarray, here: np.ndarray, there: np.ndarray, image: Image) -> Image:
    values, offset, span = values_of(image)
    density = densities((values - offset) / span).reshape(3, -1)
    made = np.exp(-(matrix @ (density - here[:, None]) + there[:, None]))
    return like(image, (np.clip(made, 0, 1) * span + offset).reshape(values.shape).astype(np.float32))

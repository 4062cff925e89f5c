"""Whole slides: an overview, and tiles at a wanted resolution where there is tissue.

OpenSlide reads them if it is installed (extra ``openslide``), else tiffslide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import formats, store
from medspectrum.case import LazyImage
from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import check_pixels
from medspectrum.image import Image

OVERVIEW_PIXELS = 2048
MAX_LEVEL_PIXELS = 64_000_000


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open slide. Raises UnreadableFile where neither reader can open it."""
    import tiffslide

    try:
        import openslide
    except ImportError:
        openslide = None
    slide = None
    if openslide is not None:
        try:
            slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError):
            slide = None  # not one of its formats; tiffslide knows generic tiled TIFF
    if slide is None:
        slide = tiffslide.TiffSlide(str(path))
    try:
        yield slide
    finally:
        slide.close()


def microns_per_pixel(slide: Any) -> tuple[float, float] | None:
    """Size of a pixel of the finest level along (x, y) in micrometres, if the file knows."""
    names = ("openslide.mpp-x", "openslide.mpp-y"), ("tiffslide.mpp-x", "tiffslide.mpp-y")
    for across, down in names:
        try:
            x, y = float(slide.properties[across]), float(slide.properties[down])
        except (KeyError, TypeError, ValueError):
            continue
        if x > 0 and y > 0:
            return x, y
    return None


def read(path: Path, *, longest: int = OVERVIEW_PIXELS) -> Image:
    """An overview of the slide: the coarsest level that has ``longest`` pixels, reduced to that."""
    with opened(path) as slide:
        wide, high = slide.dimensions
        if wide < 1 or high < 1:
            raise UnreadableFile(path, "is a slide without pixels; copy it again from its source")
        reduce = max(wide, high) / longest
        level = slide.get_best_level_for_downsample(max(reduce, 1.0))
        while level + 1 < slide.level_count and np.prod(slide.level_dimensions[level]) > MAX_LEVEL_PIXELS:
            level += 1  # a coarser overview is better than none
        level_wide, level_high = slide.level_dimensions[level]
        check_pixels(level_wide, level_high, path)
        picture = slide.read_region((0, 0), level, (level_wide, level_high))
        if max(level_wide, level_high) > longest:
            picture.thumbnail((longest, longest))
        mpp = microns_per_pixel(slide)
    array = _over_white(np.asarray(picture))
    return _image(array, mpp, wide / array.shape[1], high / array.shape[0], (0, 0))


def _over_white(array: np.ndarray) -> np.ndarray:
    if array.shape[-1] == 3:
        return array
    share = array[..., 3:].astype(np.float32) / 255
    return np.rint(array[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def _image(
    array: np.ndarray,
    mpp: tuple[float, float] | None,
    reduce_x: float,
    reduce_y: float,
    corner: tuple[int, int],
) -> Image:
    affine = np.eye(4)
    if mpp is not None:
        affine[0, 0], affine[1, 1] = mpp[0] * reduce_x / 1000, mpp[1] * reduce_y / 1000
        affine[:2, 3] = corner[0] * mpp[0] / 1000, corner[1] * mpp[1] / 1000
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0)[:, None])
    return Image(planes, affine, modality="SM", spacing_known=mpp is not None)


@dataclass(frozen=True, slots=True)
class Tile:
    """Where a tile lies: corner (x, y) and side in pixels of the finest level; pixels it is given in."""

    path: str
    x: int
    y: int
    side: int
    pixels: int

    def __call__(self) -> Image:
        """Read the tile."""
        with opened(Path(self.path)) as slide:
            reduce = self.side / self.pixels
            level = slide.get_best_level_for_downsample(max(reduce, 1.0))
            side = max(1, round(self.side / slide.level_downsamples[level]))
            picture = slide.read_region((self.x, self.y), level, (side, side))
            if side != self.pixels:
                picture = picture.resize((self.pixels, self.pixels))
            mpp = microns_per_pixel(slide)
        return _image(_over_white(np.asarray(picture)), mpp, reduce, reduce, (self.x, self.y))


@dataclass(frozen=True, slots=True)
class TileKey:
    """Digest of a tile: that of its slide and its place."""

    tile: Tile

    def __call__(self) -> str:
        """Digest it."""
        place = [self.tile.x, self.tile.y, self.tile.side, self.tile.pixels]
        return store.digest("tile", formats.key(self.tile.path), place)


def tiles(
    path: str | Path, *, pixels: int = 224, mpp: float = 0.5, tissue: float = 0.5, most: int = 0
) -> list[LazyImage]:
    """Tiles of ``pixels`` x ``pixels`` at ``mpp`` micrometres per pixel where there is tissue.

    tissue: least share of a tile that is tissue (0 takes all). most: evenly thinned to that many; 0 keeps
    all. Where the file does not know its resolution, tiles are cut at the finest level.
    """
    path = Path(path)
    with opened(path) as slide:
        known = microns_per_pixel(slide)
        side = round(pixels * (mpp / known[0] if known else 1.0))
        side = max(side, 1)
        wide, high = slide.dimensions
    mask = tissue_mask(read(path, longest=1024))
    found = []
    for y in range(0, high - side + 1, side):
        for x in range(0, wide - side + 1, side):
            rows = slice(y * mask.shape[0] // high, max((y + side) * mask.shape[0] // high, 1))
            columns = slice(x * mask.shape[1] // wide, max((x + side) * mask.shape[1] // wide, 1))
            part = mask[rows, columns]
            if tissue <= 0 or (part.size and part.mean() >= tissue):
                found.append(Tile(str(path), x, y, side, pixels))
    if most and len(found) > most:
        found = [found[i] for i in np.linspace(0, len(found) - 1, most).round().astype(int)]
    return [LazyImage(f"{path}#x={t.x},y={t.y},side={t.side}", t, TileKey(t)) for t in found]


def tissue_mask(image: Image) -> np.ndarray:
    """(Y, X) bool: coloured rather than glass, by Otsu's threshold of saturation (Otsu 1979)."""
    colour = image.array[:, 0].astype(np.float32)
    top, low = colour.max(axis=0), colour.min(axis=0)
    saturation = np.where(top > 0, (top - low) / np.maximum(top, 1), 0)
    counts, edges = np.histogram(saturation, bins=256, range=(0, 1))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    threshold = max(middle[int(np.nanargmax(between))] if np.isfinite(between).any() else 0.0, 0.03)
    return (saturation > threshold) & (top > 20)

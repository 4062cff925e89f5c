"""PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 pictures, 8 and 16 bit, grey and colour.

What becomes of special kinds: transparency is laid over white (the usual background of scanned and
microscopic pictures); a palette is looked up; a grey palette or a colour picture stays as it is
stored otherwise; CMYK becomes RGB; 1-bit pictures become 0 and 255; the EXIF orientation is applied.
Several frames (GIF, multi-page TIFF) stand along Z. No physical size is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import MAX_PIXELS, check_bytes, check_pixels, finite
from medspectrum.image import Image

MAX_FRAMES = 512


def read(path: Path) -> Image:
    """Read a raster file other than TIFF. Raises UnreadableFile or what the decoder raises."""
    from PIL import Image as pil

    try:
        opened = pil.open(path)
    except pil.DecompressionBombError as error:
        raise UnreadableFile(
            path,
            f"holds more than {MAX_PIXELS:,} pixels, the limit; make a smaller copy, "
            "or a tiled pyramid TIFF, which is read in parts",
        ) from error
    with opened as picture:
        check_pixels(picture.width, picture.height, path)
        frames = min(getattr(picture, "n_frames", 1), MAX_FRAMES)
        check_bytes((frames, picture.height, picture.width, 3), 1, path)
        planes = []
        for frame in range(frames):
            if frames > 1:
                picture.seek(frame)
            planes.append(_plane(picture))
    channels = max(plane.shape[0] for plane in planes)
    planes = [np.repeat(p, channels, axis=0) if p.shape[0] < channels else p for p in planes]
    return flat(finite(np.stack(planes, axis=1), path))


def flat(array: np.ndarray) -> Image:
    """An image without physical size."""
    return Image(np.ascontiguousarray(array), spacing_known=False)


def _plane(picture: Any) -> np.ndarray:
    """One decoded frame as (C, Y, X)."""
    from PIL import ImageOps

    mode = picture.mode
    if picture.getexif().get(0x0112, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        array = _over_white(np.asarray(picture))
        same = (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
        array = array[..., 0] if same else array
    elif mode == "1":
        array = np.asarray(picture.convert("L"))
    elif mode in ("RGBA", "LA", "La", "RGBa", "PA"):
        straight = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA"}.get(mode, mode)
        array = _over_white(np.asarray(picture if straight == mode else picture.convert(straight)))
    elif mode in ("L", "RGB", "I;16", "I;16L", "I;16B", "I", "F"):
        array = np.asarray(picture)
        if mode == "I;16B":
            array = array.astype(np.uint16)
    else:
        array = np.asarray(picture.convert("RGB"))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _over_white(array: np.ndarray) -> np.ndarray:
    """Lay (Y, X, grey + alpha or RGBA) over white; a fully opaque picture is unchanged."""
    if array.ndim == 2 or array.shape[-1] in (1, 3):
        return array
    top = float(np.iinfo(array.dtype).max)
    colour, alpha = array[..., :-1], array[..., -1:]
    if (alpha == alpha.dtype.type(top)).all():
        return colour[..., 0] if colour.shape[-1] == 1 else colour
    share = alpha.astype(np.float32) / top
    laid = np.rint(colour * share + top * (1 - share)).astype(array.dtype)
    return laid[..., 0] if laid.shape[-1] == 1 else laid


def read_tiff(path: Path) -> Image:
    """Read a TIFF: 8, 16, 32 bit or float, planar or not, several pages along Z."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise UnreadableFile(path, "is a TIFF without a picture; export it again")
        series = tiff.series[0]
        page = tiff.pages.first
        wide, high = int(page.imagewidth), int(page.imagelength)
        if wide * high > MAX_PIXELS and page.is_tiled:
            from medspectrum.formats import slide

            return slide.read(path)
        check_pixels(wide, high, path)
        check_bytes(series.shape, series.dtype.itemsize if series.dtype else 8, path)
        array = series.asarray()
        axes = series.axes
        photometric = page.photometric
        extra = len(page.extrasamples or ())
        palette = page.colormap
    channel_axis = axes.find("S") if "S" in axes else axes.find("C")
    if channel_axis >= 0:
        array = np.moveaxis(array, channel_axis, 0)
        axes = axes[:channel_axis] + axes[channel_axis + 1 :]
    else:
        array = array[None]
    high, wide = axes.find("Y") + 1, axes.find("X") + 1
    if high < 1 or wide < 1:
        raise UnreadableFile(path, f"has TIFF axes {series.axes}, which are not a picture's")
    array = np.moveaxis(array, (high, wide), (-2, -1))
    array = array.reshape(array.shape[0], -1, *array.shape[-2:])
    if photometric == tifffile.PHOTOMETRIC.PALETTE and palette is not None and array.shape[0] == 1:
        array = (np.asarray(palette)[:, array[0]] >> 8).astype(np.uint8)
    elif photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind in "ub":
        array = ~array if array.dtype.kind == "b" else np.iinfo(array.dtype).max - array
    elif photometric in (tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.SEPARATED) and array.shape[0] >= 3:
        array = read(path).array  # colour spaces that the general reader converts
    elif extra and array.shape[0] in (2, 4) and array.dtype.kind == "u":
        laid = _over_white(np.moveaxis(array, 0, -1))
        array = laid[None] if laid.ndim == 3 else np.moveaxis(laid, -1, 0)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    return flat(finite(array, path))
